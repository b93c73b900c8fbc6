"""What is to be compared, and one text that came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from npgpt.errors import GridError
from npgpt.lab.grid import Setting
from npgpt.support.arguments import check_fields

LENGTH, FEWEST = 64, 4  # new tokens of a text where none are asked for; at least
MOST_SEEDS = 10_000  # seeds of one prompt; those of the next begin after them


@dataclass(frozen=True)
class Plan:
    """What is to be run. Models are names, which every process loads for itself.

    seeds: texts a setting and prompt; text k of prompt i has seed 10,000 i + k, with
    which `generate` writes it again. max_new_tokens: tokens a text, at most; None: 64,
    or what fits the models (npgpt.lab.run.fitted). judge: a second model, which scores
    too. backend and dtype are those of all models.
    """

    model: str
    settings: Sequence[Setting]
    prompts: Sequence[str]
    seeds: int = 5
    max_new_tokens: int | None = None
    judge: str | None = None
    backend: str = "numpy"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self, GridError)
        if not 2 <= self.seeds <= MOST_SEEDS:
            raise GridError(
                f"seeds must be 2 to {MOST_SEEDS:,}, not {self.seeds}: one text alone "
                "has no diversity"
            )
        n = self.max_new_tokens
        if n is not None and n < FEWEST:
            raise GridError(
                f"max_new_tokens must be at least {FEWEST}, not {n}: the measures "
                "count runs of four tokens"
            )
        if not self.settings or not self.prompts:
            raise GridError(
                "there is nothing to compare without a setting and a prompt"
            )
        if len(set(self.prompts)) < len(self.prompts):
            raise GridError("a prompt stands there twice; ask for more seeds instead")


class Text(NamedTuple):
    """One continuation. Log-probabilities are sums in nats, given the prompt."""

    setting: str
    prompt: int
    seed: int
    text: str
    ids: list[int]
    finish_reason: str
    logprob: float  # under the model itself, whatever the strategy made of it
    judge_logprob: float | None = None
    judge_tokens: int = 0  # the judge's own, which may be cut differently
