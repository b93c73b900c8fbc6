"""`npgpt plot`: figures for slides, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from npgpt.commands._shared import (
    echo_json,
    figure_option,
    json_option,
    load_model,
    model_options,
    renamed,
)
from npgpt.commands._words import PromptCommand
from npgpt.support.figure import save


def output_options(name: str) -> Callable:
    """--figure with a default of its own, and --json."""
    old = renamed(
        "--out", "-o", to="figure", type=click.Path(path_type=Path, dir_okay=False)
    )
    return lambda function: figure_option(name)(old(json_option(function)))


@click.group()
def command() -> None:
    """Draw a figure into a PNG or SVG file and print its name.

    Example: npgpt plot attention "The king loved his daughter" --layer 2 --head 1
    """


@command.command("mask")
@click.option("-T", "T", default=8, show_default=True, help="New positions (queries).")
@click.option("-S", "S", type=int, help="All positions (keys)  [default: T]")
@click.option("--window", type=int, help="Only the last so many keys are seen.")
@output_options("mask.png")
def mask(
    T: int, S: int | None, window: int | None, figure: Path, as_json: bool
) -> None:
    """The causal mask: which position may look at which.

    Example: npgpt plot mask -T 4 -S 10 --window 3 --figure mask.svg
    """
    from npgpt.inside import attention

    save(attention.plot_mask(T, S, window), figure)
    _say(figure, as_json)


@command.command("attention", cls=PromptCommand)
@click.argument("text")
@model_options
@click.option("--layer", type=int, help="From 0  [default: all, as a grid]")
@click.option("--head", type=int, help="From 0  [default: all, as a grid]")
@output_options("attention.png")
def attention(
    text: str,
    name: str,
    backend: str,
    dtype: str,
    layer: int | None,
    head: int | None,
    figure: Path,
    as_json: bool,
) -> None:
    """Attention weights over the tokens of TEXT: of one head, or a grid of heads.

    Example: npgpt plot attention "The king loved his daughter" --layer 2 --head 1
    """
    from npgpt.inside import attention

    model = load_model(name, backend, dtype)
    save(attention.plot_attention(model, text, layer, head), figure)
    _say(figure, as_json)


def _say(figure: Path, as_json: bool) -> None:
    if as_json:
        echo_json({"figure": str(figure)})
    else:
        click.echo(figure)
