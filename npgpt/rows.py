"""Rows of different lengths read at once, a chunk at a time, behind what a cache holds.

New ids are filled up on the right to one length; the causal mask hides the filling from
every real token, and the cache is cropped afterwards. Where the filling would not fit,
each row is read alone. What is done with the hidden states is npgpt.reader's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npgpt import gpt2
from npgpt.cache import KVCache
from npgpt.errors import DecodingError
from npgpt.support.arguments import is_list, shown

PREFILL_CHUNK = 1024  # tokens of all rows read at once: bounds what a layer holds

Rows = Sequence[Sequence[int]]


def check_rows(ids: Rows, cache: KVCache) -> None:
    """Raise DecodingError unless these are new ids for every row of a cache."""
    check_cache(cache)
    if not is_list(ids) or len(ids) != cache.batch:
        raise DecodingError(
            f"a cache of {cache.batch} rows reads a list of ids for each"
        )
    for row in ids:
        if not is_list(row) or not len(row):
            raise DecodingError(
                f"every row must read at least one token id, not {shown(row)}"
            )


def check_cache(cache: KVCache) -> None:
    """Raise DecodingError for anything but a cache."""
    if not isinstance(cache, KVCache):
        raise DecodingError(f"cache must be a KVCache, not {shown(cache)}")


def read_hidden(model: Any, ids: Rows, cache: KVCache) -> list[Any]:
    """Hidden states of every new id: one (T, C) a row, on the backend."""
    ids, alone = fill_up(model, ids, cache)
    if alone:
        return by_row(ids, cache, lambda new, one: read_hidden(model, [new], one)[0])
    padded, ends, lengths = ids
    hidden = by_chunk(model, padded, cache)
    cache.crop(ends)
    return [hidden[row, :length] for row, length in enumerate(lengths)]


def chunks_of(padded: np.ndarray) -> Iterator[slice]:
    """Positions of (B, T) that are read at once, PREFILL_CHUNK tokens or one a row.

    >>> list(chunks_of(np.zeros((1024, 2))))
    [slice(0, 1, None), slice(1, 2, None)]
    """
    B, T = padded.shape
    size = max(1, PREFILL_CHUNK // B)
    return (slice(start, min(T, start + size)) for start in range(0, T, size))


def by_chunk(
    model: Any, padded: np.ndarray, cache: KVCache, after: Any = None, **how: Any
) -> Any:
    """gpt2.hidden_states of padded (B, T), a chunk of positions at a time."""
    chunks = []
    for part in chunks_of(padded):
        if after is not None:
            how["after"] = after[0], after[1][:, part, :]
        chunks.append(
            gpt2.hidden_states(
                model.params, padded[:, part], cache, backend=model.backend, **how
            )
        )
    return chunks[0] if len(chunks) == 1 else model.backend.xp.concat(chunks, axis=1)


def read_states(model: Any, ids: Rows, cache: KVCache) -> list[list[Any]]:
    """Hidden states of every layer: [layer][row] is (T, C)."""
    ids, alone = fill_up(model, ids, cache)
    if alone:
        rows = by_row(ids, cache, lambda new, one: read_states(model, [new], one))
        return [[row[layer][0] for row in rows] for layer in range(len(rows[0]))]
    padded, ends, lengths = ids
    xp, chunks = model.backend.xp, []
    for part in chunks_of(padded):
        chunks.append(
            gpt2.hidden_states(
                model.params,
                padded[:, part],
                cache,
                backend=model.backend,
                output_hidden_states=True,
            )[1]
        )
    cache.crop(ends)
    states = [xp.concat(parts, axis=1) for parts in zip(*chunks, strict=True)]
    return [[x[row, :n] for row, n in enumerate(lengths)] for x in states]


def fill_up(model: Any, ids: Rows, cache: KVCache) -> tuple[Any, bool]:
    """Rows made equally long on the right, or the rows and True where that cannot fit.

    The causal mask hides the filling from every real token; it is cropped afterwards.
    """
    lengths = [len(new) for new in ids]
    T = max(lengths)
    if min(lengths) < T and int(cache.lengths.max()) + T > cache.n_positions:
        return ids, True
    padded = np.zeros((len(ids), T), np.int64)
    for row, new in enumerate(ids):
        padded[row, : len(new)] = gpt2.check_ids([new], model.config)
    ends = [len(held) + n for held, n in zip(cache.ids, lengths, strict=True)]
    return (padded, ends, lengths), False


def by_row(ids: Rows, cache: KVCache, read: Any) -> list[Any]:
    """read(its ids, its cache) of every row for itself."""
    results = []
    for row, new in enumerate(ids):
        one = cache.select([row])
        results.append(read(new, one))
        cache.put(row, one)
    return results
