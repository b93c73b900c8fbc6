"""Which loop runs: guidance wraps the model, then a search or the sampling loop."""

from __future__ import annotations

from collections.abc import Iterator

from npgpt.decoding.catalogue import strategies
from npgpt.decoding.job import Job
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step
from npgpt.decoding.sampling import sample
from npgpt.errors import DecodingError
from npgpt.interface import Cache, Model, Rows


def decode(
    model: Model, prompts: Rows, options: GenerationConfig, cache: Cache | None = None
) -> Iterator[Step]:
    """Steps of every row under these options.

    Row i * num_return_sequences + j is sequence j of prompt i. What cannot work is
    refused here, before the first step is asked for.
    """
    _check_parts(options)
    for guidance in options.active("guidance"):
        if cache is not None:
            raise DecodingError(
                f"a cache cannot be given to {guidance.name}, which keeps its own"
            )
        model = guidance.function(model, prompts, options)
    for search in options.active("search"):
        return search.function(Job(model, prompts, options, cache))
    return sample(model, prompts, options, cache)


def _check_parts(options: GenerationConfig) -> None:
    """Raise DecodingError for a part whose strategy is not asked for."""
    whole = [s for kind in ("search", "guidance") for s in options.active(kind)]
    for part in options.active("part"):
        switch = part.switched_by
        if any(s.switched_by in part.also or switch in s.also for s in whole):
            continue
        owners = [
            s.switched_by
            for s in strategies()
            if s.kind != "part" and (s.switched_by in part.also or switch in s.also)
        ]
        raise DecodingError(f"{switch} changes nothing without {' or '.join(owners)}")
