"""Which loop runs: guidance wraps the model, then a search or the sampling loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from npgpt.cache import KVCache
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.registry import resolve
from npgpt.decoding.sampling import Step, sample


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: KVCache | None = None,
) -> Iterator[Step]:
    """Steps of every row under these options.

    Row i * num_return_sequences + j is sequence j of prompt i. What cannot work is
    refused here, before the first step is asked for.
    """
    for guidance in options.active("guidance"):
        model = resolve(guidance.function)(model, options)
    for search in options.active("search"):
        return resolve(search.function)(model, prompts, options, cache)
    return sample(model, prompts, options, cache)
