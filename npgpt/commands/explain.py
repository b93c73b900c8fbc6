"""`npgpt explain`: a forward pass as a page in which every number can be opened."""

from __future__ import annotations

from pathlib import Path

import click

from npgpt.commands._shared import echo_json, json_option, model_option, out_option
from npgpt.model import GPT2


@click.command()
@click.argument("prompt")
@model_option()
@out_option(
    "The page.",
    default="page.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option(
    "--weights",
    type=click.Choice(["all", "focus", "cone"]),
    help="Parameters in the page: all; those of one layer; those that the cell is made "
    "of.  [default: all of a small model, else focus]",
)
@click.option("--cell", help="The number it opens with: h.2.attn.scores[h=1,t=5,s=3].")
@json_option
def command(
    prompt: str,
    name: str,
    out: Path,
    weights: str | None,
    cell: str | None,
    as_json: bool,
) -> None:
    """One HTML file about the forward pass of PROMPT: model, array, number.

    Every number that is opened there is computed anew from those that it is made of.
    The page opens from disk and sends no request.

    Example: npgpt explain "The old king" -m tales-mini -o page.html
    """
    from npgpt.inside.page import write_page

    size = write_page(GPT2.from_pretrained(name), prompt, out, weights, cell)
    if as_json:
        echo_json({"page": str(out), "bytes": size})
    else:
        click.echo(out)
        click.echo(f"{size / 1e6:.1f} MB", err=True)
