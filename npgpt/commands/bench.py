"""`npgpt bench`: how fast, against NumPy, against the machine, against the peers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from npgpt.backend import get_backend
from npgpt.commands._shared import (
    MODEL,
    backend_option,
    check_figure,
    chosen_backend,
    echo_json,
    figure_option,
    json_option,
    out_option,
    renamed,
    threads_option,
)
from npgpt.commands._words import Choice
from npgpt.scaling.sizes import CHECKPOINTS
from npgpt.support.figure import save
from npgpt.support.hints import meant


@click.command()
@MODEL
@click.option(
    "--random",
    "size",
    type=Choice(list(CHECKPOINTS)),
    help="Random weights of a published size.",
)
@click.option("--peers", is_flag=True, help="Also transformers and llama.cpp.")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    help="Only these, e.g. numba:int8 or llama.cpp:Q8_0.",
)
@click.option(
    "--functions/--no-functions",
    default=True,
    show_default=True,
    help="Each function by itself, NumPy against Numba.",
)
@click.option(
    "--end-to-end/--no-end-to-end",
    default=True,
    show_default=True,
    help="Whole models: prompts and decoding.",
)
@click.option(
    "--decoding", is_flag=True, help="Only decoding: what a rule costs, beams, drafts."
)
@click.option("--assistant-model", help="The smaller model, for --decoding.")
@backend_option("auto")
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How often the engines take turns.",
)
@threads_option("every engine")
@click.option("--quick", is_flag=True, help="The shortest prompt and context only.")
@figure_option()
@out_option(
    "Keep the JSON object in this file, from the first result on.",
    type=click.Path(path_type=Path, dir_okay=False),
)
@renamed("--save", to="out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@json_option
def command(
    name: str,
    size: str | None,
    peers: bool,
    engines: tuple[str, ...],
    functions: bool,
    end_to_end: bool,
    decoding: bool,
    assistant_model: str | None,
    backend: str,
    rounds: int,
    threads: int | None,
    quick: bool,
    figure: Path | None,
    out: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Measure functions and whole models; every engine in a process of its own.

    With --decoding: the default chain, every truncation, beam search against separate
    runs, and drafts against greedy decoding, in this process; only there --backend
    chooses.

    Example: npgpt bench --random gpt2 --peers --figure speed.png
    """
    if decoding:
        _decoding(name, size, assistant_model, backend, rounds, threads, as_json)
        return
    get_backend("numba")  # what is compared, or in one sentence why it cannot be
    from npgpt.bench import report
    from npgpt.bench.rounds import OWN, PEERS
    from npgpt.bench.run import bench

    for engine in engines:
        _check_engine(engine, (*OWN, *PEERS))
    if markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    check_figure(figure)

    def say(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{line}", nl=False, err=True)

    result = bench(
        name,
        size,
        engines or (*OWN, *(PEERS if peers else ())),
        threads,
        rounds,
        functions=functions,
        end_to_end=end_to_end,
        quick=quick,
        out=out,
        say=say,
    )
    if figure and end_to_end:
        title = f"{result['model']}, {result['machine']}"
        save(report.plot_speeds(result, title), figure)
    say("")
    if as_json:
        echo_json(result)
    else:
        shown = report.markdown(result) if markdown else report.lines(result)
        click.echo("\n".join(shown))


def _check_engine(engine: str, known: tuple[str, ...]) -> None:
    """Refuse what cannot be an engine before the others are timed."""
    kind, _, dtype = engine.partition(":")
    fits = dtype and kind in {"cupy", *(name.partition(":")[0] for name in known)}
    if fits and kind in ("numpy", "numba"):
        fits = dtype in get_backend(kind).dtypes
    if not fits:
        raise click.UsageError(
            f"--engine {engine!r} is no engine; {meant(engine, known)}there are "
            f"{', '.join(known)}"
        )


def _decoding(
    name: str,
    size: str | None,
    assistant: str | None,
    backend: str,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    from npgpt.bench.rules import V
    from npgpt.bench.run import bench_decoding

    if threads is not None:
        os.environ["NPGPT_THREADS"] = str(threads)
    backend = chosen_backend(backend)
    costs, found = bench_decoding(name, size, assistant, backend, rounds)
    if as_json:
        echo_json(
            {
                "model": size or name,
                "backend": backend,
                "rules": [one.to_dict() for one in costs],
                "decoding": [one.to_dict() for one in found],
            }
        )
        return
    click.echo(f"# one row of {V:,} logits, NumPy")
    for cost in costs:
        click.echo(str(cost))
    click.echo(f"\n# {size or name}, {backend}")
    for one in found:
        click.echo(str(one))
