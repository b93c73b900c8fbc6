"""`npgpt why`: from a number of the forward pass to its formula and operands."""

from __future__ import annotations

import sys
from typing import Any

import click

from npgpt.commands._shared import echo_json, json_option, load_model, model_options


@click.command()
@click.argument("prompt")
@click.argument("address")
@model_options
@click.option(
    "--depth",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="So many numbers down, each time by the largest term.",
)
@click.option(
    "--grad",
    is_flag=True,
    help="Of the loss's derivative by that number, over the prompt's own next tokens.",
)
@json_option
def command(
    prompt: str,
    address: str,
    name: str,
    backend: str,
    dtype: str,
    depth: int,
    grad: bool,
    as_json: bool,
) -> None:
    """Why the number at ADDRESS is what it is, when the model reads PROMPT.

    An address is a name and an index, by axis letter or by position:
    h.0.attn.weights[h=1,t=2,s=0], logits[t=3,v=17], h.2.mlp.c_fc.weight[5,7]. `npgpt
    shapes` lists the names. Shown are the formula, the line of code, all terms as bars,
    the largest by name, their sum in float64 and the number that the model computed.
    Other backends than NumPy's are explained by NumPy's path, which is said.

    Example: npgpt why "The old king" "h.0.attn.scores[h=1,t=2,s=1]"
    """
    model = load_model(name, backend, dtype)
    found = model.why(address, prompt, depth, grad)
    whys = found if isinstance(found, list) else [found]
    if as_json:
        top: dict[str, Any] = {"model": name, "prompt": prompt, **whys[0].to_json()}
        if depth > 1:
            top["below"] = [why.to_json() for why in whys[1:]]
        echo_json(top)
        return
    from npgpt.inside.explanation import BARS, PLAIN_BARS, lines

    bars = BARS if _writes(BARS) else PLAIN_BARS
    for i, why in enumerate(whys):
        if i:
            click.echo()
        for line in lines(why, bars):
            click.echo(line)


def _writes(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
