"""Every Numba twin of training is its reference: signature and values."""

import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from npgpt.kernels import backward as kernels
from npgpt.kernels import optim as kernel_optim
from npgpt.training import backward, optim

RNG = np.random.default_rng(0)
SLOW = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
NAMES = ("softmax", "layer_norm", "gelu", "linear", "attention", "embedding",
         "cross_entropy", "attention_scores", "attention_means",
         "split_heads")  # fmt: skip


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def exact(function, *args, **options):
    """The reference in float64."""
    args = [
        x.astype(np.float64) if getattr(x, "dtype", None) == np.float32 else x
        for x in args
    ]
    return function(*args, **options)


def assert_close(found, expected, absolute=1e-8):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        # float32 sums of up to 200 products of unit numbers, exp to 2e-7
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max() + absolute


@pytest.mark.parametrize("name", [*NAMES, "update"])
def test_backends_have_one_signature(name):
    mine, theirs = (kernel_optim, optim) if name == "update" else (kernels, backward)
    twin, reference = getattr(mine, name), getattr(theirs, name)
    ours = inspect.signature(twin).parameters.values()
    expected = inspect.signature(reference).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in expected
    ]
    first = [inspect.getdoc(f).split("\n")[0] for f in (twin, reference)]
    assert first[0] == first[1]


@SLOW
@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.booleans())
def test_elementwise_and_norm_match_reference(shape, turned):
    dy, x, weight = 3 * normal(*shape), 3 * normal(*shape), normal(shape[-1])
    if turned:  # not contiguous
        dy, x, weight = dy.T.copy().T, x.T.copy().T, weight[::-1]
    assert_close([kernels.gelu(dy, x)], [exact(backward.gelu, dy, x)])
    if shape[-1] > 2:  # of two numbers a norm leaves only their order: gradient 0
        # numbers that are nearly equal lose digits as the mean goes: spread them
        close = x.std(-1, keepdims=True) < 1
        x += close * np.linspace(-3, 3, shape[-1], dtype=np.float32)
        found = kernels.layer_norm(dy, x, weight, 1e-3)
        assert_close(found, exact(backward.layer_norm, dy, x, weight, 1e-3))


@SLOW
@given(st.integers(1, 9), st.integers(2, 1500), st.booleans(), st.booleans())
def test_cross_entropy_matches_reference(rows, V, ignore, counted):
    z, targets = 4 * normal(rows, V), RNG.integers(0, V, rows)
    options = {"count": 11 if counted else None}
    if ignore:
        targets[:: 2 if rows > 1 else 1] = -100
        options["ignore_index"] = -100
    loss, dz = kernels.cross_entropy(z, targets, **options)
    expected, reference = exact(backward.cross_entropy, z, targets, **options)
    # a float32 sum of exponentials to 2e-7: its logarithm as far, however small
    assert loss == pytest.approx(expected, rel=1e-6, abs=5e-7)
    # where p is nearly 1, p - 1 keeps the error of p, 2e-7, and of n such rows a share
    assert_close([dz], [reference], 2e-7 / (11 if counted else 1))


@SLOW
@given(st.data())
def test_attention_matches_reference(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    B, H, T, D = draw(1, 2), draw(1, 3), draw(1, 150), draw(1, 40)
    S = T + draw(0, 90)
    q, dy = normal(B, T, H, D).transpose(0, 2, 1, 3), normal(B, H, T, D)
    k, v = (normal(B, H, S + 3, D)[:, :, :S] for _ in range(2))  # views
    options = {"causal": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["window"] = draw(1, S)
    if data.draw(st.booleans()):
        seen = RNG.random((data.draw(st.sampled_from([1, B])), T, S)) < 0.5
        options["mask"] = seen | np.eye(T, S, S - T, dtype=bool)
    if data.draw(st.booleans()):
        options["scale"] = 0.3
    found = kernels.attention(dy, q, k, v, **options)
    assert_close(found, exact(backward.attention, dy, q, k, v, **options))


@SLOW
@given(st.integers(1, 70), st.integers(1, 130), st.integers(1, 9), st.booleans())
def test_embedding_matches_reference(rows, C, V, turned):
    dy, ids = normal(rows, 1, C), RNG.integers(0, V, (rows, 1))
    if turned:
        dy = dy[::-1, :, ::-1]
    found = kernels.embedding(dy, ids, V)
    assert_close([found], [exact(backward.embedding, dy, ids, V)], 1e-6)


@SLOW
@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 130), st.booleans())
def test_linear_matches_reference(rows, n, m, turned):
    dy, x, weight = normal(2, rows, m), normal(2, rows, n), normal(n, m)
    if turned:
        dy, x, weight = dy[:, :, ::-1], x[::-1], weight.T.copy().T
    # sums of up to 140 numbers of either sign, which may cancel
    assert_close(
        kernels.linear(dy, x, weight), exact(backward.linear, dy, x, weight), 1e-5
    )
    assert kernels.linear(dy, x, weight, has_bias=False)[2] is None


def test_heads_are_put_together_without_a_copy_where_they_lie_so():
    q = normal(2, 3, 5, 4)
    parts = kernels.attention(q, q, q, q)
    whole = kernels.split_heads(*parts)
    np.testing.assert_array_equal(whole, backward.split_heads(*parts))
    assert np.shares_memory(whole, parts[2])
    dq, dk, dv = parts
    for turned in ((dk, dq, dv), (dq, dk, dv.copy()), (dq[:, ::-1], dk, dv)):
        found = kernels.split_heads(*turned)
        np.testing.assert_array_equal(found, backward.split_heads(*turned))


def test_what_is_hardly_seen_is_not_seen():
    # else denormal numbers: right to any tolerance, at a hundred times the cost
    T, D = 80, 4
    q, k, v, dy = (normal(1, 1, T, D) for _ in range(4))
    k[..., 1:50, :] = 0
    q[..., 0], k[..., 0], k[..., 1:50, 0] = 1, 50, -50
    *_, dv = kernels.attention(dy, q, k, v, scale=1.0)
    assert (dv[..., 1:50, :] == 0).all()
    assert (dv[..., 0, :] != 0).all()
    assert_close([dv], [exact(backward.attention, dy, q, k, v, scale=1.0)[2]])


def test_update_matches_reference():
    p, g, m = normal(300, 70), normal(300, 70), normal(300, 70)
    v = normal(300, 70) ** 2
    arrays, doubles = [p, g, m, v], [x.astype(np.float64) for x in (p, g, m, v)]
    for step in (1, 7):
        for decay in (0.0, 0.1):
            kernel_optim.update(*arrays, step, 1e-2, 0.9, 0.95, 1e-8, decay)
            optim.update(*doubles, step, 1e-2, 0.9, 0.95, 1e-8, decay)
    assert_close(arrays, doubles)


def test_what_does_not_fit_is_refused_before_a_kernel_runs():
    x = normal(3, 8)
    for call in (
        lambda: kernels.gelu(normal(3, 7), x),
        lambda: kernels.layer_norm(x, x, normal(7)),
        lambda: kernels.layer_norm(normal(2, 8), x, normal(8)),
        lambda: kernels.embedding(x, np.array([1, 8, 0]), 8),
        lambda: kernels.embedding(x, np.array([1, -1, 0]), 8),
        lambda: kernels.embedding(x, np.array([1, 0]), 8),
        lambda: kernels.cross_entropy(x, np.array([1, 8, 0])),
        lambda: kernels.cross_entropy(x, np.array([1, -1, 0])),
        lambda: kernels.cross_entropy(x, np.array([1, 0])),
        lambda: kernels.attention(*[normal(1, 1, 3, 4)] * 3, normal(1, 1, 2, 4)),
        lambda: kernel_optim.update(
            x, x[:2].copy(), x.copy(), x.copy(), 1, 1e-3, 0.9, 0.9, 1e-8, 0.0
        ),
    ):
        with pytest.raises(ValueError, match=r"differ|fit|target|id|and|\("):
            call()


def test_what_is_not_float32_is_the_references_business():
    x = normal(2, 6).astype(np.float64)
    assert (kernels.gelu(x, x) == backward.gelu(x, x)).all()
    assert kernels.layer_norm(x, x, x[0])[0].dtype == np.float64
    assert kernels.linear(x, x, x.T @ x)[2].dtype == np.float64
    assert kernels.embedding(x, np.array([0, 1]), 3).dtype == np.float64
