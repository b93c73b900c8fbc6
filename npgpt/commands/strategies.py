"""`npgpt strategies`: the catalogue, and one strategy explained with five tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from npgpt.commands._shared import echo_json, json_option
from npgpt.commands._words import complete
from npgpt.decoding.catalogue import find, strategies
from npgpt.decoding.catalogue.entry import SECTIONS, Strategy
from npgpt.decoding.catalogue.kinds import Parameter
from npgpt.decoding.examples import worked_example


def _names() -> Iterator[str]:
    for strategy in strategies():
        yield strategy.name.replace(" ", "-")
        yield from (parameter.name for parameter in strategy.parameters)


@click.command()
@click.argument("name", required=False, shell_complete=complete(_names))
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List every decoding strategy, or explain the one called NAME.

    NAME is a code (C4), a name (min-p) or a parameter (min_p).

    Example: npgpt strategies min-p
    """
    if name is None:
        _list(as_json)
        return
    found = [s for s in strategies() if s.code.casefold() == name.casefold()]
    found = found or [find(name)]
    if as_json:
        fields = [
            _fields(strategy) | {"example": worked_example(strategy)}
            for strategy in found
        ]
        echo_json(fields[0] if len(fields) == 1 else {found[0].code: fields})
        return
    for i, strategy in enumerate(found):
        if i:
            click.echo()
        _explain(strategy)


def _explain(strategy: Strategy) -> None:
    function = strategy.explains or strategy.function
    _, start = inspect.getsourcelines(function)
    where = function.__module__.replace(".", "/") + ".py"
    click.secho(f"{strategy.name} ({strategy.code})", bold=True)
    click.echo(strategy.line)
    rows = [
        ("formula", strategy.formula),
        ("source", f"{where}:{start}"),
        ("paper", strategy.paper),
        ("acts as", strategy.kind),
    ]
    rows += [(p.name, _describe(p)) for p in strategy.parameters]
    if not strategy.parameters:
        rows.append(("turned on", strategy.switch))
    width = max(len(title) for title, text in rows if text)
    for title, text in rows:
        if text:
            click.echo(f"  {title:<{width}}  {text}")
    click.echo("\n" + strategy.doc.split(">>>")[0].strip())
    click.echo("\n" + worked_example(strategy))


def _list(as_json: bool) -> None:
    sections = {
        title: [s for s in strategies() if s.section == title]
        for title in SECTIONS.values()
    }
    if as_json:
        echo_json(
            {title: list(map(_fields, found)) for title, found in sections.items()}
        )
        return
    for title, found in sections.items():
        click.secho(title, bold=True)
        for s in found:
            click.echo(f"  {s.code:<4} {s.name}: {s.line}")
            names = ", ".join(p.name for p in s.parameters)
            details = "; ".join(text for text in (names, s.paper) if text)
            if details:
                click.secho(f"       {details}", dim=True)


def _describe(parameter: Parameter) -> str:
    allowed = parameter.bounds or "|".join(map(str, parameter.choices))
    allowed = f" ({allowed})" if allowed else ""
    return f"{parameter.help}{allowed} Default {parameter.default!r}."


def _fields(strategy: Strategy) -> dict[str, Any]:
    function = strategy.function
    return {
        "code": strategy.code,
        "name": strategy.name,
        "line": strategy.line,
        "formula": strategy.formula,
        "function": f"{function.__module__}.{function.__qualname__}",
        "kind": strategy.kind,
        "paper": strategy.paper,
        "parameters": [
            {"name": p.name, "kind": p.kind, "default": p.default, "help": p.help}
            for p in strategy.parameters
        ],
    }
