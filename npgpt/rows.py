"""Rows of different lengths read side by side, a chunk at a time, behind a cache.

New ids are filled up on the right to one length; the causal mask hides the filling from
every real token, and the cache is cropped afterwards. Where the filling would not fit,
each row is read alone. What is done with the hidden states is npgpt.reader's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from npgpt import gpt2
from npgpt.backend import Backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.errors import DecodingError
from npgpt.ids import check_ids
from npgpt.shapes import Array, Int
from npgpt.support.arguments import is_list, shown
from npgpt.taps import Tap

PREFILL_CHUNK = 1024  # tokens of all rows read at once: bounds what a layer holds

Rows = Sequence[Sequence[int]]
Result = TypeVar("Result")


@runtime_checkable
class Readable(Protocol):
    """What a model is made of, to those who read with it."""

    params: gpt2.GPT2Params
    config: GPT2Config
    backend: Backend
    tap: Tap


class Filled(NamedTuple):
    """Rows made equally long: the ids, and each row's new and final length."""

    ids: Int[np.ndarray, "B T"]
    lengths: list[int]
    ends: list[int]


def fill_up(ids: Rows, cache: KVCache, config: GPT2Config) -> Filled | None:
    """Rows made equally long on the right; None where the filling would not fit."""
    lengths = [len(new) for new in ids]
    T, room = max(lengths), min(cache.n_positions, config.n_positions)
    if min(lengths) < T and int(cache.lengths.max()) + T > room:
        return None
    if min(lengths) == T:
        filled = check_ids(ids, config)
    else:
        filled = np.zeros((len(ids), T), np.int64)
        for row, new in enumerate(ids):
            filled[row, : len(new)] = check_ids([new], config)
    ends = [len(held) + n for held, n in zip(cache.ids, lengths, strict=True)]
    return Filled(filled, lengths, ends)


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


def read_hidden(model: Readable, ids: Rows, cache: KVCache) -> list[Array]:
    """Hidden states of every new id: one (T, C) a row, on the backend."""
    filled = fill_up(ids, cache, model.config)
    if filled is None:
        return by_row(ids, cache, lambda new, one: read_hidden(model, [new], one)[0])
    hidden = [h for _, h in by_chunk(model, filled.ids, cache)]
    cache.crop(filled.ends)
    return cut(model, hidden, filled)


def read_states(model: Readable, ids: Rows, cache: KVCache) -> list[list[Array]]:
    """Hidden states of every layer: [layer][row] is (T, C)."""
    filled = fill_up(ids, cache, model.config)
    if filled is None:
        rows = by_row(ids, cache, lambda new, one: read_states(model, [new], one))
        return [[row[layer][0] for row in rows] for layer in range(len(rows[0]))]
    chunks = [
        states
        for _, (_, states) in by_chunk(
            model, filled.ids, cache, output_hidden_states=True
        )
    ]
    cache.crop(filled.ends)
    return [cut(model, parts, filled) for parts in zip(*chunks, strict=True)]


def by_chunk(
    model: Readable,
    ids: np.ndarray,
    cache: KVCache,
    after: tuple[int, Array] | None = None,
    **how: Any,
) -> Iterator[tuple[int, Any]]:
    """gpt2.hidden_states of ids (B, T), some positions at a time, each with its start.

    PREFILL_CHUNK tokens, or one a row, are read at once.
    """
    B, T = ids.shape
    size = max(1, PREFILL_CHUNK // B)
    how.setdefault("tap", model.tap)
    for start in range(0, T, size):
        part = slice(start, start + size)
        if after is not None:
            how["after"] = after[0], after[1][:, part, :]
        yield (
            start,
            gpt2.hidden_states(
                model.params, ids[:, part], cache, backend=model.backend, **how
            ),
        )


def by_row(
    ids: Rows, cache: KVCache, read: Callable[[Sequence[int], KVCache], Result]
) -> list[Result]:
    """read(its ids, its cache) of every row for itself."""
    results = []
    for row, new in enumerate(ids):
        one = cache.select([row])
        results.append(read(new, one))
        cache.put(row, one)
    return results


def cut(model: Readable, chunks: Sequence[Array], filled: Filled) -> list[Array]:
    """Chunks (B, _, C) side by side, each row without what it was filled up with."""
    x = chunks[0] if len(chunks) == 1 else model.backend.xp.concat(chunks, axis=1)
    return [x[row, :length] for row, length in enumerate(filled.lengths)]
