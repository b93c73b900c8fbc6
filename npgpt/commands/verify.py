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
from npgpt.commands._words import Choice
from npgpt.errors import NpgptError
from npgpt.storage import checkpoint, hub
from npgpt.verification import checks
from npgpt.verification.alone import BY_ITSELF, alone
from npgpt.verification.checks import Check, first_divergence, worst_of_each
from npgpt.verification.own import REPLACEABLE, in_place, maker, own_file, signature
from npgpt.verification.published import MODELS

SIGNATURES = "".join(f"\n    {signature(name)}" for name in REPLACEABLE)


@click.command(
    epilog=f"""What --ops puts in the place of npgpt's, and how it is called:

    \b{SIGNATURES}

    A function may have fewer options than that. First each is called by itself, on
    inputs that are hard; then the model computes with it. Other functions of npgpt.ops
    (causal_mask, cross_entropy, ...) are called by themselves only."""
)
@placed("[MODEL]", "name")
@MODEL
@backend_options
@click.option(
    "--ops",
    "own",
    type=click.Path(dir_okay=False),
    help="A Python file whose functions are used in place of those of npgpt.ops.",
)
@click.option(
    "--published",
    type=Choice(list(MODELS)),
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
    functions = own_file(own) if own else {}
    by_itself = list(alone(functions))
    bad = [check for check in by_itself if not check.ok]
    found: list[Check] = []
    try:
        found += checks.verify(
            checkpoint.load(folder),
            in_place(functions) if own else chosen_backend(backend),
            dtype,
            reference if reference.exists() else None,
            MODELS.get(published or name),
        )
    except NpgptError as error:
        if not bad:
            raise
        click.echo(f"npgpt: {error}", err=True)
    wrong = first_divergence(found)
    guilty = bad[0].check.removesuffix(BY_ITSELF) if bad else None
    if wrong and not bad:
        guilty = maker(wrong.tensor)
    everything = [*by_itself, *found]
    if as_json:
        rows = [{**check._asdict(), "ok": check.ok} for check in everything]
        tensor = wrong.tensor if wrong else None
        verdict = {"ok": not (bad or wrong), "function": guilty, "first": tensor}
        echo_json({"model": name, **verdict, "checks": rows})
    else:
        table = everything if every else worst_of_each(everything)
        _print_table(table, len(everything))
        _say_which_function(bad)
        if wrong:
            click.echo(f"first tensor that diverges: {wrong.tensor} ({wrong.check})")
        elif found:
            click.echo(f"all {len(found)} tensors agree" + bool(bad) * " all the same")
        if wrong and guilty == maker(wrong.tensor) and guilty:
            click.echo(f"it is made by {guilty}, from tensors that agree")
    ctx.exit(1 if bad or wrong else 0)


def _say_which_function(bad: list[Check]) -> None:
    """Up to three cases that a function fails, each for another reason."""
    if bad:
        reasons = {check.why: check.tensor for check in reversed(bad)}
        click.echo(f"{bad[0].check} is wrong:")
        for why, case in list(reversed(reasons.items()))[:3]:
            click.echo(f"  {case}: {why}")


def _print_table(checks: list[Check], total: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{len(checks)} of {total} comparisons" if len(checks) < total else None
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("check", "tensor"):
        words = " ".join(getattr(check, name) for check in checks).split()
        table.add_column(name, min_width=max(map(len, words)))  # no name is cut
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
