"""A run of the bench: functions, then whole models, kept from the first result on.

What is measured is in npgpt.bench.functions and npgpt.bench.rounds; with `decoding`, in
npgpt.bench.rules and npgpt.bench.decoding.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from npgpt.bench import decoding, rules
from npgpt.bench.machine import machine
from npgpt.bench.rounds import time_engines
from npgpt.bench.worker import Worker
from npgpt.config import GPT2Config
from npgpt.errors import NpgptError
from npgpt.model import GPT2
from npgpt.scaling.sizes import CHECKPOINTS
from npgpt.storage import checkpoint, hub
from npgpt.storage.tensorfile import write_atomically


def bench(
    name: str,
    size: str | None,
    engines: Sequence[str],
    threads: int | None = None,
    rounds: int = 5,
    *,
    functions: bool = True,
    end_to_end: bool = True,
    quick: bool = False,
    out: Path | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Measure a model, or random weights of a published size; all that was found.

    `threads` None: one a physical core. `out`: the file that holds the result so far.
    """
    from npgpt.kernels.compiling import physical_cores

    threads = physical_cores() if threads is None else threads
    result: dict[str, Any] = {"machine": machine(threads)}

    def keep(found: dict[str, Any]) -> None:
        result.update(found)
        if out is not None:
            _write(result, out)

    keep({})
    with _folder(name, size, say) as folder:
        if functions:
            say("functions, from an empty cache of compiled kernels")
            keep({"functions": _time_functions(folder, threads)})
        if end_to_end:
            result["model"] = size or name
            config = GPT2Config.from_file(folder / "config.json")
            time_engines(
                str(folder), config, engines, threads, rounds, quick, say, keep
            )
    return result


@contextmanager
def _folder(name: str, size: str | None, say: Callable[[str], Any]) -> Iterator[Path]:
    """The model's folder; one of random weights is there for this run alone."""
    if size is None:
        yield hub.resolve(name)
        return
    from npgpt.training.loop import init_params

    with tempfile.TemporaryDirectory() as folder:
        say(f"making random weights of {size}")
        checkpoint.save(init_params(CHECKPOINTS[size]), folder)
        yield Path(folder)


def _time_functions(folder: Path, threads: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as empty:
        worker = Worker(
            "functions:float32", str(folder), threads, NUMBA_CACHE_DIR=empty
        )
        try:
            return worker.ask("functions")
        finally:
            worker.close()


def _write(result: dict[str, Any], path: Path) -> None:
    try:
        write_atomically(
            path, lambda new: Path(new).write_text(json.dumps(result, indent=1))
        )
    except OSError as error:
        raise NpgptError(f"{path}: cannot be written ({error.strerror})") from None


def bench_decoding(
    name: str,
    size: str | None,
    assistant: str | None,
    backend: str,
    rounds: int = 5,
) -> tuple[list[rules.Timing], list[decoding.Comparison]]:
    """What every rule costs, and what beams and drafts gain with one model."""
    if size is not None:
        from npgpt.training.loop import init_params

        model = GPT2(init_params(CHECKPOINTS[size]), backend=backend)
    else:
        model = GPT2.from_pretrained(name, backend=backend)
        if assistant is None and name == "tales":
            assistant = "tales-mini"
    other = None if assistant is None else GPT2.from_pretrained(assistant, backend)
    costs = list(rules.time_rules(runs=10 * rounds))
    return costs, decoding.time_strategies(model, other, rounds=rounds)
