"""generate and stream: what a user calls, for a model and for a guided one alike.

Guidance wraps the model first; then one search owns the loop, or plain sampling does.
Which options ask for which is in npgpt.decoding.catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.decode import decode
from npgpt.decoding.defaults import with_defaults
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step, by_row
from npgpt.errors import DecodingError
from npgpt.interface import Model, Tokens
from npgpt.support.arguments import checked, is_list
from npgpt.support.notebook import coloured_tokens, short

PROMPT = "a prompt must be a text or a flat list of whole-number token ids"


@dataclass(frozen=True)
class Generation:
    """One generated text. ids, logprobs and the rest are of the new tokens only.

    Log-probabilities are in nats, `logprobs` under the model, `processed_logprobs`
    under what temperature, truncation and the like made of it. A stop string's tokens
    stay in ids though they are cut from text.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    processed_logprobs: list[float]
    ranks: list[int]
    finish_reason: str  # "eos", "stop", "length" or "repetition"
    prompt_ids: list[int]  # as read: token healing takes tokens back
    top_logprobs: list[tuple[tuple[int, float], ...]]
    score: float | None = None  # by which a search ranked the text
    tokens: list[str] = field(default_factory=list)  # texts; joined they are the text

    def __repr__(self) -> str:
        return (
            f"Generation({short(self.text)}, {len(self.ids)} tokens, "
            f"{self.finish_reason})"
        )

    def _repr_html_(self) -> str:
        """The text, each token on the colour of its probability under the model."""
        notes = [
            f"rank {rank}, id {id}"
            for rank, id in zip(self.ranks, self.ids, strict=True)
        ]
        return coloured_tokens(self.tokens, self.logprobs, notes)


if TYPE_CHECKING:  # a Generator is a Model; the methods are its subclasses' own
    Reader = Model
else:
    Reader = object


class Generator(Reader):
    """Whatever has `config`, `tokenizer`, `encode`, `new_cache` and `next_logits`."""

    config: GPT2Config
    tokenizer: Tokens | None

    @checked(DecodingError)
    def stream(
        self,
        prompt: Any = "",
        cache: KVCache | None = None,
        defaults: bool = True,
        **options: Any,
    ) -> Iterator[Step]:
        """Generate step by step: an iterator of Steps (text, id, log-probability).

        Takes what `generate` takes; a batch's steps carry their row. A search that
        compares whole texts yields its steps when it has ended.
        """
        prompts, _ = encode_prompts(self, prompt)
        config = _config(self.config, prompts, defaults, options)
        return decode(self, prompts, config, cache)

    @overload
    def generate(
        self,
        prompts: list[str] | list[list[int]],
        cache: KVCache | None = None,
        defaults: bool = True,
        **options: Any,
    ) -> list[Generation]: ...

    @overload
    def generate(
        self,
        prompts: Any = "",
        cache: KVCache | None = None,
        defaults: bool = True,
        **options: Any,
    ) -> Generation | list[Generation]: ...

    @checked(DecodingError)
    def generate(
        self,
        prompts: Any = "",
        cache: KVCache | None = None,
        defaults: bool = True,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Continue one prompt (a text or its ids), or a list of them.

        Keyword options are those of GenerationConfig; for those not given the model's
        generation_config.json holds, unless `defaults` is False (see
        npgpt.decoding.defaults). One prompt gives a Generation, or a list if
        num_return_sequences is above 1; a list gives a list, the sequences of each
        prompt side by side.
        """
        prompts, single = encode_prompts(self, prompts)
        config = _config(self.config, prompts, defaults, options)
        n = config.num_return_sequences
        steps = by_row(decode(self, prompts, config, cache), len(prompts) * n)
        read = [heal(prompt, self.tokenizer, config).ids for prompt in prompts]
        results = [_collect(row, read[i // n]) for i, row in enumerate(steps)]
        return results[0] if single and n == 1 else results


def encode_prompts(model: Model, prompts: Any) -> tuple[list[list[int]], bool]:
    """Ids of every prompt, and whether there was just one, not in a list."""
    if isinstance(prompts, str):
        return [model.encode(prompts)], True
    if not is_list(prompts):
        raise DecodingError(PROMPT)
    if not len(prompts):
        raise DecodingError("no prompts: the list is empty")
    if isinstance(prompts[0], int | np.integer):
        return [model.encode(prompts)], True
    return [model.encode(prompt) for prompt in prompts], False


def _config(
    model: GPT2Config, prompts: list[list[int]], defaults: bool, options: dict[str, Any]
) -> GenerationConfig:
    if not defaults:
        return GenerationConfig.of(options)
    return with_defaults(options, model, prompts)


def _collect(steps: Sequence[Step], prompt: list[int]) -> Generation:
    end = steps[-1].finish_reason if steps else None
    return Generation(
        text="".join(step.text for step in steps),
        ids=[step.token_id for step in steps],
        logprobs=[step.logprob for step in steps],
        processed_logprobs=[step.processed_logprob for step in steps],
        ranks=[step.rank for step in steps],
        finish_reason=end or "length",
        prompt_ids=prompt,
        top_logprobs=[step.top_logprobs for step in steps],
        score=steps[-1].score if steps else None,
        tokens=[step.text for step in steps],
    )
