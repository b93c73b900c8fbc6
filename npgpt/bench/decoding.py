"""How fast the strategies are: beams against separate runs, drafts against greedy.

Every comparison is of one model with itself, rounds in turn, best of them: the ratio is
what counts. `npgpt bench --decoding` prints it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

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
    same_tokens: bool | None = None  # where the text must be greedy search's

    @property
    def ratio(self) -> float:
        """How many times the baseline."""
        return self.tokens_per_second / self.baseline

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        same = {None: "", True: ", same tokens", False: ", OTHER TOKENS"}
        met = "met" if self.ratio >= self.goal else "NOT met"
        goal = f" (goal {self.goal:g}: {met})" if self.goal else ""
        return (
            f"{self.name:<34} {self.tokens_per_second:8.1f} tok/s, "
            f"{self.ratio:5.2f} x {self.baseline:.1f}{goal}{same[self.same_tokens]}"
        )


def measure(
    model: Any, assistant: Any = None, new_tokens: int = 64, rounds: int = 3
) -> list[Comparison]:
    """Beam search of 4 beams, prompt lookup, and greedy decoding with an assistant.

    Beams count the tokens of all four texts in the making, against four texts one after
    another. The prompt of prompt lookup repeats a passage, as quoting does.
    """
    n = max(8, min(new_tokens, model.config.n_positions // 4))
    prompt, quote = _prompts(model, model.config.n_positions - n)
    options = {"max_new_tokens": n, "eos_token_id": ()}
    runs: dict[str, Callable[[], list[int]]] = {
        "greedy": lambda: model.generate(prompt, **options).ids,
        "beam": lambda: model.generate(prompt, num_beams=4, **options).ids,
        "greedy, quoting": lambda: model.generate(quote, **options).ids,
        "lookup": lambda: (
            model.generate(
                quote, prompt_lookup_num_tokens=10, max_matching_ngram_size=3, **options
            ).ids
        ),
    }
    if assistant is not None:
        runs["assisted"] = lambda: (
            model.generate(
                prompt, assistant_model=assistant, num_assistant_tokens=4, **options
            ).ids
        )
    best, ids = _times(runs, rounds)
    greedy = n / best["greedy"]
    found = [
        Comparison("beam search, 4 beams", 4 * n / best["beam"], greedy, 3.0),
        Comparison(
            "prompt lookup, a repeated passage", n / best["lookup"],
            n / best["greedy, quoting"], 1.5, ids["lookup"] == ids["greedy, quoting"],
        ),
    ]  # fmt: skip
    if assistant is not None:
        found.append(
            Comparison(
                "greedy with an assistant", n / best["assisted"], greedy, 0.0,
                ids["assisted"] == ids["greedy"],
            )
        )  # fmt: skip
    return found


def _prompts(model: Any, room: int) -> tuple[list[int], list[int]]:
    """A prompt, and one that says the same again and again."""
    if model.tokenizer is None:
        passage = [(7919 * i) % model.config.vocab_size for i in range(30)]
    else:
        passage = model.encode(PASSAGE)
    return passage[: room // 2], (passage * (room // len(passage) + 1))[: room // 2]


def _times(
    runs: dict[str, Callable[[], list[int]]], rounds: int
) -> tuple[dict[str, float], dict[str, list[int]]]:
    best, ids = {}, {name: run() for name, run in runs.items()}  # once to warm up
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            best[name] = min(seconds, best.get(name, seconds))
    return best, ids
