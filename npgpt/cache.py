"""KVCache: the keys and values of the positions that a model has already read.

Preallocated for all positions, one length per row, so that rows of different length
share a batch: row b holds positions 0 .. lengths[b] - 1 at their own place, without
padding. What lies beyond a row's length is never looked at. The cache knows which
token ids it has read, and nothing about the model that reads them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.shapes import Array
from npgpt.support.arguments import checked, shown


class KVCache:
    """Keys and values of L layers, B rows, H heads, n_positions places, width D.

    >>> cache = KVCache(L=2, B=1, H=4, n_positions=8, D=16)
    >>> cache.nbytes, cache.lengths.tolist()
    (8192, [0])
    """

    @checked(DecodingError)
    def __init__(
        self,
        L: int,
        B: int,
        H: int,
        n_positions: int,
        D: int,
        *,
        dtype: str = "float32",
        xp: ModuleType = np,
    ):
        self.xp = xp
        self.dtype = dtype
        shape = (L, B, H, n_positions, D)
        try:
            self.k = xp.zeros(shape, dtype=getattr(xp, dtype))
            self.v = xp.zeros(shape, dtype=getattr(xp, dtype))
        except (MemoryError, ValueError, OverflowError) as error:
            raise DecodingError(
                f"there cannot be a cache of {B} rows with {n_positions} positions "
                f"({error})"
            ) from None
        self.ids: list[list[int]] = [[] for _ in range(B)]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"xp": self.xp.__name__}  # a pickle holds no modules

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, xp=importlib.import_module(state["xp"]))

    @property
    def lengths(self) -> np.ndarray:
        """Positions held by each row, (B,)."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return self.k.shape[1]

    @property
    def n_positions(self) -> int:
        """Places that each row has."""
        return self.k.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes set aside for keys and values together."""
        return 2 * math.prod(self.k.shape) * np.dtype(self.dtype).itemsize

    def write(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Put the new keys and values of one layer behind each row's positions.

        k and v are (B, H, T, D). Returns views (B, H, S, D) of all keys and values,
        S = longest row + T. The lengths move only with `extend`, after the last layer.
        """
        T, lengths = k.shape[2], [len(row) for row in self.ids]
        S = max(lengths) + T
        if self.n_positions < S:
            raise ContextOverflowError(
                f"{S} positions asked of a cache with room for {self.n_positions}; "
                "shorten the text, or generate with overflow='slide'"
            )
        if min(lengths) == max(lengths):
            self.k[layer, :, :, S - T : S, :] = k
            self.v[layer, :, :, S - T : S, :] = v
        else:
            for row, start in enumerate(lengths):
                self.k[layer, row, :, start : start + T, :] = k[row, ...]
                self.v[layer, row, :, start : start + T, :] = v[row, ...]
        return self.k[layer, :, :, :S, :], self.v[layer, :, :, :S, :]

    def extend(self, ids: np.ndarray) -> None:
        """Count the T positions just written as read: ids (B, T)."""
        for row, new in zip(self.ids, ids.tolist(), strict=True):
            row.extend(new)

    def crop(self, lengths: int | Sequence[int]) -> None:
        """Forget all but the first `lengths` positions (one number, or one a row)."""
        if isinstance(lengths, int):
            lengths = [lengths] * self.batch
        if not isinstance(lengths, Sequence) or len(lengths) != self.batch:
            raise DecodingError(f"crop needs a length for each of {self.batch} rows")
        for row, length in enumerate(lengths):
            self.crop_row(row, length)

    def crop_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` positions of one row."""
        _indices([row], self.batch, "cache rows")
        held = len(self.ids[row])
        if not isinstance(length, int | np.integer) or not 0 <= length <= held:
            raise DecodingError(
                f"cannot crop a cache row of {held} positions to {shown(length)}"
            )
        del self.ids[row][length:]

    def put(self, row: int, other: KVCache) -> None:
        """Replace one row by the only row of another cache."""
        _indices([row], self.batch, "cache rows")
        if not isinstance(other, KVCache) or other.batch != 1:
            raise DecodingError(f"put takes the cache of one row, not {shown(other)}")
        S = len(other.ids[0])
        if other.k.shape[::2] != self.k.shape[::2] or self.n_positions < S:
            raise DecodingError("put takes a row of the same model, that has room here")
        self.k[:, row, :, :S, :] = other.k[:, 0, :, :S, :]
        self.v[:, row, :, :S, :] = other.v[:, 0, :, :S, :]
        self.ids[row] = list(other.ids[0])

    def select(self, rows: Sequence[int]) -> KVCache:
        """A new cache with these rows, in this order; a row may be taken repeatedly."""
        rows = _indices(rows, self.batch, "cache rows")
        return self._taken(rows, len(rows))

    @checked(DecodingError)
    def repeat(self, n: int) -> KVCache:
        """A new cache with every row n times in a row (B * n rows)."""
        rows = (row for row in range(self.batch) for _ in range(n))
        return self._taken(rows, self.batch * n)

    def copy_row(self, target: int, source: int) -> None:
        """Make one row equal to another, copying only from where their ids part."""
        _indices([target, source], self.batch, "cache rows")
        new = self.ids[source]
        at, S = common_prefix(self.ids[target], new), len(new)
        for array in (self.k, self.v):
            array[:, target, :, at:S, :] = array[:, source, :, at:S, :]
        self.ids[target] = list(new)

    def gather(self, positions: Sequence[Sequence[int]]) -> None:
        """Keep only these positions of each row, moved together in this order.

        For token trees: the branch that was accepted becomes the text.
        """
        if not isinstance(positions, Sequence) or len(positions) != self.batch:
            raise DecodingError(f"gather needs positions for each of {self.batch} rows")
        kept = [
            _indices(keep, len(held), "positions of a cache row")
            for keep, held in zip(positions, self.ids, strict=True)
        ]
        for row, keep in enumerate(kept):
            still = next((i for i, p in enumerate(keep) if i != p), len(keep))
            index = self.xp.asarray(keep[still:], dtype=self.xp.int64)
            for array in (self.k, self.v):
                moved = self.xp.take(array[:, row, :, :, :], index, axis=2)
                array[:, row, :, still : len(keep), :] = moved
            self.ids[row] = [self.ids[row][i] for i in keep]

    def _taken(self, rows: Iterable[int], n: int) -> KVCache:
        L, _, H, n_positions, D = self.k.shape
        new = KVCache(L, n, H, n_positions, D, dtype=self.dtype, xp=self.xp)
        for target, source in enumerate(rows):
            S = len(self.ids[source])
            new.k[:, target, :, :S, :] = self.k[:, source, :, :S, :]
            new.v[:, target, :, :S, :] = self.v[:, source, :, :S, :]
            new.ids[target] = list(self.ids[source])
        return new


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts begin with together.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    n = min(len(a), len(b))
    for end in (n, max(n - 1, 0)):  # beams and candidates differ at the end
        if a[:end] == b[:end]:
            return end
    return next((i for i in range(n) if a[i] != b[i]), n)


def keep_common(cache: Any, row: int, ids: Sequence[int]) -> list[int]:
    """Crop one row of a cache to what begins these ids too; the ids left to be read.

    The last id is always left: a reading of nothing has no logits.
    """
    same = min(common_prefix(cache.ids[row], ids), len(ids) - 1)
    cache.crop_row(row, same)
    return list(ids[same:])


def _indices(indices: Sequence[int], n: int, what: str) -> list[int]:
    """The indices as a list, each of them in [0, n)."""
    if not isinstance(indices, Sequence) or isinstance(indices, str):
        raise DecodingError(
            f"{what} must be a list of whole numbers, not {shown(indices)}"
        )
    for i in indices:
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or not 0 <= i < n:
            raise DecodingError(f"{shown(i)} is not one of the {n} {what}")
    return list(indices)
