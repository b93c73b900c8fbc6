"""What NumPy runs in place and in pieces is what ops and backward say as formulas."""

import inspect

import array_api_strict as strict
import numpy as np
import pytest

from npgpt import blocked, ops
from npgpt.backend import NUMPY
from npgpt.training import backward, blocked_backward
from npgpt.training.engine import get_engine

RNG = np.random.default_rng(0)
# Relative to the largest number: the same sums in another order, some hundred a number.
CLOSE = {"float32": 5e-6, "float64": 1e-14}
LARGE, SMALL = (3, 700, 40), (7, 9)  # in two pieces, and in one


def arrays(dtype, *shapes):
    return [2 * RNG.standard_normal(shape).astype(dtype) + 0.3 for shape in shapes]


def ids_of(shape, V):
    return RNG.integers(0, V, shape)


def heads(dtype, T, S):
    return arrays(dtype, (2, 2, T, 8), (2, 2, T, 8), (2, 2, S, 8), (2, 2, S, 8))


def cases(module, dtype, shape):
    """Name -> arguments of the functions of a module, of several shapes."""
    x, dy, weight, bias = arrays(dtype, shape, shape, shape[-1:], shape[-1:])
    T, S = (300, 340) if shape == LARGE else (5, 9)
    dout, q, k, v = heads(dtype, T, S)
    if module is ops:
        return {
            "gelu": (x,),
            "layer_norm": (x, weight, bias, 0.1),
            "linear": (x, *arrays(dtype, (shape[-1], 24), (24,))),
            "cross_entropy": (x, ids_of(shape[:-1], shape[-1])),
            "attention": (q, k, v),
        }
    return {
        "gelu": (dy, x),
        "layer_norm": (dy, x, weight, 0.1),
        "cross_entropy": (x, ids_of(shape[:-1], shape[-1])),
        "embedding": (x, ids_of(shape[:-1], 30), 31),
        "attention": (dout, q, k, v),
    }


FAST = {ops: blocked, backward: blocked_backward}
NAMES = [(module, name) for module in FAST for name in cases(module, "float32", SMALL)]
by_name = pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{m.__name__}-{n}" for m, n in NAMES]
)


@by_name
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
def test_fast_equals_the_formula(module, name, dtype, shape):
    args = cases(module, dtype, shape)[name]
    copies = [np.copy(x) for x in args]
    found = getattr(FAST[module], name)(*args)
    expected = getattr(module, name)(*args)
    found, expected = (y if isinstance(y, tuple) else (y,) for y in (found, expected))
    for a, b in zip(found, expected, strict=True):
        if isinstance(b, float):
            assert a == pytest.approx(b, rel=CLOSE[dtype])
            continue
        assert a.dtype == b.dtype == dtype
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= CLOSE[dtype] * np.abs(b).max()
    for x, copy in zip(args, copies, strict=True):
        assert (x == copy).all()  # in place, but not in the arguments' place


@by_name
def test_fast_and_formula_have_one_signature(module, name):
    fast, formula = getattr(FAST[module], name), getattr(module, name)
    ours, theirs = (inspect.signature(f).parameters.values() for f in (fast, formula))
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in theirs
    ]
    first = [inspect.getdoc(f).split("\n")[0] for f in (fast, formula)]
    assert first[0] == first[1]


@by_name
def test_other_array_libraries_are_served_too(module, name):
    args = cases(module, "float64", SMALL)[name]
    theirs = [strict.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
    found, expected = (
        getattr(where, name)(*with_)
        for where, with_ in ((FAST[module], theirs), (module, args))
    )
    found, expected = (y if isinstance(y, tuple) else (y,) for y in (found, expected))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12, atol=1e-12)


def test_numpy_runs_the_fast_ones():
    for name in cases(ops, "float32", SMALL):
        assert getattr(NUMPY, name) is getattr(blocked, name)
    for name in cases(backward, "float32", SMALL):
        assert getattr(get_engine(NUMPY), name) is getattr(blocked_backward, name)


@pytest.mark.parametrize("counted", [None, 100])
def test_ignored_targets_are_ignored_in_place_too(counted):
    z, targets = RNG.standard_normal((40, 11)), ids_of(40, 11)
    for ignored in (0, 3):  # a token of the vocabulary
        options = {"ignore_index": ignored, "count": counted}
        loss, dz = blocked_backward.cross_entropy(z, targets, **options)
        expected = backward.cross_entropy(z, targets, **options)
        assert loss == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(dz, expected[1], atol=1e-16)
        assert (dz[targets == ignored] == 0).all()


@pytest.mark.parametrize("options", [{}, {"window": 70}, {"causal": False}])
@pytest.mark.parametrize("masks", [0, 1, 2])
def test_gradients_in_pieces_are_the_whole(options, masks):
    T, S = 300, 340
    arrays = heads("float64", T, S)
    if masks:
        seen = RNG.random((masks, T, S)) < 0.5
        options = {**options, "mask": seen | np.eye(T, S, S - T, dtype=bool)}
    found = blocked_backward.attention(*arrays, **options)
    expected = backward.attention(*arrays, **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


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
    for function, args in (
        (blocked.gelu, (x,)),
        (blocked.layer_norm, (x, weight, bias, 0.1)),
        (blocked_backward.gelu, (dy, x)),
    ):
        whole = function.__wrapped__(*args)
        np.testing.assert_array_equal(function(*args), whole)
    found = blocked_backward.layer_norm(dy, x, weight, epsilon=0.1)
    whole = blocked_backward.layer_norm.__wrapped__(dy, x, weight, epsilon=0.1)
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
