"""Every backward function is the derivative of its namesake in npgpt.ops."""

import array_api_strict as strict
import numpy as np
import pytest

from npgpt import activations, ops
from npgpt.training import backward
from npgpt.training.backward_activations import DERIVATIVES

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


def assert_derivative(function, arrays, gradients, dy):
    """d/dt of sum(dy * function(x + t e)) at 0 is sum(gradient * e), for a random e.

    Central differences at unit scale: the truncation is 1e-10, rounding 1e-10.
    """
    for i, gradient in enumerate(gradients):
        assert gradient.shape == arrays[i].shape
        e, h = normal(*arrays[i].shape), 1e-5

        def value(t, i=i, e=e):
            moved = [x + t * e if j == i else x for j, x in enumerate(arrays)]
            return float((dy * function(*moved)).sum())

        expected = (value(h) - value(-h)) / (2 * h)
        size = np.linalg.norm(gradient) * np.linalg.norm(e) / np.sqrt(e.size)
        assert abs((gradient * e).sum() - expected) < 1e-6 * size, i


def test_softmax_gradient():
    x, dp = normal(3, 7), normal(3, 7)
    assert_derivative(ops.softmax, [x], [backward.softmax(dp, ops.softmax(x))], dp)


def test_softmax_gradient_ignores_what_was_hidden():
    x = normal(2, 5)
    x[:, 3] = -np.inf
    dx = backward.softmax(normal(2, 5), ops.softmax(x))
    assert (dx[:, 3] == 0).all()
    assert abs(dx.sum(-1)).max() < 1e-12  # a shift of all scores changes nothing


def test_gelu_gradient():
    x, dy = 2 * normal(4, 9), normal(4, 9)
    assert_derivative(ops.gelu, [x], [backward.gelu(dy, x)], dy)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_activation_has_its_gradient(name):
    x, dy = 2 * normal(4, 9), normal(4, 9)
    x[np.abs(x) < 1e-3] = 0.5  # relu has a corner
    dx = DERIVATIVES[name](dy, x)
    assert_derivative(activations.ACTIVATIONS[name], [x], [dx], dy)


@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_layer_norm_gradient(epsilon):
    x, weight, bias, dy = normal(2, 5, 8), normal(8), normal(8), normal(2, 5, 8)
    gradients = backward.layer_norm(dy, x, weight, epsilon)
    assert_derivative(
        lambda *a: ops.layer_norm(*a, epsilon), [x, weight, bias], gradients, dy
    )


def test_linear_gradient():
    x, weight, bias, dy = normal(2, 3, 4), normal(4, 5), normal(5), normal(2, 3, 5)
    gradients = backward.linear(dy, x, weight)
    assert_derivative(ops.linear, [x, weight, bias], gradients, dy)
    without = backward.linear(dy, x, weight, has_bias=False)
    assert without[2] is None
    assert (without[1] == gradients[1]).all()


def test_split_heads_gradient():
    qkv, (dq, dk, dv) = normal(2, 5, 24), normal(3, 2, 4, 5, 2)
    dqkv = backward.split_heads(dq, dk, dv)
    assert_derivative(
        lambda x: np.stack(ops.split_heads(x, 4)), [qkv], [dqkv], np.stack([dq, dk, dv])
    )


def test_embedding_gradient_adds_up():
    ids, table, dy = np.array([[2, 0, 2], [1, 2, 2]]), normal(5, 3), normal(2, 3, 3)
    dtable = backward.embedding(dy, ids, 5)
    assert_derivative(lambda w: ops.embedding(ids, w), [table], [dtable], dy)
    assert (dtable[3:] == 0).all()


def options():
    T, S = 150, 170  # more than one piece of queries
    seen = (RNG.random((2, T, S)) < 0.5) | np.eye(T, S, S - T, dtype=bool)
    return [
        {},
        {"causal": False},
        {"window": 9},
        {"scale": 0.3},
        {"mask": seen},
        {"mask": seen[:1], "causal": False},
    ]


@pytest.mark.parametrize("how", options(), ids=lambda how: "-".join(how) or "plain")
def test_attention_gradient(how):
    T, S = 150, 170
    q, k, v, dy = (normal(2, 2, n, 4) for n in (T, S, S, T))
    gradients = backward.attention(dy, q, k, v, **how)
    assert_derivative(lambda *a: ops.attention(*a, **how), [q, k, v], gradients, dy)


def test_cross_entropy_gradient_and_value():
    z, targets = 3 * normal(2, 4, 11), RNG.integers(0, 11, (2, 4))
    loss, dz = backward.cross_entropy(z, targets)
    assert loss == pytest.approx(ops.cross_entropy(z, targets), rel=1e-12)
    one = np.ones(())
    assert_derivative(
        lambda z: np.asarray(ops.cross_entropy(z, targets)), [z], [dz], one
    )


@pytest.mark.parametrize("ignored", [-100, 0])  # 0 is a token of the vocabulary too
def test_ignored_targets_are_no_part_of_the_loss(ignored):
    z, targets = 3 * normal(9, 11), RNG.integers(1, 11, 9)
    kept = np.array([0, 2, 3, 7])
    masked = np.full(9, ignored)
    masked[kept] = targets[kept]
    loss, dz = backward.cross_entropy(z, masked, ignore_index=ignored)
    expected, part = backward.cross_entropy(z[kept], targets[kept])
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(dz[kept], part, atol=1e-15)
    assert (np.delete(dz, kept, axis=0) == 0).all()
    none = backward.cross_entropy(z, np.full(9, ignored), ignore_index=ignored)
    assert none[0] == 0
    assert (none[1] == 0).all()


def test_pieces_of_a_batch_add_up_to_it():
    z, targets = normal(10, 7), RNG.integers(0, 7, 10)
    loss, dz = backward.cross_entropy(z, targets)
    parts = [
        backward.cross_entropy(z[piece], targets[piece], count=10)
        for piece in (slice(0, 3), slice(3, 10))
    ]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(np.concatenate([p[1] for p in parts]), dz, atol=1e-15)


CALLS = {
    "softmax": lambda xp, x: backward.softmax(x, ops.softmax(x)),
    "gelu": lambda xp, x: backward.gelu(x, x),
    "layer_norm": lambda xp, x: backward.layer_norm(x, x, x[0, :]),
    "linear": lambda xp, x: backward.linear(x, x, x.T @ x),
    "embedding": lambda xp, x: backward.embedding(x, xp.asarray([2, 0, 2]), 5),
    "cross_entropy": lambda xp, x: backward.cross_entropy(
        x, xp.asarray([1, -1, 3]), ignore_index=-1
    ),
    "split_heads": lambda xp, x: backward.split_heads(
        *[xp.reshape(x, (1, 1, *x.shape))] * 3
    ),
    "attention": lambda xp, x: backward.attention(
        *[xp.reshape(x, (1, 1, *x.shape))] * 4
    ),
    **{
        name: lambda xp, x, name=name: DERIVATIVES[name](x, x)
        for name in sorted({"gelu", "relu", "silu", "quick_gelu", "tanh", "sigmoid"})
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_any_array_library_gives_the_same_and_nothing_widens(name, dtype):
    x = normal(3, 4).astype(dtype)
    ours = CALLS[name](np, x)
    theirs = CALLS[name](strict, strict.asarray(x))
    ours, theirs = (y if isinstance(y, tuple) else (y,) for y in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, float):
            assert a == pytest.approx(b, rel=1e-6)
            continue
        assert a.dtype == dtype
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-6)
