"""(b), (c), (d): whole models end to end, all engines in turn; and the roofline.

Engines live in processes of their own (npgpt.bench.worker). One sample of every engine
makes a round; rounds repeat. A sample of decoding is the mean of 8 steps, a sample of
a prompt is one reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from npgpt.bench.functions import median_and_spread
from npgpt.bench.worker import Worker
from npgpt.config import GPT2Config
from npgpt.errors import BackendError

PROMPT_LENGTHS = (128, 512, 1024)
CONTEXTS = (16, 512, 1000)
BATCHES = (1, 8)
OWN = ("numpy:float32", "numba:float32", "numba:bfloat16", "numba:int8")
PEERS = (
    "transformers:float32",
    "transformers:bfloat16",
    "llama.cpp:F32",
    "llama.cpp:F16",
    "llama.cpp:Q8_0",
)
PATIENCE = 8.0  # seconds: an engine slower than this reads no longer prompts
STEPS = 24  # decoded tokens of one sample, at least
TEXT = 112  # positions of a text: a sample of one row goes on to here from context 16


@dataclass(frozen=True)
class Measured:
    """One engine at one task. tokens_per_second counts the tokens of all rows."""

    engine: str
    task: str  # "prefill" or "decode"
    tokens: int  # of the prompt, or of the context
    batch: int
    seconds: float  # of the prompt, or of one step
    spread: float
    tokens_per_second: float
    roofline: float | None = None  # predicted tokens a second, from bytes and ceiling


def tasks(config: GPT2Config, quick: bool) -> list[tuple[str, int, int]]:
    """What is timed: (task, tokens, batch), within the model's positions."""
    room = config.n_positions
    prompts = [T for T in PROMPT_LENGTHS if room >= T] or [room]
    contexts = [T for T in CONTEXTS if room >= T + STEPS] or [max(1, room // 2)]
    if quick:
        prompts, contexts = prompts[:1], contexts[:1]
    found = [("prefill", T, 1) for T in prompts]
    short = contexts[:1]
    found += [
        ("decode", T, B) for B in BATCHES for T in (contexts if B == 1 else short)
    ]
    return found


def steps(context: int, batch: int, room: int) -> int:
    """Tokens that one sample decodes: as in a text, not one by one.

    A turn's first tokens find the caches full of other engines' weights.

    >>> steps(16, 1, 1024), steps(512, 1, 1024), steps(16, 8, 1024), steps(4, 1, 8)
    (96, 24, 24, 4)
    """
    text = STEPS if batch > 1 else max(STEPS, min(TEXT, room) - context)
    return min(text, room - context)


def time_engines(
    folder: str,
    config: GPT2Config,
    engines: Sequence[str],
    threads: int,
    rounds: int,
    quick: bool = False,
    say: Callable[[str], Any] = lambda line: None,
    keep: Callable[[dict[str, Any]], Any] = lambda result: None,
) -> dict[str, Any]:
    """Time every engine at every task; a dictionary with `measured` and the ceiling.

    `keep` is called with what there is after every task. An engine that fails is named
    under `absent`, with what it said, and the others go on.
    """
    workers: dict[str, Worker] = {}
    room = config.n_positions
    absent: dict[str, str] = {}
    result: dict[str, Any] = {
        "read_ceiling": None, "step_bytes": {}, "peak_memory": {}, "absent": absent,
        "greedy_loop_seconds": {}, "cached_read_rate": {}, "measured": [],
    }  # fmt: skip

    def ask(name: str | None, what: str, *numbers: int) -> Any:
        """The answer; None of an engine that is not there or no longer."""
        if name not in workers:
            return None
        try:
            return workers[name].ask(what, *numbers)
        except BackendError as error:
            absent[name] = str(error)
            workers.pop(name).close()
            return None

    measured: list[Measured] = []
    reads: list[float] = []
    patience: dict[str, int] = {}  # engine -> the longest prompt that it is given
    try:
        for name in dict.fromkeys(engines):
            say(f"starting {name}")
            try:
                workers[name] = Worker(name, folder, threads)
            except BackendError as error:
                absent[name] = str(error)
                continue
            # kernels are compiled or loaded here, untimed
            ask(name, "prefill", min(8, room))
            ask(name, "decode", min(8, room - 1), 1, 1)
        own = [name for name in workers if _is_own(name)]
        meter = next((name for name in own if name.startswith("numba")), None)
        sizes = result["step_bytes"] = {n: ask(n, "step_bytes") for n in own}
        for task, tokens, batch in tasks(config, quick):
            times: dict[str, list[float]] = {name: [] for name in workers}
            arguments: tuple[int, ...] = (tokens,)
            if task == "decode":
                arguments += (batch, steps(tokens, batch, room))
            for turn in range(rounds + 1):
                say(f"{task} {tokens}, batch {batch}: round {turn} of {rounds}")
                for name in list(workers):
                    if not _takes_part(name, task, tokens, batch, patience):
                        continue
                    seconds = ask(name, task, *arguments)
                    if seconds is None:
                        continue
                    if turn:  # the first round fills caches
                        times[name].append(seconds)
                    elif task == "prefill" and seconds > PATIENCE:
                        patience[name] = tokens  # once is enough, and no longer ones
                        times[name].append(seconds)
                if seconds := ask(meter, "read", 500_000_000):
                    reads.append(500_000_000 / seconds)
            measured += [
                _measured(name, task, tokens, batch, found)
                for name, found in times.items()
                if found
            ]
            ceiling = median_and_spread(reads)[0] if reads else None
            kv = 2 * config.n_layer * config.n_embd
            result["read_ceiling"] = ceiling
            result["measured"] = [
                asdict(with_roofline(m, sizes.get(m.engine), ceiling, kv, room))
                for m in measured
            ]
            keep(result)
        for name in [name for name in own if name in workers]:
            say(f"greedy generation, {name}")
            loop = [ask(name, "generate", min(64, room)) for _ in range(rounds)]
            if None in loop:
                continue
            result["greedy_loop_seconds"][name] = median_and_spread(loop)[0]
            size = (sizes[name] or 0) // 4 * 4
            reading = [ask(meter, "read", size) for _ in range(rounds)]
            if all(reading):
                rate = size / median_and_spread(reading)[0]
                result["cached_read_rate"][name] = rate
            if memory := ask(name, "memory"):
                result["peak_memory"][name] = memory
        keep(result)
    finally:
        for worker in workers.values():
            worker.close()
    return result


def _takes_part(
    name: str, task: str, tokens: int, batch: int, patience: dict[str, int]
) -> bool:
    """llama.cpp is timed with one row only; who was too slow reads nothing longer."""
    if name.startswith("llama"):
        return batch == 1
    if task == "prefill":
        return tokens < patience.get(name, tokens + 1)
    return tokens <= patience.get(name, tokens)


def _is_own(engine: str) -> bool:
    return not engine.startswith(("transformers", "llama"))


def _measured(
    name: str, task: str, tokens: int, batch: int, times: list[float]
) -> Measured:
    seconds, spread = median_and_spread(times)
    rate = (tokens if task == "prefill" else batch) / seconds
    return Measured(name, task, tokens, batch, seconds, spread, rate)


def with_roofline(
    m: Measured,
    step_bytes: int | None,
    ceiling: float | None,
    kv_numbers: int,
    room: int,
) -> Measured:
    """Tokens a second if a step cost its bytes alone: weights once, and the cache.

    The cache is counted as it is in the middle of a turn.
    """
    if m.task != "decode" or step_bytes is None or ceiling is None:
        return m
    width = 4 if m.engine.endswith("float32") else 2
    context = m.tokens + steps(m.tokens, m.batch, room) / 2
    moved = step_bytes + m.batch * context * kv_numbers * width
    return Measured(**{**asdict(m), "roofline": ceiling / moved * m.batch})


def goals(result: dict[str, Any]) -> list[tuple[str, float | None, float, bool]]:
    """The project's aims as (what, found, wanted, larger is better), from one run.

    None where a part of the ratio was not measured.
    """
    rate = {
        (m["engine"], m["task"], m["tokens"], m["batch"]): m["tokens_per_second"]
        for m in result["measured"]
    }
    roof = {
        m["engine"]: m["tokens_per_second"] / m["roofline"]
        for m in result["measured"]
        if m["task"] == "decode" and m["batch"] == 1 and m["tokens"] == 16
        if m["roofline"]
    }

    def ratio(a: str, b: str, task: str = "decode", T: int = 16) -> float | None:
        one, other = rate.get((a, task, T, 1)), rate.get((b, task, T, 1))
        return one / other if one and other else None

    f32, bf16, int8 = (f"numba:{d}" for d in ("float32", "bfloat16", "int8"))
    near = rate.get((f32, "decode", 16, 1))
    far = rate.get((f32, "decode", 1000, 1))
    eight = rate.get((f32, "decode", 16, 8))
    found = [
        ("float32 decode / read ceiling", roof.get(f32), 0.90, True),
        ("float32 decode / llama.cpp F32", ratio(f32, "llama.cpp:F32"), 1.25, True),
        (
            "float32 decode / transformers",
            ratio(f32, "transformers:float32"),
            1.5,
            True,
        ),
        ("bfloat16 decode / read ceiling", roof.get(bf16), 0.80, True),
        ("bfloat16 decode / llama.cpp F16", ratio(bf16, "llama.cpp:F16"), 1.5, True),
        ("int8 decode / llama.cpp Q8_0", ratio(int8, "llama.cpp:Q8_0"), 2.5, True),
        (
            "step at context 1,000 / at 16",
            near / far if near and far else None,
            1.25,
            False,
        ),
        (
            "batch 8 / batch 1, tokens/s",
            eight / near if eight and near else None,
            4.0,
            True,
        ),
    ]
    for T in PROMPT_LENGTHS:
        theirs = ratio("transformers:float32", f32, "prefill", T)
        llama = ratio("llama.cpp:F32", f32, "prefill", T)
        half = ratio("transformers:bfloat16", bf16, "prefill", T)
        found += [
            (f"prefill {T} float32, time / transformers", theirs, 0.95, False),
            (f"prefill {T} float32, time / llama.cpp F32", llama, 0.7, False),
            (f"prefill {T} bfloat16, time / transformers", half, 1.0, False),
        ]
    return found
