"""Each function by itself, on inputs that show what a whole model would hide.

A model's numbers are tame: no score overflows, no vector is constant, and every weight
is the same way up. So a learner's function is first called alone, in float32, and what
it returns is compared with npgpt.ops in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from npgpt import ops
from npgpt.verification.checks import Check
from npgpt.verification.own import Own

BY_ITSELF = " by itself"


class Case(NamedTuple):
    """One call: the largest |y - r| / max(floor, |r|) may be `tolerance`."""

    what: str
    args: tuple[Any, ...]
    options: Mapping[str, Any] = {}
    tolerance: float = 1e-5  # sums of a few float32 products
    floor: float = 1.0


def alone(functions: Mapping[str, Own]) -> Iterator[Check]:
    """Every case of the functions, in the order of ops.py, up to one that is wrong.

    What comes after it may be made of it.
    """
    for name, function in functions.items():
        cases = [case for case in CASES[name]() if function.takes(case.options)]
        checks = [check(function, case) for case in cases]
        yield from checks
        if not all(one.ok for one in checks):
            return


def check(function: Own, case: Case) -> Check:
    """What a function makes of a case against ours in float64."""
    options = {key: _read_only(x) for key, x in case.options.items()}
    result = function(*map(_read_only, case.args), **options)
    expected = getattr(ops, function.name)(*map(_double, case.args), **case.options)
    error, why = _difference(result, expected, case.floor)
    if error <= case.tolerance:
        why = _widened(result, expected)
        error = np.inf if why else error
    return Check(
        function.name + BY_ITSELF, case.what, error, case.tolerance, why or "float32"
    )


def _widened(result: Any, expected: Any) -> str:
    """What is wrong with the type of numbers that are right."""
    if isinstance(expected, tuple):
        return max(map(_widened, result, expected))
    if isinstance(expected, float):
        return ""
    wanted = "bool" if expected.dtype == bool else "float32"
    return "" if result.dtype == wanted else f"{result.dtype} where {wanted} is right"


def _difference(result: Any, expected: Any, floor: float) -> tuple[float, str]:
    """The largest error, and where it is in words."""
    if isinstance(expected, tuple):
        pairs = zip(result, expected, strict=True)
        return max((_difference(x, y, floor) for x, y in pairs), key=lambda e: e[0])
    result, expected = np.asarray(result, float), np.asarray(expected, float)
    with np.errstate(invalid="ignore"):
        error = np.abs(result - expected) / np.maximum(np.abs(expected), floor)
    error = np.where(result == expected, 0, error)  # inf - inf
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(np.argmax(error), error.shape)
    why = f"{result[worst]:.6g} where {expected[worst]:.6g} is right"
    return float(error[worst]), why


def _read_only(x: Any) -> Any:
    """A copy that a function cannot write into; numbers in float32."""
    if isinstance(x, np.ndarray):
        x = x.astype(np.float32) if x.dtype.kind == "f" else x.copy()
        x.flags.writeable = False
    return x


def _double(x: Any) -> Any:
    """What the float32 numbers are, in float64."""
    real = isinstance(x, np.ndarray) and x.dtype.kind == "f"
    return x.astype(np.float32).astype(np.float64) if real else x


def _some(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers of mean 0 and deviation 1, the same on every machine."""
    bits = np.random.Philox(key=seed).random_raw(int(np.prod(shape)))
    return (((bits >> 11) * 2.0**-53 - 0.5) * 12**0.5).reshape(shape)


def _scores(floor: float, tolerance: float) -> list[Case]:
    rows = np.array([[1000.0, 999, 998], [-1000, -1001, -1002], [0, 3, -1]])
    hidden = np.array([[-np.inf, 1, -np.inf, 0], [2, -np.inf, -np.inf, -np.inf]])
    apart = np.array([[60.0, 0, -60], [0, 0, 0]])
    cases = {
        "four rows of three scores": _some(4, 3),
        "a square of scores": 3 * _some(3, 3, seed=1),
        "scores of 1000 and of -1000": rows,
        "scores of -inf": hidden,
        "scores far apart": apart,
        "one row, one score": np.array([[7.0]]),
        "five axes": _some(2, 1, 3, 2, 4, seed=2),
        "a single row without a batch": _some(6, seed=3),
    }
    return [Case(what, (x,), {}, tolerance, floor) for what, x in cases.items()]


def _cross_entropy() -> list[Case]:
    z, targets = 2 * _some(2, 3, 5), np.array([[0, 4, 2], [1, 1, 3]])
    sure = np.array([[1000.0, 0, 0], [0, 0, -1000]])
    hidden = np.array([[0.0, 1, -np.inf]])
    return [
        Case("two rows of three targets", (z, targets)),
        Case("one position", (z[0, :1], targets[0, :1])),
        Case("logits of 1000", (sure, np.array([1, 2]))),
        Case("logits of -inf", (hidden, np.array([1]))),
        Case("all logits equal", (np.zeros((4, 7)), np.array([0, 1, 2, 6]))),
    ]


def _gelu() -> list[Case]:
    near, far = np.linspace(-4, 4, 33)[:, None], np.array([[-50.0], [50], [-10], [10]])
    return [
        Case("numbers from -4 to 4", (near,), {}, 1e-6),
        Case("numbers of 50 and of -50", (far,), {}, 1e-6),
        Case("tiny numbers", (1e-3 * near,), {}, 1e-6, 1e-6),
        Case("three axes", (_some(2, 3, 4),), {}, 1e-6),
    ]


def _layer_norm() -> list[Case]:
    x, weight, bias = _some(2, 3, 8), 1 + 0.5 * _some(8, seed=1), _some(8, seed=2)
    own = (weight, bias)
    return [
        Case("two rows of three vectors", (x, *own)),
        Case("one vector of eight", (x[0, 0], *own)),
        Case("as many vectors as numbers in each", (_some(8, 8, seed=3), *own)),
        Case("constant vectors", (np.ones((2, 8)) * [[0.5], [3]], *own)),
        Case("vectors of variance 1e-6", (1e-3 * x, *own)),
        Case("vectors of mean 1000", (x + 1000, *own), {}, 2e-3),  # digits of the mean
        Case("numbers of 1000", (1000 * x, *own)),
        Case("epsilon of 0.5", (x, *own), {"epsilon": 0.5}),
    ]


def _embedding() -> list[Case]:
    table = _some(7, 3)
    return [
        Case("two rows of three ids", (np.array([[0, 6, 2], [2, 2, 5]]), table)),
        Case("one row of ids", (np.array([6, 0, 1, 1]), table)),
        Case("a single id", (np.array([[3]]), table)),
        Case("as many ids as the table has rows", (np.arange(7)[::-1][None], table)),
        Case("as many ids as columns", (np.array([[1, 0, 2]]), _some(3, 3, seed=1))),
    ]


def _linear() -> list[Case]:
    x, weight, bias = _some(2, 3, 4), _some(4, 5, seed=1), _some(5, seed=2)
    square = _some(4, 4, seed=3)
    return [
        Case("two rows of three vectors", (x, weight, bias)),
        Case("no bias", (x, weight)),
        Case("a square weight", (x, square, _some(4, seed=4))),
        Case("one vector", (x[:1, :1], weight, bias)),
        Case("rows without a batch", (x[0], weight, bias)),
        Case("a bias of 1000", (x, weight, 1000 * bias)),
        Case("as many rows as numbers in each", (_some(4, 4), square, _some(4))),
        Case("numbers of 1000", (1000 * x, weight, bias), {}, 1e-5, 1000.0),
        Case("one input, one output", (_some(2, 2, 1), _some(1, 1, seed=1), bias[:1])),
    ]


def _split_heads() -> list[Case]:
    return [
        Case("two heads of three", (_some(2, 5, 18), 2)),
        Case("three heads of two", (_some(1, 4, 18), 3)),
        Case("one head", (_some(2, 3, 6), 1)),
        Case("heads of one number", (_some(2, 3, 12), 4)),
        Case("as many positions as heads", (_some(2, 3, 27), 3)),
    ]


def _merge_heads() -> list[Case]:
    shapes = {
        "two heads of three": (2, 2, 5, 3),
        "as many positions as heads": (2, 3, 3, 2),
        "one head": (2, 1, 3, 4),
        "heads of one number": (1, 4, 3, 1),
    }
    return [Case(what, (_some(*shape),)) for what, shape in shapes.items()]


def _causal_mask() -> list[Case]:
    sizes = {"": (4, 4), ", two new of five": (2, 5), ", one new of four": (1, 4)}
    plain = [Case(f"plain{what}", size) for what, size in sizes.items()]
    windows = [(what, size, n) for what, size in sizes.items() for n in (1, 2, 9)]
    named = [
        Case(f"a window of {n}{what}", size, {"window": n}) for what, size, n in windows
    ]
    return [*plain, Case("one position", (1, 1)), *named]


def _attention(values: bool) -> list[Case]:
    """Cases of attention; of its scores where `values` is False."""

    def given(B: int, H: int, T: int, S: int, D: int) -> tuple[np.ndarray, ...]:
        q, k = _some(B, H, T, D, seed=1), _some(B, H, S, D, seed=2)
        return (q, k, _some(B, H, S, D, seed=3)) if values else (q, k)

    def sharp(q: np.ndarray, k: np.ndarray, *v: np.ndarray) -> tuple[np.ndarray, ...]:
        """Exact scores of -200,000 to 200,000, a head's largest among the hidden.

        Those of the other head are so low that the hidden must be lower than usual.
        """
        steps = np.arange(1, k.shape[2] + 1.0)[:, None]
        sign = np.array([1.0, -1])[:, None, None]
        return (0 * q + 100 * sign, np.broadcast_to(200 * steps, k.shape), *v)

    def cases() -> Iterator[Case]:
        five = given(2, 2, 5, 5, 4)
        yield Case("five positions", five)
        yield Case("two new positions of five", given(2, 3, 2, 5, 4))
        yield Case("one new position of five", given(2, 2, 1, 5, 4))
        yield Case("one position", given(1, 1, 1, 1, 4))
        yield Case("as many positions as heads and numbers", given(3, 3, 3, 3, 3))
        yield Case("scores of 200,000", sharp(*five))
        yield Case("heads of one number", given(1, 2, 4, 4, 1))
        yield Case("heads of 64", given(1, 2, 4, 4, 64))
        yield Case("nothing hidden", five, {"causal": False})
        for n in (1, 2, 9):
            yield Case(f"a window of {n}", five, {"window": n})
        yield Case("a window, one new of five", given(1, 2, 1, 5, 4), {"window": 2})
        yield Case("a scale of 0.1", five, {"scale": 0.1})
        seen = np.ones((2, 5, 5), bool)
        seen[0, :, 1] = seen[1, 3:, 2] = False
        yield Case("a mask for each row", five, {"mask": seen})
        yield Case("one mask for all rows", five, {"mask": seen[1:]})
        yield Case("a mask alone", five, {"mask": seen, "causal": False})

    return list(cases())


CASES: dict[str, Callable[[], list[Case]]] = {
    "softmax": lambda: _scores(1e-6, 5e-6),
    "log_softmax": lambda: _scores(1.0, 1e-6),
    "cross_entropy": _cross_entropy,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "linear": _linear,
    "split_heads": _split_heads,
    "merge_heads": _merge_heads,
    "causal_mask": _causal_mask,
    "attention_scores": lambda: _attention(values=False),
    "attention": lambda: _attention(values=True),
}
