"""Laws of the key-value cache."""

import numpy as np
import pytest

from npgpt import ContextOverflowError, DecodingError
from npgpt.cache import KVCache

RNG = np.random.default_rng(0)


def filled(lengths, n_positions=8, L=2, H=2, D=3):
    """A cache whose rows hold 0 .. length - 1 as ids, with random keys and values."""
    cache = KVCache(L, len(lengths), H, n_positions, D)
    cache.k[:] = RNG.standard_normal(cache.k.shape)
    cache.v[:] = RNG.standard_normal(cache.v.shape)
    for row, length in enumerate(lengths):
        cache.ids[row] = list(range(10 * row, 10 * row + length))
    return cache


def same_row(a, i, b, j):
    n = len(a.ids[i])
    return (
        a.ids[i] == b.ids[j]
        and (a.k[:, i, :, :n] == b.k[:, j, :, :n]).all()
        and (a.v[:, i, :, :n] == b.v[:, j, :, :n]).all()
    )


def test_write_puts_each_row_behind_its_own_positions():
    cache = filled([2, 5])
    before = cache.k.copy()
    k, v = RNG.standard_normal((2, 2, 2, 2, 3)).astype(np.float32)
    keys, values = cache.write(1, k, v)
    assert keys.shape == values.shape == (2, 2, 7, 3)
    assert (keys[0, :, 2:4] == k[0]).all()
    assert (values[1, :, 5:7] == v[1]).all()
    assert (cache.k[0] == before[0]).all()
    assert (cache.k[1, 1, :, :5] == before[1, 1, :, :5]).all()
    assert cache.lengths.tolist() == [2, 5]
    cache.extend(np.array([[7, 8], [9, 9]]))
    assert cache.ids == [[0, 1, 7, 8], [10, 11, 12, 13, 14, 9, 9]]


def test_write_beyond_the_end_is_refused():
    cache = filled([7, 3])
    k = np.zeros((2, 2, 2, 3), np.float32)
    with pytest.raises(ContextOverflowError, match="9 positions asked of a cache with"):
        cache.write(0, k, k)


def test_select_takes_rows_and_is_independent():
    cache = filled([2, 5, 1])
    new = cache.select([2, 1, 1])
    for i, j in enumerate([2, 1, 1]):
        assert same_row(new, i, cache, j)
    new.k[:] = 0
    new.ids[0].append(5)
    assert cache.k.any()
    assert cache.ids[2] == [20]


def test_repeat_puts_copies_side_by_side():
    cache = filled([2, 5])
    new = cache.repeat(2)
    assert [same_row(new, i, cache, j) for i, j in enumerate([0, 0, 1, 1])] == [
        True
    ] * 4


def test_put_replaces_one_row():
    cache, other = filled([2, 5]), filled([4])
    kept = cache.select([1])
    cache.put(0, other)
    assert same_row(cache, 0, other, 0)
    assert same_row(kept, 0, cache, 1)


def test_gather_keeps_positions_in_order():
    cache = filled([6, 4])
    old = cache.select([0, 1])
    cache.gather([[0, 1, 4], [0, 3]])
    assert cache.ids == [[0, 1, 4], [10, 13]]
    assert (cache.k[:, 0, :, 2] == old.k[:, 0, :, 4]).all()
    assert (cache.v[:, 1, :, 1] == old.v[:, 1, :, 3]).all()


def test_crop_forgets_and_never_invents():
    cache = filled([6, 4])
    cache.crop([2, 4])
    assert cache.ids == [[0, 1], [10, 11, 12, 13]]
    cache.crop(1)
    assert cache.lengths.tolist() == [1, 1]
    for lengths in (2, [0, 5], -1, [1]):
        with pytest.raises(DecodingError, match="crop"):
            cache.crop(lengths)


def test_nbytes_is_what_is_set_aside():
    cache = KVCache(3, 2, 4, 16, 8, dtype="float64")
    assert cache.nbytes == cache.k.nbytes + cache.v.nbytes
