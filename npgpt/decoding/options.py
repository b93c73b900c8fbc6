"""GenerationConfig: what a user may ask of generate and stream, checked as a whole.

Names and meanings are Hugging Face's where it has them. A combination that cannot do
what it says is an error, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from npgpt.config import GPT2Config
from npgpt.errors import DecodingError

OVERFLOW = ("error", "stop", "slide")


@dataclass(frozen=True)
class GenerationConfig:
    """Options of one call; the defaults are greedy search for 20 tokens.

    max_new_tokens: tokens to add, at most; 0 adds none.
    min_new_tokens: no end of text before so many.
    do_sample: draw from the distribution instead of taking its maximum.
    temperature: divides the logits; 0 is greedy. Needs do_sample, as the next two.
    top_k: keep the k most probable tokens. None: all.
    top_p: keep the smallest set of tokens that reaches this probability. None: all.
    num_return_sequences: texts per prompt, of one reading of the prompt.
    seed: names the random numbers. Text depends on (seed, prompt, sequence) alone.
    eos_token_id: ids that end a text; None takes the model's, () none at all.
    stop_strings: end when one of these is in the new text, and leave it out.
    include_stop_str_in_output: keep the stop string in the text.
    top_logprobs: so many most probable tokens are reported with every step.
    overflow: what to do beyond the model's positions. "error": refuse before any work;
        "stop": end there; "slide": keep the last half and read it again.
    logits_processor: functions (ids, z, context) -> z, after the built-in processors.
    """

    max_new_tokens: int = 20
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_return_sequences: int = 1
    seed: int = 0
    eos_token_id: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] = ()
    include_stop_str_in_output: bool = False
    top_logprobs: int = 0
    overflow: str = "error"
    logits_processor: Sequence[Callable] = ()

    def __post_init__(self):
        _whole("max_new_tokens", self.max_new_tokens, 0)
        _whole("min_new_tokens", self.min_new_tokens, 0)
        _whole("num_return_sequences", self.num_return_sequences, 1)
        _whole("top_logprobs", self.top_logprobs, 0)
        _whole("seed", self.seed, 0)
        if self.seed >= 2**64:
            raise DecodingError(f"seed must be below 2**64, not {self.seed}")
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1)
        _number("temperature", self.temperature, 0, math.inf)
        _number("top_p", self.top_p, 0, 1)
        if self.min_new_tokens > self.max_new_tokens:
            raise DecodingError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}"
            )
        for name in ("do_sample", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise DecodingError(f"{name} must be True or False")
        if not self.do_sample:
            for name in ("temperature", "top_k", "top_p"):
                if (
                    getattr(self, name) is not None
                    and not self.is_greedy_by_temperature
                ):
                    raise DecodingError(
                        f"{name} changes nothing without do_sample=True"
                    )
        if self.num_return_sequences > 1 and self.greedy:
            raise DecodingError(
                "num_return_sequences above 1 needs do_sample=True and a temperature "
                "above 0: greedy search has one result"
            )
        if self.overflow not in OVERFLOW:
            raise DecodingError(
                f"overflow must be one of {', '.join(OVERFLOW)}, not {self.overflow!r}"
            )
        if isinstance(self.stop_strings, str):
            object.__setattr__(self, "stop_strings", (self.stop_strings,))
        for stop in self.stop_strings:
            if not isinstance(stop, str) or not stop:
                raise DecodingError(
                    f"stop_strings must be non-empty texts, not {stop!r}"
                )
        for function in self.logits_processor:
            if not callable(function):
                raise DecodingError(f"logits_processor: {function!r} cannot be called")

    @classmethod
    def of(cls, options: dict[str, Any]) -> GenerationConfig:
        """The config of keyword arguments; an unknown name is a DecodingError."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise DecodingError(
                    f"unknown option {name!r}; the options are {', '.join(known)}"
                )
        return cls(**options)

    @property
    def is_greedy_by_temperature(self) -> bool:
        """Whether temperature 0 asks for greedy search."""
        return self.temperature == 0

    @property
    def greedy(self) -> bool:
        """Whether each token is the most probable one."""
        return not self.do_sample or self.is_greedy_by_temperature

    def eos_ids(self, model: GPT2Config) -> tuple[int, ...]:
        """Ids that end a text of this model."""
        eos = self.eos_token_id
        if eos is None:
            return model.eos_token_ids
        ids = (eos,) if isinstance(eos, int) else tuple(eos)
        for id in ids:
            if not isinstance(id, int) or not 0 <= id < model.vocab_size:
                raise DecodingError(
                    f"eos_token_id {id!r} is not in the vocabulary, "
                    f"0 to {model.vocab_size - 1}"
                )
        return ids


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DecodingError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
        )


def _number(name: str, value: Any, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DecodingError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        bounds = f"in [{low}, {high}]" if high < math.inf else f"at least {low}"
        raise DecodingError(f"{name} must be {bounds}, not {value!r}")
