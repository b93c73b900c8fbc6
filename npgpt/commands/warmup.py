"""`npgpt warmup`: compile every kernel now, so that no later run has to wait."""

from __future__ import annotations

import sys

import click

from npgpt.backend import get_backend
from npgpt.commands._shared import echo_json, json_option
from npgpt.commands._words import Choice


@click.command()
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=Choice(["float32", "bfloat16", "int8"]),
    help="Only for these  [default: all]",
)
@json_option
def command(dtypes: tuple[str, ...], as_json: bool) -> None:
    """Compile the Numba kernels for this processor into the cache on disk.

    Example: npgpt warmup --dtype float32
    """
    get_backend("numba")  # or what is in the way, in one sentence
    from npgpt.kernels.warmup import warm_up

    def say(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(line, err=True)

    seconds, where = warm_up(dtypes or ("float32", "bfloat16", "int8"), say)
    if as_json:
        echo_json({"compile_seconds": seconds, "cache": where})
    elif seconds:
        click.echo(f"compiled in {seconds:.0f} s; kept in {where}")
    else:
        click.echo(f"nothing to do: all kernels are in {where}")
