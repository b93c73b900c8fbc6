"""Token ids and positions, checked before any arithmetic sees them.

A kernel has no bounds checks, and an array library wraps a negative index around: what
is wrong is said here, in one sentence.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.shapes import Array, Bool, Int


def check_ids(ids: Any, config: GPT2Config) -> Int[np.ndarray, "B T"]:
    """Token ids as an integer array (B, T) within the vocabulary, or DecodingError."""
    ids = as_array(ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise DecodingError(f"token ids must be (B, T) with B, T >= 1, not {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise DecodingError(f"token ids must be whole numbers, not {ids.dtype}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        bad = ids[(ids < 0) | (ids >= config.vocab_size)][0]
        raise DecodingError(
            f"token id {bad} is not in the vocabulary, 0 to {config.vocab_size - 1}"
        )
    return ids.astype(np.int64, copy=False)


def as_array(ids: Any) -> np.ndarray:
    """np.asarray, where what cannot be an array of ids is a DecodingError."""
    try:
        return np.asarray(ids)
    except (ValueError, TypeError, OverflowError):
        raise DecodingError("token ids must be rows of equal length") from None


def check_positions(positions: Int[np.ndarray, "_ T"], config: GPT2Config) -> None:
    """Raise ContextOverflowError unless every position has an embedding."""
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= config.n_positions:
        raise ContextOverflowError(
            f"position {high if high >= config.n_positions else low} is outside the "
            f"model's {config.n_positions}; shorten the text, or generate with "
            "overflow='slide'"
        )


def placed(
    ids: Int[np.ndarray, "B T"],
    cache: KVCache | None,
    positions: Int[np.ndarray, "_ T"] | None,
    mask: Bool[Array, "_ T S"] | None,
    config: GPT2Config,
    xp: ModuleType,
) -> tuple[Int[np.ndarray, "_ T"], bool, Bool[Array, "_ T S"] | None]:
    """Positions of new ids, whether the plain causal rule holds, and the mask if not.

    The tokens follow what the cache holds, row by row, unless `positions` says
    otherwise. Raises ContextOverflowError beyond the model's positions.
    """
    B, T = ids.shape
    lengths = np.zeros(B, np.int64) if cache is None else cache.lengths
    if len(lengths) != B:
        raise DecodingError(f"{B} rows of ids for a cache of {len(lengths)} rows")
    S = int(lengths.max()) + T
    running = lengths[:, None] + np.arange(T)
    ragged = bool((lengths != lengths[0]).any())
    if positions is None:
        positions = running if ragged else running[:1]
    check_positions(positions, config)
    if mask is not None and not xp.all(xp.any(mask, axis=-1)):
        raise DecodingError("mask: every query must be allowed to see at least one key")
    if ragged:
        # Row b's token t stands at lengths[b] + t; what the cache holds beyond that is
        # another row's room, not text.
        visible = xp.asarray(np.arange(S) <= running[:, :, None])  # (B, T, S)
        mask = visible if mask is None else mask & visible
    return positions, not ragged, mask
