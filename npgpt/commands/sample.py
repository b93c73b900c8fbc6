"""`npgpt sample`: one step of decoding under the lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import (
    echo_json,
    figure_option,
    json_option,
    length_option,
    load_model,
    model_options,
    sampling_options,
    seed_option,
)
from npgpt.commands._strategies import StrategyCommand, chain_option, parsed
from npgpt.decoding import GenerationConfig
from npgpt.inside.choice import Choice, look, plot_choice
from npgpt.support.figure import save


@click.command(cls=StrategyCommand, usual=("min_p", "repetition_penalty"))
@click.argument("prompt")
@model_options
@sampling_options()
@length_option()
@seed_option()
@click.option("--show/--no-show", default=True, help="Bars before and after each rule.")
@click.option(
    "--tokens",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    help="Tokens shown.",
)
@figure_option()
@chain_option
@json_option
def command(
    prompt: str,
    name: str,
    backend: str,
    dtype: str,
    as_json: bool,
    greedy: bool,
    seed: int,
    show: bool,
    tokens: int,
    figure: Path | None,
    **options: Any,
) -> None:
    """The next-token distribution after PROMPT, before and after each element.

    What was cut, what was rescaled, the numbers drawn, the token taken. Nothing is on
    unless asked for; --selector inverse_cdf draws by one number.

    Example: npgpt sample "Once upon a" --show --top-k 50 --top-p 0.9
    """
    config = GenerationConfig(do_sample=not greedy, seed=seed, **parsed(options))
    model = load_model(name, backend, dtype)
    choice = look(model, model.encode(prompt), config)
    shown = choice.best(tokens)
    if as_json:
        echo_json(_fields(choice, shown))
    elif show:
        _print(choice, shown)
    else:
        click.echo(prompt + choice.text(choice.token_id))
    if figure is not None:
        save(plot_choice(choice, prompt, shown), figure)
        click.echo(f"wrote {figure}", err=True)


def _print(choice: Choice, shown: list[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    block, arrow = ("█", "◀") if _can_print("█◀", console.encoding) else ("#", "<")
    # One scale for all stages, so that a bar that grows is a probability that grows.
    top = max(*(float(stage.p[shown].max()) for stage in choice.stages), 1e-9)
    for stage in choice.stages:
        table = Table.grid(padding=(0, 1))
        for id in shown:
            p = float(stage.p[id])
            bar = block * max(round(40 * p / top), 1) if p > 0 else "[dim]cut[/dim]"
            mark = f"[bold green]{arrow}[/bold green]" if id == choice.token_id else ""
            table.add_row(escape(repr(choice.text(id))), f"{p:.4f}", bar, mark)
        rest = 1 - float(stage.p[shown].sum())
        table.add_row("[dim]all others[/dim]", f"{max(rest, 0):.4f}", "", "")
        console.print(f"[bold]{escape(stage.name)}[/bold]  {stage.sentence}")
        console.print(table)
    if choice.noise is not None:
        table = Table.grid(padding=(0, 1))
        for id in shown:
            if choice.stages[-1].p[id] > 0:
                mark = (
                    f"[bold green]{arrow}[/bold green]" if id == choice.token_id else ""
                )
                table.add_row(escape(repr(choice.text(id))), choice.sum_of(id), mark)
        console.print("[bold]the draw[/bold]  ln p + noise, the largest is taken")
        console.print(table)
    console.print(escape(choice.sentence))


def _can_print(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _fields(choice: Choice, shown: list[int]) -> dict[str, Any]:
    return {
        "stages": [
            {
                "name": stage.name,
                "left": stage.left,
                "entropy": stage.entropy,
                "cut": stage.cut,
                "rescaled": stage.rescaled,
                "tokens": [
                    {"id": id, "text": choice.text(id), "p": float(stage.p[id])}
                    for id in shown
                ],
            }
            for stage in choice.stages
        ],
        "selector": choice.selector,
        "u": choice.u,
        "noise": None if choice.noise is None else choice.noise[shown].tolist(),
        "token_id": choice.token_id,
        "token": choice.text(choice.token_id),
        "interval": list(choice.interval),
    }
