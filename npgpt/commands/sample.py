"""`npgpt sample`: one step of decoding under the lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

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
from npgpt.commands._strategies import StrategyCommand, parsed, strategy_options
from npgpt.decoding import GenerationConfig
from npgpt.inside.choice import Choice, look
from npgpt.model import GPT2


@click.command(cls=StrategyCommand)
@click.argument("prompt")
@model_options
@sampling_options()
@length_option()
@seed_option()
@click.option("--show/--no-show", default=True, help="Bars before and after each rule.")
@click.option("--tokens", default=10, show_default=True, help="Tokens shown.")
@figure_option()
@strategy_options
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

    What was cut, what was rescaled, the uniform number drawn, the token taken. Nothing
    is on unless asked for.

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
        from npgpt.inside.attention import save

        save(draw(model, prompt, choice, shown), figure)
        click.echo(f"wrote {figure}", err=True)


def _print(choice: Choice, shown: list[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for stage in choice.stages:
        table = Table.grid(padding=(0, 1))
        top = max(float(stage.p[shown].max()), 1e-9)
        for id in shown:
            p = float(stage.p[id])
            bar = "█" * max(round(40 * p / top), 1) if p > 0 else "[dim]cut[/dim]"
            mark = "[bold green]◀[/bold green]" if id == choice.token_id else ""
            table.add_row(escape(repr(choice.text(id))), f"{p:.4f}", bar, mark)
        rest = 1 - float(stage.p[shown].sum())
        table.add_row("[dim]all others[/dim]", f"{max(rest, 0):.4f}", "", "")
        console.print(f"[bold]{escape(stage.name)}[/bold]  {stage.sentence}")
        console.print(table)
    console.print(escape(choice.sentence))


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
        "token_id": choice.token_id,
        "token": choice.text(choice.token_id),
        "interval": list(choice.interval),
    }


def draw(model: GPT2, prompt: str, choice: Choice, shown: list[int]) -> Any:
    """The stages as bars side by side on one scale, outlined where they stood before.

    The token taken is dark. Below, the last distribution as slices of [0, 1], and the
    uniform number among them.
    """
    from matplotlib.figure import Figure

    n, drawn = len(choice.stages), choice.u is not None
    bars, below = 0.28 * len(shown) + 0.9, 0.75 if drawn else 0.0
    figure = Figure(figsize=(2.6 * n + 1.2, bars + below + 0.6), layout="constrained")
    ratios = [bars, below] if drawn else [bars]
    grid = figure.add_gridspec(len(ratios), n, height_ratios=ratios)
    axes: list[Any] = []
    for i in range(n):
        first = axes[0] if axes else None
        axes.append(figure.add_subplot(grid[0, i], sharex=first, sharey=first))
    before = choice.stages[0].p
    for axis, stage in zip(axes, choice.stages, strict=True):
        _draw_stage(axis, stage, before, shown, choice.token_id)
        before = stage.p
        axis.tick_params(labelsize=8, labelleft=axis is axes[0])
    labels = [repr(choice.text(id)) for id in shown]
    plain = {"parse_math": False}  # a price in dollars is no formula
    axes[0].set_yticks(range(len(shown)), labels, family="monospace", **plain)
    axes[0].invert_yaxis()
    if drawn:
        _draw_uniform(figure.add_subplot(grid[1, :]), choice)
    title = f"{prompt!r}: {choice.sentence}"
    figure.suptitle(title, fontsize=9, wrap=True, **plain)
    return figure


def _draw_stage(
    axis: Any, stage: Any, before: np.ndarray, shown: list[int], taken: int
) -> None:
    """Bars of one stage; what it changed is outlined, what it removed is marked."""
    places = range(len(shown))
    colors = ["#1f3b73" if id == taken else "#9db7dd" for id in shown]
    axis.barh(places, stage.p[shown], color=colors)
    axis.barh(places, before[shown], fill=False, edgecolor="#888888", linewidth=0.6)
    for place, id in enumerate(shown):
        if stage.p[id] == 0:
            axis.text(
                before[id],
                place,
                " cut",
                fontsize=7,
                color="#b03030",
                verticalalignment="center",
            )
    what = f"cut {stage.cut:.1%}" if stage.cut > 0 else ""
    what = ", ".join(word for word in (what, "rescaled" * stage.rescaled) if word)
    axis.set_title(f"{stage.name}\n{stage.left:,} tokens\n{what}", fontsize=9)
    axis.set_xlabel("probability", fontsize=8)


def _draw_uniform(axis: Any, choice: Choice) -> None:
    """The slices of the last distribution, in the order of ids, and u."""
    p = choice.stages[-1].p
    ends = np.cumsum(p)
    for i, id in enumerate(np.flatnonzero(p > 1e-3)):  # thinner ones cannot be seen
        color = "#1f3b73" if id == choice.token_id else ("#9db7dd", "#c9d8ee")[i % 2]
        axis.barh(0, p[id], left=ends[id] - p[id], color=color)
    low, high = choice.interval
    axis.barh(0, high - low, left=low, color="#1f3b73")
    axis.axvline(choice.u, color="#b03030", linewidth=1.2)
    axis.set_xlim(0, 1)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    axis.set_xlabel(
        f"the last distribution, in the order of ids; u = {choice.u:.4f}", fontsize=8
    )
