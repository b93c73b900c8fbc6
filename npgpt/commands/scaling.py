"""`npgpt scaling`: the sizes of the GPT papers, and how large a model to train."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from npgpt.commands._shared import echo_json, figure_option, json_option, renamed
from npgpt.commands._table import table
from npgpt.commands._words import Choice
from npgpt.scaling.fit import COUNTS, LEAST_RUNS, RUNS, Fit, fit_runs, read_runs
from npgpt.scaling.laws import Answer, compute_optimal
from npgpt.scaling.sizes import PUBLISHED


@click.command()
@click.option(
    "--flops", type=float, help="A budget: how large a model, how many tokens?"
)
@click.option(
    "--runs",
    "path",
    type=click.Path(path_type=Path),
    help="Runs of tools/scaling.py to fit  [default: the project's own]",
)
@click.option(
    "--count",
    type=Choice(COUNTS),
    default="all",
    show_default=True,
    help="Which parameters of the runs N counts.",
)
@figure_option()
@renamed("--plot", to="figure", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def command(
    flops: float | None,
    path: Path | None,
    count: str,
    figure: Path | None,
    as_json: bool,
) -> None:
    """GPT-1, GPT-2 and GPT-3 by their shapes, and the law of our own training runs.

    With --flops: the best number of parameters and tokens by Hoffmann et al.'s three
    approaches, the replication of Besiroglu et al., and our runs. Their losses are of
    different texts and do not compare; ours reaches far beyond what it was fitted to.
    The figure shows the runs, their law and the papers' slopes.

    Example: npgpt scaling --flops 1e21
    """
    runs = read_runs(RUNS if path is None else path)
    fit = fit_runs(runs, count) if path or len(runs) >= LEAST_RUNS else None
    answers = [] if flops is None else compute_optimal(flops, fit.law if fit else None)
    if figure is not None:
        from npgpt.scaling.figure import plot_scaling
        from npgpt.support.figure import save

        save(plot_scaling(runs, fit), figure)
    if as_json:
        echo_json(
            {
                "models": [model.summary() for model in PUBLISHED],
                "flops": flops,
                "answers": [asdict(answer) for answer in answers],
                "fit": fit and fit.summary(),
            }
        )
        return
    if figure is not None:
        click.echo(figure)
    if flops is None and figure is None:
        _echo_models()
    if answers:
        _echo_answers(answers)
    if fit is not None and figure is None:
        _echo_fit(fit)


def _echo_models() -> None:
    head = (
        "model",
        "layers",
        "heads",
        "width",
        "context",
        "parameters",
        "training FLOPs",
        "KV a token",
    )
    rows = [
        (
            m.name,
            *map(str, (m.layers, m.heads, m.width, m.context)),
            f"{m.parameters:,}",
            "unknown" if m.flops is None else f"{m.flops:.2e}",
            f"{m.kv_bytes_per_token() / 1024:,.0f} KiB",
        )
        for m in PUBLISHED
    ]
    click.echo(table([head, *rows]))
    click.echo(
        "FLOPs: 6 N D for GPT-3's 300 B tokens; D of GPT-1 and 2 is unknown."
        "\nKV: keys and values of all layers, in 16 bits."
    )


def _echo_answers(answers: list[Answer]) -> None:
    rows = [
        (
            a.method,
            f"{a.parameters:.3g}",
            f"{a.tokens:.3g}",
            f"{a.tokens / a.parameters:,.1f}",
            "" if a.loss is None else f"{a.loss:.3f}",
        )
        for a in answers
    ]
    click.echo(table([("by", "parameters", "tokens", "tokens/N", "loss"), *rows]))
    click.echo(
        "tokens/N: tokens a parameter. loss: nats a token, each of its own text."
    )


def _echo_fit(fit: Fit) -> None:
    which = "all parameters" if fit.count == "all" else "those without embeddings"
    click.echo(
        f"Our law, of {fit.runs} runs (N: {which}), with the bootstrap's 90 %:\n"
        "loss = E + A / N^alpha + B / D^beta for D tokens; of C FLOPs the best N ~ C^a"
    )
    rows = []
    for name in ("E", "A", "alpha", "B", "beta", "exponent"):
        low, high = fit.interval(name)
        label = "a, N ~ C^a" if name == "exponent" else name
        value = getattr(fit.law, name)
        rows.append((f"  {label}", f"{value:.4g}", f"{low:.4g}", "to", f"{high:.4g}"))
    click.echo(table(rows))
    click.echo(f"  residual  {fit.residual:.4f} of the logarithm of the loss")
