"""How fast the strategies are: beams against separate runs, drafts against greedy.

Every comparison is of one model with itself; the runs take turns, medians count. What
must come out the same is compared in the same run. What a rule costs a row of logits is
in npgpt.bench.rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from npgpt.bench.functions import median_and_spread, unsteady
from npgpt.decoding.generation import Generation
from npgpt.interface import Model
from npgpt.model import GPT2

OPENING = "The king"
PASSAGE = (
    "The miller had three sons, and to the eldest he gave the mill, to the second the "
    "donkey, and to the youngest nothing but the cat. "
)


@dataclass(frozen=True)
class Comparison:
    """Tokens a second of a strategy and of what it is compared with."""

    name: str
    tokens_per_second: float
    baseline: float
    goal: float  # the ratio that is wanted
    agrees: bool  # its text is greedy search's; beams: its score is the text's
    spread: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times the baseline."""
        return self.tokens_per_second / self.baseline

    @property
    def met(self) -> bool | None:
        """Whether the ratio is reached; None where none is wanted."""
        return self.ratio >= self.goal if self.goal else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}

    def __str__(self) -> str:
        met = "met" if self.met else "NOT met"
        goal = f" (goal {self.goal:g}: {met})" if self.goal else ""
        return (
            f"{self.name:<34} {self.tokens_per_second:8.1f} tok/s, "
            f"{self.ratio:5.2f} x {self.baseline:.1f}{goal}, "
            + ("agrees" if self.agrees else "DISAGREES")
            + unsteady(self.spread)
        )


def time_strategies(
    model: GPT2, assistant: GPT2 | None = None, new_tokens: int = 64, rounds: int = 3
) -> list[Comparison]:
    """Beam search of 4 beams, prompt lookup, and greedy decoding with an assistant.

    Beams count the tokens of all four texts in the making, against four texts one after
    another. Prompt lookup continues a text that it has read once already, as a summary
    that quotes does.
    """
    n = min(new_tokens, max(1, model.config.n_positions // 4))
    options: dict[str, Any] = dict(max_new_tokens=n, eos_token_id=(), defaults=False)
    prompt, quote = _prompts(model, model.config.n_positions - n, options)
    runs: dict[str, Callable[[], list[Generation]]] = {
        "greedy": lambda: model.generate([prompt], **options),
        "beam": lambda: model.generate([prompt], num_beams=4, **options),
        "greedy, quoting": lambda: model.generate([quote], **options),
        "lookup": lambda: model.generate(
            [quote], prompt_lookup_num_tokens=10, max_matching_ngram_size=3, **options
        ),
    }
    if assistant is not None:
        runs["assisted"] = lambda: model.generate(
            [prompt], assistant_model=assistant, num_assistant_tokens=4, **options
        )
    seconds, texts = _times(runs, rounds)

    def comparison(name, run, baseline, goal, agrees, rows=1):
        middle, spread = median_and_spread(seconds[run])
        base = n / median_and_spread(seconds[baseline])[0]
        return Comparison(name, rows * n / middle, base, goal, agrees, spread)

    found = [
        comparison(
            "beam search, 4 beams",
            "beam",
            "greedy",
            3.0,
            _scored_rightly(model, prompt, texts["beam"]),
            rows=4,
        ),
        comparison(
            "prompt lookup, a text that repeats",
            "lookup",
            "greedy, quoting",
            1.5,
            same_text(texts["lookup"], texts["greedy, quoting"]),
        ),
    ]
    if assistant is not None:
        found.append(
            comparison(
                "greedy with an assistant",
                "assisted",
                "greedy",
                0.0,
                same_text(texts["assisted"], texts["greedy"]),
            )
        )
    return found


def same_text(text: Generation, greedy: Generation) -> bool:
    """Whether the tokens are those of greedy search, up to the first near-tie.

    One reading of many tokens rounds otherwise than many of one: where the two best
    tokens are closer than 1e-4, either is right, and the texts may part.
    """
    for i, (a, b) in enumerate(zip(text.ids, greedy.ids, strict=True)):
        if a != b:
            return abs(text.logprobs[i] - greedy.logprobs[i]) < 1e-4
    return True


def _scored_rightly(model: Model, prompt: list[int], text: Generation) -> bool:
    """Whether a beam's log-probabilities are those of reading its text in one pass."""
    cache = model.new_cache(1)
    (z,) = model.all_logits([prompt + text.ids[:-1]], cache, [len(text.ids)])
    z = z.astype(np.float64)
    lp = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))
    lp -= z.max(1, keepdims=True)
    read = lp[np.arange(len(text.ids)), text.ids]
    return bool(np.abs(read - text.logprobs).max() < 1e-3)


def _prompts(
    model: GPT2, room: int, options: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """A prompt, and a text that the model goes on to quote: one of its own, twice.

    Its own, since small models do not quote what they would not say.
    """
    if model.tokenizer is None:
        prompt = [(7919 * i) % model.config.vocab_size for i in range(30)][: room // 2]
        opening = prompt
    else:
        prompt, opening = model.encode(PASSAGE)[: room // 2], model.encode(OPENING)
    opening = opening[: room // 4]
    (more,) = model.generate([opening], **options)
    text = opening + more.ids
    return prompt, (2 * text[: room // 2])[:room]


def _times(
    runs: dict[str, Callable[[], list[Generation]]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Generation]]:
    """Seconds of every run, in turn, and its one text (the warm-up's)."""
    texts = {name: run()[0] for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, texts
