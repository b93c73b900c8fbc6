"""`npgpt verify`: is this model computed right, on this machine?"""

from __future__ import annotations

import click

from npgpt.commands._shared import (
    MODEL,
    backend_options,
    chosen_backend,
    echo_json,
    json_option,
    placed,
)
from npgpt.storage import checkpoint, hub
from npgpt.verification import checks
from npgpt.verification.checks import Check, first_divergence, worst_of_each
from npgpt.verification.own import maker, own_functions
from npgpt.verification.published import MODELS


@click.command()
@placed("[MODEL]", "name")
@MODEL
@backend_options
@click.option(
    "--ops",
    "own",
    type=click.Path(dir_okay=False),
    help="A Python file whose softmax, layer_norm, gelu, linear or attention are used "
    "in place of npgpt's.",
)
@click.option(
    "--published",
    type=click.Choice(list(MODELS)),
    help="Also compare with what is published of these weights  [default: those of "
    "MODEL's name]",
)
@click.option(
    "--all", "every", is_flag=True, help="Every tensor, not the worst of each."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    backend: str,
    dtype: str,
    own: str | None,
    published: str | None,
    every: bool,
    as_json: bool,
) -> None:
    """Compare MODEL's numbers with recorded and published ones, and with themselves.

    Float64 against float32, cached against uncached, batch against single, backend
    against backend. Exit status 1 if a tensor diverges; the first one is named.

    Example: npgpt verify tales --ops mine.py
    """
    if own is not None and backend != "numpy":
        raise click.UsageError("--ops replaces NumPy functions: leave --backend out")
    folder = hub.resolve(name)
    reference = folder / checks.REFERENCE
    found = list(
        checks.verify(
            checkpoint.load(folder),
            own_functions(own) if own else chosen_backend(backend),
            dtype,
            reference if reference.exists() else None,
            MODELS.get(published or name),
        )
    )
    wrong = first_divergence(found)
    if as_json:
        rows = [{**check._asdict(), "ok": check.ok} for check in found]
        first = wrong.tensor if wrong else None
        echo_json({"model": name, "ok": wrong is None, "first": first, "checks": rows})
    else:
        _print_table(found if every else worst_of_each(found), len(found))
        if wrong:
            guilty = maker(wrong.tensor)
            click.echo(f"first tensor that diverges: {wrong.tensor} ({wrong.check})")
            if guilty:
                click.echo(f"it is made by {guilty}, from tensors that agree")
        else:
            click.echo(f"all {len(found)} tensors agree")
    ctx.exit(0 if wrong is None else 1)


def _print_table(checks: list[Check], total: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{len(checks)} of {total} comparisons" if len(checks) < total else None
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("check", "tensor"):
        table.add_column(name)
    for name in ("error", "tolerated"):
        table.add_column(name, justify="right")
    table.add_column("because of")
    table.add_column("")
    for check in checks:
        table.add_row(
            check.check,
            check.tensor,
            f"{check.error:.1e}",
            f"{check.tolerance:.1e}",
            check.why,
            "ok" if check.ok else "[bold red]WRONG[/]",
        )
    Console().print(table)
