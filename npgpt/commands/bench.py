"""`npgpt bench`: how fast, against NumPy, against the machine, against the peers."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from npgpt.backend import get_backend
from npgpt.commands._shared import (
    MODEL,
    backend_option,
    check_figure,
    echo_json,
    figure_option,
    json_option,
    out_option,
    renamed,
    threads_option,
)
from npgpt.config import GPT2Config
from npgpt.errors import NpgptError
from npgpt.scaling.sizes import CHECKPOINTS
from npgpt.storage import checkpoint, hub
from npgpt.storage.tensorfile import write_atomically
from npgpt.support.figure import save


@click.command()
@MODEL
@click.option(
    "--random",
    "size",
    type=click.Choice(list(CHECKPOINTS)),
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
        _decoding(
            size or name,
            size is not None,
            assistant_model,
            backend,
            rounds,
            threads,
            as_json,
        )
        return
    get_backend("numba")  # what is compared, or in one sentence why it cannot be
    from npgpt.bench import report
    from npgpt.bench.rounds import OWN, PEERS, compare
    from npgpt.bench.worker import Worker
    from npgpt.kernels.compiling import physical_cores
    from npgpt.training.loop import init_params

    threads = physical_cores() if threads is None else threads
    chosen = engines or (*OWN, *(PEERS if peers else ()))

    if markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    check_figure(figure)

    def say(line):
        return click.echo(f"\r\033[K{line}", nl=False, err=True)

    result: dict[str, Any] = {"machine": _machine(threads)}

    def keep(found: dict[str, Any]) -> None:
        result.update(found)
        if out is not None:
            _save(result, out)

    keep({})
    lines: list[str] = [f"# {result['machine']}"]
    with ExitStack() as stack:
        if size is None:
            folder = hub.resolve(name)
            config = GPT2Config.from_file(folder / "config.json")
        else:
            config = CHECKPOINTS[size]
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            say(f"making random weights of {size}")
            checkpoint.save(init_params(config), folder)
        if functions:
            say("functions, from an empty cache of compiled kernels")
            empty = stack.enter_context(tempfile.TemporaryDirectory())
            worker = Worker(
                "functions:float32", str(folder), threads, NUMBA_CACHE_DIR=empty
            )
            keep({"functions": worker.ask("functions")})
            worker.close()
            lines += report.function_lines(result["functions"])
        if end_to_end:
            result["model"] = size or name
            models = compare(
                str(folder), config, chosen, threads, rounds, quick, say, keep
            )
            lines += ["", f"# {size or name}", *report.model_lines(models)]
            if size == "gpt2":
                lines += ["", *report.goal_lines(models)]
            if figure:
                title = f"{size or name}, {_machine(threads)}"
                save(report.plot_speeds(models, title), figure)
    click.echo("\r\033[K", nl=False, err=True)
    if as_json:
        echo_json(result)
    else:
        click.echo("\n".join(report.markdown(result) if markdown else lines))


def _save(result: dict[str, Any], path: Path) -> None:
    try:
        write_atomically(
            path, lambda new: Path(new).write_text(json.dumps(result, indent=1))
        )
    except OSError as error:
        raise NpgptError(f"{path}: cannot be written ({error.strerror})") from None


def _machine(threads: int) -> str:
    from npgpt.kernels.tiers import current

    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{processor}, {threads} threads, tier {current()}"


def _decoding(
    name: str,
    random: bool,
    assistant: str | None,
    backend: str,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """The figures of npgpt.bench.rules and, for one model, npgpt.bench.decoding."""
    from npgpt.bench import decoding, rules
    from npgpt.commands._shared import chosen_backend, load_model
    from npgpt.model import GPT2
    from npgpt.training.loop import init_params

    if threads is not None:
        os.environ["NPGPT_THREADS"] = str(threads)
    backend = chosen_backend(backend)
    if random:
        model = GPT2(init_params(CHECKPOINTS[name]), backend=backend)
    else:
        model = load_model(name, backend, "float32")
        if assistant is None and name == "tales":
            assistant = "tales-mini"
    other = None if assistant is None else load_model(assistant, backend, "float32")
    costs = list(rules.measure(runs=10 * rounds))
    found = decoding.measure(model, other, rounds=rounds)
    if as_json:
        echo_json(
            {
                "model": name,
                "backend": backend,
                "rules": [one.to_dict() for one in costs],
                "decoding": [one.to_dict() for one in found],
            }
        )
        return
    click.echo(f"# one row of {rules.V:,} logits, NumPy")
    for cost in costs:
        click.echo(str(cost))
    click.echo(f"\n# {name}, {backend}")
    for one in found:
        click.echo(str(one))
