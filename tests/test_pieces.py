"""Large arrays, some rows at a time, give what they give in one."""

import numpy as np
import pytest

from npgpt import blocked, ops
from npgpt.backend import NUMPY
from npgpt.training import backward


@pytest.mark.parametrize("options", [{}, {"window": 70}, {"causal": False}])
@pytest.mark.parametrize("masks", [0, 1, 2])
def test_pieces_are_the_whole(options, masks):
    rng = np.random.default_rng(masks)
    B, H, T, S, D = 2, 2, 300, 340, 8
    q, k, v = (rng.standard_normal((B, H, n, D)) for n in (T, S, S))
    if masks:
        seen = rng.random((masks, T, S)) < 0.5
        options = {**options, "mask": seen | np.eye(T, S, S - T, dtype=bool)}
    found = blocked.attention(q, k, v, **options)
    np.testing.assert_allclose(found, ops.attention(q, k, v, **options), atol=1e-12)


def test_numpy_reads_prompts_in_pieces():
    seen, whole = [], ops.attention

    def attention(q, *rest, **options):
        seen.append(q.shape[2])
        return whole(q, *rest, **options)

    q = np.ones((1, 1, 300, 4), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked.ops, "attention", attention)
        NUMPY.attention(q, q, q)
    assert max(seen) == blocked.QUERIES
    assert sum(seen) == 300


@pytest.mark.parametrize("shape", [(3, 700, 40), (2, blocked.NUMBERS), (7, 9)])
def test_functions_of_rows_are_the_whole(shape):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape))
    weight, bias = rng.standard_normal((2, shape[-1]))
    np.testing.assert_array_equal(blocked.gelu(x), ops.gelu(x))
    np.testing.assert_array_equal(
        blocked.layer_norm(x, weight, bias, 0.1), ops.layer_norm(x, weight, bias, 0.1)
    )
    np.testing.assert_array_equal(
        backward.gelu(dy, x), backward.gelu.__wrapped__(dy, x)
    )
    found = backward.layer_norm(dy, x, weight, epsilon=0.1)
    whole = backward.layer_norm.__wrapped__(dy, x, weight, epsilon=0.1)
    for a, b in zip(found, whole, strict=True):  # sums in another order
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_large_arrays_go_through_in_pieces_and_others_whole():
    sizes = []

    @blocked.by_rows(2)
    def function(x, y):
        sizes.append(x.size)
        return x + y

    x = np.ones((64, blocked.NUMBERS // 16), np.float32)
    assert (function(x, x) == 2).all()
    assert sizes == [blocked.NUMBERS] * 4
    for y in (x[:, ::2], x[:8], x[0]):
        sizes.clear()
        assert function(y, y).shape == y.shape
        assert sizes == [y.size]
    sizes.clear()
    assert (function(x, y=x) == 2).all()
    assert (function(x=x, y=x) == 2).all()
    assert sizes == [x.size] * 2
    sizes.clear()
    assert function(x, x[0]).shape == x.shape  # not equal in shape: NumPy's broadcast
    assert sizes == [x.size]
