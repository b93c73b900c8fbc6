"""Laws of the mathematics in npgpt.ops."""

import math

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import TypeCheckError

from npgpt import ops

RNG = np.random.default_rng(0)
finite = st.floats(-1e4, 1e4, width=32)
matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=finite
)


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


@given(matrices)
def test_softmax_is_a_distribution(x):
    p = ops.softmax(x)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)  # n float32 additions


@given(matrices, finite)
def test_softmax_ignores_a_shift(x, shift):
    # The shift itself rounds: 1e4 has an ulp of 1e-3, which exp magnifies by itself.
    x = x.astype(np.float64)
    np.testing.assert_allclose(ops.softmax(x + shift), ops.softmax(x), atol=1e-10)


def test_softmax_survives_large_scores():
    assert ops.softmax(np.float32([1e30, -1e30, 1e30])).tolist() == [0.5, 0, 0.5]


@given(matrices)
def test_log_softmax_is_log_of_softmax(x):
    x = x.astype(np.float64) / 1e3  # where softmax does not underflow
    np.testing.assert_allclose(ops.log_softmax(x), np.log(ops.softmax(x)), atol=1e-10)


def test_cross_entropy_is_mean_negative_log_probability():
    z, targets = normal(3, 4, 11, dtype=np.float64), RNG.integers(0, 11, (3, 4))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    expected = np.mean(
        [-math.log(p[b, t, targets[b, t]]) for b in range(3) for t in range(4)]
    )
    assert ops.cross_entropy(z, targets) == pytest.approx(expected, rel=1e-12)


@given(matrices)
def test_layer_norm_gives_mean_zero_variance_one(x):
    x = x.astype(np.float64)
    C = x.shape[-1]
    y = ops.layer_norm(x, np.ones(C), np.zeros(C), 1e-5)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    variance = x.var(-1)
    np.testing.assert_allclose(y.var(-1), variance / (variance + 1e-5), atol=1e-6)


@pytest.mark.parametrize("T", [1, 3, 7])
@pytest.mark.parametrize("S", [7, 9])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_causal_mask_counts_from_the_bottom_right_corner(T, S, window):
    mask = ops.causal_mask(T, S, window=window)
    for i in range(T):
        for j in range(S):
            here = i + S - T
            near = window is None or here - j < window
            assert mask[i, j] == (j <= here and near)


def naive_attention(q, k, v, allowed):
    """Definition of attention, one number at a time."""
    B, H, T, D = q.shape
    out = np.zeros_like(q)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                see = [j for j in range(k.shape[2]) if allowed[b, i, j]]
                e = [math.exp(q[b, h, i] @ k[b, h, j] / math.sqrt(D)) for j in see]
                for weight, j in zip(e, see, strict=True):
                    out[b, h, i] += weight / sum(e) * v[b, h, j]
    return out


@pytest.mark.parametrize(("T", "S", "window"), [(5, 5, None), (2, 6, None), (4, 6, 2)])
def test_attention_is_its_definition(backend, T, S, window):
    q = normal(2, 3, T, 4)
    k, v = normal(2, 3, S, 4), normal(2, 3, S, 4)
    extra = RNG.random((2, T, S)) < 0.7
    extra |= np.eye(T, S, S - T, dtype=bool)
    causal = ops.causal_mask(T, S, window=window)
    to = backend.xp.asarray
    for mask, allowed in ((None, causal[None].repeat(2, 0)), (extra, causal & extra)):
        y = backend.attention(
            to(q), to(k), to(v), window=window, mask=None if mask is None else to(mask)
        )
        expected = naive_attention(q.astype(float), k.astype(float), v, allowed)
        # float32 products of unit numbers: a few ulp
        np.testing.assert_allclose(backend.to_numpy(y), expected, atol=2e-6)


def test_attention_without_causality_sees_all():
    q, k, v = normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    everything = np.ones((1, 3, 5), bool)
    np.testing.assert_allclose(
        ops.attention(q, k, v, causal=False),
        naive_attention(q.astype(float), k.astype(float), v, everything),
        atol=2e-6,
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_linear_is_a_sum_of_products(n, m, rows):
    rng = np.random.default_rng(n * 36 + m * 6 + rows)
    x, w, b = rng.random((2, rows, n)), rng.random((n, m)), rng.random(m)
    y = ops.linear(x, w, b)
    assert y.shape == (2, rows, m)
    assert y[1, 0, -1] == pytest.approx(sum(x[1, 0] * w[:, -1]) + b[-1])


def test_heads_are_cut_and_put_together_again():
    qkv = normal(2, 5, 3 * 12)
    for part, x in zip(np.split(qkv, 3, axis=-1), ops.split_heads(qkv, 4), strict=True):
        assert x.shape == (2, 4, 5, 3)
        assert (x[:, 1] == part[..., 3:6]).all()
        assert (ops.merge_heads(x) == part).all()


CALLS = {
    "softmax": lambda to: ops.softmax(to(normal(2, 5))),
    "log_softmax": lambda to: ops.log_softmax(to(normal(2, 5))),
    "gelu": lambda to: ops.gelu(to(normal(2, 5))),
    "layer_norm": lambda to: ops.layer_norm(
        to(normal(2, 5)), to(normal(5)), to(normal(5))
    ),
    "linear": lambda to: ops.linear(to(normal(2, 5)), to(normal(5, 3)), to(normal(3))),
    "embedding": lambda to: ops.embedding(strict_ids(to), to(normal(5, 3))),
    "split_heads": lambda to: ops.split_heads(to(normal(2, 5, 12)), 2)[2],
    "merge_heads": lambda to: ops.merge_heads(to(normal(1, 2, 3, 4))),
    "attention": lambda to: ops.attention(*(to(normal(1, 2, 3, 4)) for _ in "qkv")),
}


def strict_ids(to):
    return strict.asarray([[1, 0]]) if to is strict_array else np.array([[1, 0]])


def strict_array(x):
    return strict.asarray(x)


@pytest.mark.parametrize("name", CALLS)
def test_dtype_never_widens(name):
    assert CALLS[name](lambda x: x).dtype == np.float32
    assert CALLS[name](lambda x: x.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize("name", CALLS)
def test_runs_on_any_array_api_library(name):
    assert isinstance(CALLS[name](strict_array), type(strict.asarray(0.0)))


def test_arguments_are_not_written_into():
    arrays = [normal(1, 2, 3, 4) for _ in range(3)]
    copies = [x.copy() for x in arrays]
    ops.attention(*arrays)
    ops.softmax(arrays[0])
    ops.log_softmax(arrays[0])
    ops.gelu(arrays[0])
    ops.layer_norm(arrays[0], np.ones(4, np.float32), np.ones(4, np.float32))
    for x, copy in zip(arrays, copies, strict=True):
        assert (x == copy).all()


def test_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        ops.layer_norm(normal(2, 5), normal(4), normal(5))
