"""What decoding costs a token: every rule and selector on one row of 50,257 logits.

Medians of many runs, in milliseconds. The model is not run here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npgpt.bench.functions import median_and_spread, unsteady
from npgpt.decoding import Context, GenerationConfig
from npgpt.decoding.catalogue import strategies
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.selection import build_selector
from npgpt.errors import DecodingError

V = 50_257
DEFAULT = dict(temperature=0.8, top_k=50, top_p=0.95)

SELECTION = "selection"  # in a case's name: the token is taken too


def cases() -> dict[str, tuple[dict[str, Any], float | None]]:
    """Name: options, and the milliseconds that it may take (None: not promised).

    After the usual chains, every rule and selector of the catalogue whose example is a
    setting that needs no text.
    """
    found: dict[str, tuple[dict[str, Any], float | None]] = {
        f"default chain with {SELECTION}": (DEFAULT, 0.5),
        f"temperature, top-p and {SELECTION}": (
            dict(temperature=0.8, top_p=0.95),
            None,
        ),
    }
    for s in strategies():
        setting = s.example
        if s.when and not isinstance(setting, dict):
            setting = dict([s.when])
        if s.constrains and s.prepare:  # it needs a text that it has written itself
            continue
        if isinstance(setting, dict) and s.kind in ("rule", "selector"):
            name = f"{SELECTION}: {s.name}" if s.kind == "selector" else s.name
            try:
                build_chain(GenerationConfig(**{"do_sample": True} | setting))
            except DecodingError:  # it needs a tokenizer
                continue
            found[name] = (setting, s.limit)
    return found


class Timing(NamedTuple):
    """One line: what was timed, its median, the spread, and what it may take."""

    name: str
    milliseconds: float
    spread: float
    goal: float | None

    @property
    def met(self) -> bool | None:
        """Whether it takes no longer than promised; None where nothing is."""
        return None if self.goal is None else self.milliseconds <= self.goal

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "met": self.met}

    def __str__(self) -> str:
        promise = ""
        if self.goal is not None:
            promise = f"  (goal {self.goal:g}: {'met' if self.met else 'NOT met'})"
        time = f"{self.name:<40} {self.milliseconds:8.3f} ms{promise}"
        return time + unsteady(self.spread)


def logits_like_gpt2(seed: int = 0) -> np.ndarray:
    """A row (50257,) of float32 shaped like a language model's: few high, a long tail.

    Normal logits of deviation 2.2 with 40 likely tokens above them.
    """
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(V) * 2.2 - 80
    z[rng.integers(0, V, 40)] += rng.uniform(8, 16, 40)
    return z.astype(np.float32)


def time_rules(runs: int = 40) -> Iterator[Timing]:
    """A Timing for every case."""
    z = logits_like_gpt2()
    ids = np.random.default_rng(1).integers(0, V, 512).tolist()
    context = Context(prompt_length=256, step=256, seed=1)
    for name, (settings, limit) in cases().items():
        options = GenerationConfig(**{"do_sample": True} | settings)
        chain, selector = build_chain(options), build_selector(options)
        state = selector.start(context)
        selects = SELECTION in name

        def one(chain=chain, selector=selector, state=state, selects=selects):
            y = run_chain(chain, ids, z, context)
            if selects:
                selector.choose(ids, y, context, state)

        yield Timing(name, *times(one, runs), limit)


def times(function: Callable[[], object], runs: int) -> tuple[float, float]:
    """The median of so many runs in milliseconds, and its spread."""
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(1e3 * (time.perf_counter() - start))
    return median_and_spread(seconds)
