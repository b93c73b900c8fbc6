"""`npgpt shapes`: the forward pass as a table."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict
from typing import Any

import click

from npgpt.commands._shared import echo_json, json_option, load_model, model_options
from npgpt.errors import InsideError
from npgpt.inside.operations import Operation, by_block, operations
from npgpt.inside.recipes import recipes


@click.command()
@click.argument("prompt")
@model_options
@click.option("--all", "every", is_flag=True, help="Every layer, not all together.")
@click.option("--names", metavar="PATTERN", help="Only these, such as 'h.0.attn.*'.")
@click.option("--formulas", is_flag=True, help="The formula below each operation.")
@json_option
def command(
    prompt: str,
    name: str,
    backend: str,
    dtype: str,
    every: bool,
    names: str | None,
    formulas: bool,
    as_json: bool,
) -> None:
    """The forward pass over PROMPT, a row an operation: shapes, FLOPs, bytes, time.

    Names are those of `npgpt why` and of taps; between them the operations' own
    numbers (h.0.ln_1.mean, .variance, .rstd; h.0.attn.weights.max, .sum) have addresses
    too. FLOPs are those of products, bytes those of the matrices that are read; their
    sums are `npgpt info`'s. Time is measured from one name to the next, by NumPy.

    Example: npgpt shapes "The old king" --formulas
    """
    model = load_model(name, backend, dtype)
    found = operations(model, model.encode(prompt))
    total = _total(found)
    rows = found if every or names else by_block(found)
    if names:
        rows = [one for one in rows if fnmatch.fnmatch(one.name, names)]
        if not rows:
            raise InsideError(f"no operation is called {names!r}; leave --names out")
    if as_json:
        virtual = [n for n, b in recipes(model.config).items() if b.virtual]
        data = [{**asdict(one), "source": str(one.source or "")} for one in rows]
        echo_json(
            {
                "model": name,
                "prompt": prompt,
                "operations": data,
                "virtual": virtual,
                "total": total,
            }
        )
        return
    _print(rows, total, formulas)


def _total(found: list[Operation]) -> dict[str, Any]:
    return {
        "flops": sum(one.flops for one in found),
        "weight_bytes": sum(one.weight_bytes for one in found),
        "seconds": sum(one.seconds for one in found),
    }


def _print(rows: list[Operation], total: dict[str, Any], formulas: bool) -> None:
    table = [["operation", "axes", "shape", "FLOPs", "weights", "time", "line"]]
    for one in rows:
        times = f" x{one.times}" if one.times > 1 else ""
        line = one.source
        table.append(
            [
                one.name + times,
                " ".join(one.axes),
                " ".join(map(str, one.shape)),
                f"{one.flops:,}" if one.flops else "",
                f"{one.weight_bytes:,}" if one.weight_bytes else "",
                f"{one.seconds / total['seconds']:.1%}" if one.seconds else "",
                f"{line.file}:{line.line}" if line else "",
            ]
        )
    table.append(
        [
            "all",
            "",
            "",
            f"{total['flops']:,}",
            f"{total['weight_bytes']:,}",
            f"{total['seconds'] * 1e3:.2f} ms",
            "",
        ]
    )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for i, row in enumerate(table):
        cells = [
            cell.rjust(width) if 3 <= at <= 5 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
        if formulas and 0 < i <= len(rows):
            click.echo(f"    = {rows[i - 1].formula}")
