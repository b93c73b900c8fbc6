"""`npgpt score`: how probable a text is, token by token and as a whole."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from npgpt.commands._shared import (
    echo_json,
    json_option,
    load_model,
    model_options,
    renamed,
)
from npgpt.commands._streams import json_text
from npgpt.evaluation.score import Score, TokenScore, score_file
from npgpt.model import GPT2
from npgpt.support.clock import working_time
from npgpt.support.figure import EDGES, SHADES, shade


@click.command()
@click.argument("file", type=click.Path(allow_dash=True))
@model_options
@click.option(
    "--separator",
    help="What stands between documents that are scored each "
    "for itself; \\n and \\t are understood.",
)
@click.option(
    "--window",
    type=int,
    help="Tokens read at once  [default: all that the model has positions for]",
)
@click.option(
    "--stride",
    type=int,
    help="Tokens that each further window adds; fewer "
    "give each more context  [default: the window, no overlap]",
)
@click.option(
    "--bos/--no-bos",
    default=True,
    help="Let the text follow <|endoftext|>, or leave its first token out.",
)
@click.option(
    "--show/--no-show",
    default=None,
    help="Every token, coloured by its probability; piped: log-probability, id, text  "
    "[default: on a terminal]",
)
@renamed("--tokens/--no-tokens", to="show")
@json_option
def command(
    file: str,
    name: str,
    backend: str,
    dtype: str,
    separator: str | None,
    show: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Log-probability, perplexity and bits per byte of the text in FILE ("-": stdin).

    Example: npgpt score story.txt --stride 128
    """
    if separator is not None:
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")
    paint = _painter(show, as_json)
    model = load_model(name, backend, dtype)
    found: list[TokenScore] = []
    start = working_time()
    with _progress(file, hidden=paint is not None) as bar:
        result = score_file(
            model,
            sys.stdin.buffer if file == "-" else file,
            separator=separator,
            progress=bar.update,
            on_token=found.append if as_json and show else paint,
            **options,
        )
    seconds = working_time() - start
    if as_json:
        _print_json(name, model, result, found if show else None)
    else:
        if paint is not None:
            click.echo("\n")
        _print(result)
    click.echo(
        f"[{name}, {model.backend.name} {model.dtype}: {result.num_tokens:,} tokens at "
        f"{result.num_tokens / seconds:,.0f} tok/s]",
        err=True,
    )


def _progress(file: str, hidden: bool) -> Any:
    from tqdm import tqdm

    known = file != "-" and os.path.isfile(file)
    return tqdm(
        total=os.path.getsize(file) if known else None,
        unit="B",
        unit_scale=True,
        desc="scoring",
        leave=False,
        disable=True if hidden else None,  # None: where stderr is no terminal
    )


def _painter(tokens: bool | None, as_json: bool) -> Callable | None:
    """What shows a token as soon as it is scored; None shows nothing."""
    if as_json or tokens is False:
        return None
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        return _print_row if tokens else None
    for colour, edge in zip(SHADES, (0, *EDGES), strict=True):
        console.print(Text(f" ≥{edge:g} ", f"black on {colour}"), end="")
    console.print(" probability", style="dim")

    def paint(token: TokenScore) -> None:
        p = math.exp(token.logprob)
        style = "dim" if math.isnan(p) else f"black on {shade(p)}"
        # The colour of a line's end would run to the edge of the terminal.
        for line in token.text.splitlines(keepends=True):
            text = line.rstrip("\r\n")
            console.print(Text(text, style), end="")
            if text != line:
                console.print()

    return paint


def _print_row(token: TokenScore) -> None:
    click.echo(f"{token.logprob:.4f}\t{token.id}\t{json_text(token.text)}")


def _print(result: Score) -> None:
    bits = result.bits_per_byte
    for label, value in (
        ("tokens", f"{result.num_tokens:,}"),
        ("bytes", f"{result.num_bytes:,}"),
        ("log-probability", f"{result.logprob:,.4f} nats"),
        ("loss", f"{result.loss:.4f} nats a token"),
        ("perplexity", f"{result.perplexity:,.4f}"),
        ("bits per byte", "unknown" if bits is None else f"{bits:.4f}"),
    ):
        click.echo(f"{label:<16} {value}")


def _print_json(
    name: str, model: GPT2, result: Score, found: list[TokenScore] | None
) -> None:
    value: dict[str, Any] = {"model": name, "backend": model.backend.name}
    value |= {"dtype": model.dtype, **result.summary()}
    if found is not None:
        value["ids"] = [token.id for token in found]
        value["tokens"] = [token.text for token in found]
        value["logprobs"] = [token.logprob for token in found]
    echo_json(value)
