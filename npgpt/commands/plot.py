"""`npgpt plot`: figures for slides, as PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import load_model, model_options


def out_option(name: str) -> Any:
    """--out with a default of its own."""
    return click.option(
        "--out",
        "-o",
        default=name,
        show_default=True,
        type=click.Path(path_type=Path),
        help="Where to; .png or .svg.",
    )


@click.group()
def command() -> None:
    """Draw a figure into a PNG or SVG file and print its name.

    Example: npgpt plot attention "The king loved his daughter" --layer 2 --head 1
    """


@command.command("mask")
@click.option("-T", "T", default=8, show_default=True, help="New positions (queries).")
@click.option("-S", "S", type=int, help="All positions (keys)  [default: T]")
@click.option("--window", type=int, help="Only the last so many keys are seen.")
@out_option("mask.png")
def mask(T: int, S: int | None, window: int | None, out: Path) -> None:
    """The causal mask: which position may look at which.

    Example: npgpt plot mask -T 4 -S 10 --window 3 -o mask.svg
    """
    from npgpt.inside import attention

    attention.save(attention.plot_mask(T, S, window), out)
    click.echo(out)


@command.command("attention")
@click.argument("text")
@model_options
@click.option("--layer", type=int, help="From 0  [default: all, as a grid]")
@click.option("--head", type=int, help="From 0  [default: all, as a grid]")
@out_option("attention.png")
def attention(
    text: str,
    name: str,
    backend: str,
    dtype: str,
    layer: int | None,
    head: int | None,
    out: Path,
) -> None:
    """Attention weights over the tokens of TEXT: of one head, or a grid of heads.

    Example: npgpt plot attention "The king loved his daughter" --layer 2 --head 1
    """
    from npgpt.inside import attention

    model = load_model(name, backend, dtype)
    attention.save(attention.plot_attention(model, text, layer, head), out)
    click.echo(out)
