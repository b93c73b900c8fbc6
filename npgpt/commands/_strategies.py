"""Command-line options of decoding, made from the catalogue: one each parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from npgpt.decoding.catalogue import SECTIONS
from npgpt.decoding.catalogue.entry import Parameter
from npgpt.decoding.options import OPTIONS

SEEN = ("temperature", "top_k", "top_p", "min_new_tokens")  # the verb's own
FILES = ("grammar", "json_schema")  # @FILE is the text of a file


def option_name(parameter: str) -> str:
    """The flag of a parameter.

    >>> option_name("min_p")
    '--min-p'
    """
    return "--" + parameter.replace("_", "-")


class StrategyCommand(click.Command):
    """A command whose help lists strategy options by section, after its own."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The verb's own options, then one block a section."""
        params = self.get_params(ctx)
        own = [
            p
            for p in params
            if isinstance(p, click.Option) and not hasattr(p, "section")
        ]
        records = [r for p in own if (r := p.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(records)
        for section in SECTIONS:
            lines = [
                r
                for p in self.get_params(ctx)
                if getattr(p, "section", None) == section
                and (r := p.get_help_record(ctx))
            ]
            if lines:
                with formatter.section(section):
                    formatter.write_dl(lines)


def strategy_options(function: Callable) -> Callable:
    """Every parameter of every strategy as an option; --chain and --set besides."""
    command_options = []
    done = {*SEEN, "do_sample"}
    for section, strategies in SECTIONS.items():
        for strategy in strategies:
            for parameter in strategy.parameters:
                if parameter.name not in done and parameter.kind != "function":
                    done.add(parameter.name)
                    what = strategy.name if parameter is strategy.parameters[0] else ""
                    command_options.append(_option(parameter, section, what))
    for option in reversed(command_options):
        function = option(function)
    return click.option(
        "--chain",
        help="Order of the rules: hf, llama.cpp, vllm, or names: "
        '"penalties;top_k;temperature"  [default: hf]',
    )(function)


def _option(parameter: Parameter, section: str, strategy: str) -> Callable:
    """One option; the first of a strategy's names it."""

    class Option(click.Option):
        pass

    Option.section = section
    flag = parameter.kind == "flag"
    kind: dict[str, Any] = {} if flag else {"metavar": _metavar(parameter)}
    shown = parameter.default
    tail = "" if flag or shown in (None, (), {}, "") else f"  [default: {_show(shown)}]"
    what = f"{strategy[0].upper()}{strategy[1:]}: " if strategy else ""
    what += parameter.help + " @FILE reads it." * (parameter.name in FILES)
    return click.option(
        option_name(parameter.name),
        parameter.name,
        is_flag=flag,
        default=None,
        flag_value=True if flag else None,
        cls=Option,
        help=what + tail,
        **kind,
    )


def _metavar(parameter: Parameter) -> str:
    if parameter.kind == "choice":
        return "|".join(map(str, parameter.choices))
    names = {
        "model": "MODEL",
        "models": "MODEL,...",
        "number": "X",
        "whole": "N",
        "text": "TEXT",
        "texts": "JSON|TEXT",
    }
    return names.get(parameter.kind, "JSON")


def _show(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) < 30 else text[:27] + "..."


def parsed(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, with texts turned into values."""
    return {
        name: _parse(OPTIONS[name], value) if isinstance(value, str) else value
        for name, value in options.items()
        if value is not None
    }


def _parse(parameter: Parameter, text: str) -> Any:
    if parameter.kind == "model":
        return _load(text)
    if parameter.kind == "models":
        return [_load(name.strip()) for name in text.split(",")]
    return parameter.parse(_text(text, parameter) if parameter.name in FILES else text)


def _text(text: str, parameter: Parameter) -> str:
    """The text itself, or that of the file it names."""
    flag, file = option_name(parameter.name), Path(text.removeprefix("@"))
    if not text.startswith("@"):
        if len(text) < 256 and file.is_file():
            raise click.UsageError(
                f"{flag} is the text itself; write {flag} @{text} to read that file"
            )
        return text
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise click.UsageError(f"{flag} {text} cannot be read: {reason}") from None


def _load(name: str) -> Any:
    """A second model, on the backend and in the dtype of the first."""
    from npgpt.commands._shared import load_model

    given = click.get_current_context().params
    return load_model(name, given["backend"], given["dtype"])
