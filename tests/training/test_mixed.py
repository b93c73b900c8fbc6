"""Products of bfloat16 numbers: rounding, the twin, and what training makes of it."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY, tiny_params, token_ids
from hypothesis import given
from hypothesis import strategies as st

from npgpt.backend import NUMPY, place
from npgpt.support.leaves import leaves
from npgpt.training import mixed
from npgpt.training.engine import get_engine
from npgpt.training.gradients import loss_and_gradients
from npgpt.training.loop import TrainConfig, init_params, train, validation_loss
from npgpt.training.lora import LoraConfig
from npgpt.training.mixed import mixed_engine

RNG = np.random.default_rng(0)
IDS = (np.arange(3000) ** 2 % 40).astype(np.uint16)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_rounding_takes_the_nearest_of_all_bfloat16_numbers():
    every = (np.arange(0x7F80, dtype=np.uint32) << 16).view(np.float32)  # from 0 on
    assert (mixed.rounded(every) == every).all()
    middles = ((every[:-1].view(np.uint32) + every[1:].view(np.uint32)) // 2).view("f4")
    even = np.where(np.arange(len(middles)) % 2, every[1:], every[:-1])
    assert (mixed.rounded(middles) == even).all()
    for step, nearest in ((-1, every[:-1]), (1, every[1:])):
        beside = (middles.view(np.int32) + step).view(np.float32)
        assert (mixed.rounded(beside) == nearest).all()
        assert (mixed.rounded(-beside) == -nearest).all()
    assert np.isnan(mixed.rounded(np.float32([np.nan]))).all()
    assert mixed.rounded(np.float32([np.inf, -np.inf])).tolist() == [np.inf, -np.inf]


def test_only_products_are_rounded():
    x, w, dy, b = normal(9, 40), normal(40, 20), normal(9, 20), normal(20)
    near = [mixed.rounded(a).astype(np.float64) for a in (x, w, dy)]
    y = mixed.linear(x, w, b)
    np.testing.assert_allclose(y, near[0] @ near[1] + b, rtol=2e-5, atol=2e-5)
    dx, dw, db = mixed.linear_backward(dy, x, w)
    np.testing.assert_allclose(dx, near[2] @ near[1].T, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dw, near[0].T @ near[2], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(db, dy.sum(axis=0), rtol=2e-5, atol=2e-5)
    assert {a.dtype for a in (y, dx, dw, db)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["linear", "linear_backward"])
def test_the_twin_has_the_references_signature(name):
    twin = getattr(pytest.importorskip("npgpt.kernels.mixed"), name)
    ours, expected = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (twin, getattr(mixed, name))
    )
    assert ours == expected
    first = [inspect.getdoc(f).split("\n")[0] for f in (twin, getattr(mixed, name))]
    assert first[0] == first[1]


@pytest.mark.parametrize("tier", ["avx512_bf16", "amx"])
@given(data=st.data())
def test_the_twin_is_the_reference(tier, data):
    twin = pytest.importorskip("npgpt.kernels.mixed")
    tiers = pytest.importorskip("npgpt.kernels.tiers")
    if tier not in tiers.available():
        pytest.skip(f"this processor has {', '.join(tiers.available())}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPGPT_CPU_TIER", tier)
        compare(twin, data)


def compare(twin, data):
    rows = data.draw(st.integers(1, 4) | st.integers(9, 300))
    n, m = (data.draw(st.integers(1, 140)) for _ in range(2))
    x, w, dy = normal(rows, n), normal(n, m), normal(rows, m)
    if data.draw(st.booleans()):  # not contiguous
        x, w, dy = x[::-1], w.T.copy().T, dy[:, ::-1]
    if data.draw(st.booleans()):
        x, dy = x.reshape(1, rows, n), dy.reshape(1, rows, m)
    bias = normal(m) if data.draw(st.booleans()) else None
    found = [twin.linear(x, w, bias), *twin.linear_backward(dy, x, w)]
    expected = [mixed.linear(x, w, bias), *mixed.linear_backward(dy, x, w)]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        # the same products in another order: sums of up to 300 of them
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max() + 1e-6


def test_without_the_instructions_the_reference_runs(monkeypatch):
    twin = pytest.importorskip("npgpt.kernels.mixed")
    monkeypatch.setenv("NPGPT_CPU_TIER", "portable")
    x, w, dy = normal(20, 30), normal(30, 10), normal(20, 10)
    assert (twin.linear(x, w) == mixed.linear(x, w)).all()
    found, expected = (f.linear_backward(dy, x, w) for f in (twin, mixed))
    for a, b in zip(found, expected, strict=True):
        assert (a == b).all()


def test_what_does_not_fit_is_refused_before_a_kernel_runs():
    twin = pytest.importorskip("npgpt.kernels.mixed")
    x, w, dy = normal(20, 30), normal(30, 10), normal(20, 10)
    for call in (
        lambda: twin.linear(x[:, 1:], w),
        lambda: twin.linear(x, w, normal(9)),
        lambda: twin.linear_backward(dy[:, 1:], x, w),
        lambda: twin.linear_backward(dy[1:], x, w),
        lambda: twin.linear_backward(dy, x[1:], w),
    ):
        with pytest.raises((ValueError, TypeError), match=r"mismatch|fit|[Pp]arameter"):
            call()


def test_gradients_point_where_exact_ones_do(backend):
    ids = token_ids(TINY, 2, 11)
    x, y = ids[:, :-1], ids[:, 1:]
    exact = place(tiny_params(), "float64", np)
    _, expected = loss_and_gradients(exact, x, y, backend=NUMPY)
    params = place(tiny_params(), "float32", backend.xp)
    engine = mixed_engine(get_engine(backend))
    _, found = loss_and_gradients(params, x, y, backend=engine)
    found = {name: backend.to_numpy(g) for name, g in leaves(found).items()}
    expected = leaves(expected)
    squares = {name: (g.astype(np.float64) ** 2).sum() for name, g in expected.items()}
    off = sum(((found[name] - g) ** 2).sum() for name, g in expected.items())
    # each rounding is off by 2^-8 at most, independently
    assert 0 < off < 0.02**2 * sum(squares.values())
    assert found["h.0.ln_1.weight"].dtype == np.float32


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_bfloat16_learns_as_float32_does(tmp_path, backend, lora):
    config = TrainConfig(
        steps=150,
        batch_size=8,
        context=16,
        learning_rate=1e-2,
        warmup_steps=2,
        eval_every=50,
    )
    losses = {}
    for dtype in ("float32", "bfloat16"):
        settings = replace(config, dtype=dtype)
        params = train(
            init_params(TINY),
            IDS,
            IDS[:200],
            settings,
            out=tmp_path / dtype,
            backend=backend,
            lora=lora,
        )
        losses[dtype] = validation_loss(params, IDS[:200], settings, backend)
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
