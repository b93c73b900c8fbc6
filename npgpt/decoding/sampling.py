"""The loop: read the prompts, then choose, append and read one token a row at a time.

Greedy search is this loop with argmax. It talks to a model through four things:
`config`, `tokenizer` (or None), `new_cache(rows)` and `next_logits(ids, cache)`, and
decides nothing about probabilities itself: the chain and the selector do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from npgpt.decoding.job import Job
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.errors import DecodingError
from npgpt.interface import Cache, Model, Rows


def sample(
    model: Model, prompts: Rows, options: GenerationConfig, cache: Cache | None = None
) -> Iterator[Step]:
    """Steps of every row, row by row within a step, until all rows have ended.

    Row i * num_return_sequences + j is sequence j of prompt i. A cache from
    `model.new_cache(len(prompts))` keeps what it has read for the next call. What
    cannot work is refused here, before the first step is asked for.
    """
    job, n = Job(model, prompts, options, cache), len(prompts)
    job.check_room()
    for name in ("stop_strings", "token_healing"):
        if options.is_set(name) and job.tokenizer is None:
            raise DecodingError(f"{name} need a tokenizer, and this model has none")
    if cache is not None and cache.batch != n:
        raise DecodingError(f"a cache of {cache.batch} rows for {n} prompts")
    if cache is not None and cache.n_positions < job.room:
        raise DecodingError(
            f"a reused cache needs all {job.room} of the model's positions"
        )

    def choose(row: Row, logits: np.ndarray) -> Step:
        z = row.processed(logits)
        id, row.state = job.selector.choose(row.ids, z, row.context, row.state)
        return record(row, id, logits, z)

    return write(job, job.rows(), choose)


def write(
    job: Job, rows: Sequence[Row], choose: Callable[[Row, np.ndarray], Step]
) -> Iterator[Step]:
    """The texts of some rows, equally many a prompt, which is read once.

    choose(row, logits) gives a row its next token.
    """
    if not job.options.max_new_tokens:
        return
    n = len(rows) // len(job.prompts)
    z, cache = job.read([row.ids for row in rows[::n]], job.cache)
    if n > 1:
        cache, z = cache.repeat(n), np.repeat(z, n, axis=0)
    while True:
        for row, logits in zip(rows, z, strict=True):
            yield choose(row, logits)
        alive = [i for i, row in enumerate(rows) if row.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            rows, cache = [rows[i] for i in alive], cache.select(alive)
        unread = [_unread(row, i, cache) for i, row in enumerate(rows)]
        z = job.model.next_logits(unread, cache)


def _unread(row: Row, index: int, cache: Cache) -> list[int]:
    """What the model has to read next for this row: the last token, as a rule.

    When the row has filled all positions, its cache is dropped and the last half of the
    context read again: learned positions are part of the keys, so they cannot be moved.
    """
    if len(cache.ids[index]) < cache.n_positions:
        return row.ids[-1:]
    cache.crop_row(index, 0)
    return row.ids[-(cache.n_positions // 2) :]
