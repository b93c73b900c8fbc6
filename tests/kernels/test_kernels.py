"""Every Numba twin is its reference: signature, values, whatever the input's shape."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("numba")

from npgpt import BackendError, kernels, ops
from npgpt.bfloat16 import from_bfloat16, to_bfloat16
from npgpt.kernels import tiers
from npgpt.kernels.ladder import linear_loops, linear_panels
from npgpt.kernels.packed import GROUP, PANEL, Packed, pack, sizes, unpack
from npgpt.kernels.tiers import AMX, BF16
from npgpt.kernels.vector_float import NARROW

RNG = np.random.default_rng(0)
TWINS = ("softmax", "layer_norm", "gelu", "linear", "attention", "cross_entropy")
DTYPES = ("float32", "bfloat16", "int8")
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
# Sums of up to 200 float32 products of unit numbers, in another order: a few ulp of
# the sum of magnitudes. exp as a polynomial: 2e-7 relative.
CLOSE = dict(rtol=2e-5, atol=2e-5)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def bfloat16(x):
    """The nearest bfloat16 numbers, as float32."""
    return from_bfloat16(to_bfloat16(x))


@pytest.mark.parametrize("name", [*TWINS, "embedding"])
def test_backends_have_one_signature(name):
    twin, reference = getattr(kernels, name), getattr(ops, name)
    theirs = inspect.signature(reference).parameters
    ours = inspect.signature(twin).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]

    def first(f):
        return inspect.getdoc(f).split("\n")[0]

    assert first(twin) == first(reference)


@st.composite
def views(draw, min_dims=1, max_dims=3):
    """Arrays of any shape, also empty, of either float type, strided or misaligned."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = draw(hnp.arrays(dtype, shape, elements=st.floats(-50, 50, width=32)))
    how = draw(st.sampled_from(["plain", "reversed", "transposed", "misaligned"]))
    if how == "reversed":
        return x[..., ::-1]
    if how == "transposed":
        return x.T
    if how == "misaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        y = raw[1:].view(x.dtype).reshape(x.shape)
        y[...] = x
        return y
    return x


def outcome(function, *args, **options):
    try:
        return function(*args, **options)
    except Exception as error:
        return type(error)


@SLOW
@given(views())
def test_elementwise_twins_take_whatever_the_reference_takes(x):
    for name in ("softmax", "gelu"):
        expected = outcome(getattr(ops, name), x)
        found = outcome(getattr(kernels, name), x)
        if isinstance(expected, type):
            assert found is expected, name
            continue
        assert found.dtype == expected.dtype, name
        np.testing.assert_allclose(found, expected, **CLOSE, err_msg=name)


@SLOW
@given(views(min_dims=2), st.integers(0, 3))
def test_layer_norm_takes_whatever_the_reference_takes(x, wrong):
    weight, bias = normal(x.shape[-1] + (wrong == 1)), normal(x.shape[-1])
    with np.errstate(all="ignore"):
        expected = outcome(ops.layer_norm, x, weight, bias)
    found = outcome(kernels.layer_norm, x, weight, bias)
    if wrong == 1 and x.size:
        assert isinstance(found, type) or found.shape == expected.shape
    elif not isinstance(expected, type) and x.size:
        # Rows of nearly equal numbers: their difference keeps few digits in float32.
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-2)


def test_layer_norm_depends_on_no_place_in_memory():
    from npgpt.kernels.layer_norm import _norm_rows

    memory, given = np.zeros(1024, np.float32), normal(4, 8)

    def norm(before, which):
        """Rows, weight and bias far from the result, but for one that ends before."""
        end = [100, 200, 300]
        end[which] = 600 - before
        x, weight, bias = (
            memory[stop - len(part) * 8 : stop].reshape(-1, 8)
            for stop, part in zip(end, (given[:2], given[2:3], given[3:]), strict=True)
        )
        x[:], weight[:], bias[:] = given[:2], given[2], given[3]
        out = memory[600:616].reshape(2, 8)
        _norm_rows(x, weight[0], bias[0], np.float32(1e-5), out)
        return out.copy()

    expected = norm(200, 0)
    for before in range(48):
        for which in range(3):
            np.testing.assert_array_equal(norm(before, which), expected)


def test_softmax_keeps_what_is_removed_at_zero():
    z = np.float32([[0, -np.inf, 0], [-np.inf, 1e30, -1e30]])
    assert kernels.softmax(z).tolist() == [[0.5, 0, 0.5], [0, 1, 0]]
    assert np.isnan(kernels.softmax(np.float32([0, np.nan]))).any()


def test_gelu_is_exact_to_float32():
    x = np.linspace(-30, 30, 100_001)
    error = np.abs(kernels.gelu(x.astype(np.float32)) - ops.gelu(x.astype(np.float32)))
    assert error.max() < 4e-6


def test_cross_entropy_matches_reference():
    z, targets = 5 * normal(3, 7, 501), RNG.integers(0, 501, (3, 7))
    expected = ops.cross_entropy(z.astype(np.float64), targets)
    assert kernels.cross_entropy(z, targets) == pytest.approx(expected, rel=1e-6)
    for bad in (np.full((3, 7), 501), np.full((3, 7), -1)):
        with pytest.raises(ValueError, match="target"):
            kernels.cross_entropy(z, bad)


@SLOW
@given(st.data())
def test_attention_matches_reference(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    B, H, T, D = draw(1, 2), draw(1, 3), draw(1, 90), draw(1, 40)
    S = T + draw(0, 90)
    q, k, v = normal(B, H, T, D), normal(B, H, S + 3, D), normal(B, H, S + 3, D)
    k, v = k[:, :, :S], v[:, :, :S]  # views, as of a cache
    options = {"causal": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        options["window"] = draw(1, S)
    if data.draw(st.booleans()):
        seen = RNG.random((data.draw(st.sampled_from([1, B])), T, S)) < 0.5
        options["mask"] = seen | np.eye(T, S, S - T, dtype=bool)
    if data.draw(st.booleans()):
        options["scale"] = 0.3
    expected = ops.attention(*(x.astype(np.float64) for x in (q, k, v)), **options)
    np.testing.assert_allclose(kernels.attention(q, k, v, **options), expected, **CLOSE)
    half = [x.astype(np.float16) for x in (k, v)]
    expected = ops.attention(q, *(x.astype(np.float32) for x in half), **options)
    np.testing.assert_allclose(
        kernels.attention(q, *half, **options), expected, **CLOSE
    )


@pytest.mark.parametrize("T", [1, 9])  # decoding and prompts: two kernels
def test_what_is_hardly_seen_is_not_seen(T):
    q = np.ones((1, 1, T, 4), np.float32)
    k, v = (np.zeros((1, 1, T + 60, 4), np.float32) for _ in range(2))
    k[..., :2, :] = 200
    v[..., 2:, :] = 1e37  # at e^-400 of the probability of the first two keys
    v[..., :2, :] = 3
    assert (kernels.attention(q, k, v) == 3).all()


def test_attention_refuses_what_does_not_fit():
    q, k = normal(1, 2, 3, 4), normal(1, 2, 5, 4)
    for bad in ((q, k, k[:, :1]), (q, normal(1, 2, 2, 4), normal(1, 2, 2, 4))):
        with pytest.raises(ValueError, match="attention"):
            kernels.attention(*bad)
    with pytest.raises(ValueError, match="mask"):
        kernels.attention(q, k, k, mask=np.ones((1, 3, 4), bool))


def test_linear_with_an_array_is_the_reference():
    x, w, bias = normal(3, 70, 9), normal(9, 33), normal(33)
    for args in ((x, w), (x, w, bias), (x[:, ::-1], w.T.copy().T, bias[::-1])):
        found, expected = kernels.linear(*args), ops.linear(*args)
        np.testing.assert_allclose(found, expected, **CLOSE)
    for other in (bias.astype(np.float64), bias.astype(np.float16)):
        found = kernels.linear(x, w, other)
        assert found.dtype == ops.linear(x, w, other).dtype
    for wrong in (bias[:5], bias[None]):
        with pytest.raises(ValueError, match="fit"):
            kernels.linear(x, w, wrong)


@SLOW
@given(st.data())
def test_linear_matches_its_packed_weight(data):
    n, m = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 70))
    rows, dtype = data.draw(st.integers(1, 20)), data.draw(st.sampled_from(DTYPES))
    w, x, bias = normal(n, m), normal(rows, n), normal(m)
    if dtype == "bfloat16":  # prompts round it there, where the processor wants that
        x = bfloat16(x)
    weight = pack(w, dtype)
    y = kernels.linear(x[None], weight, bias)
    assert y.shape == (1, rows, m)
    exact = x.astype(np.float64) @ unpack(weight).astype(np.float64) + bias
    if dtype == "int8":  # the bound of npgpt.kernels.packed for the activations' part
        grouped = np.zeros((rows, -(-n // GROUP) * GROUP), np.float32)
        grouped[:, :n] = np.abs(x)
        t = grouped.reshape(rows, -1, GROUP).max(-1).repeat(GROUP, 1)[:, :n] / 127
        bound = t / 2 @ np.abs(unpack(weight)) + 1e-4
        assert (np.abs(y[0] - exact) <= bound).all()
    else:
        np.testing.assert_allclose(y[0], exact, **CLOSE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_errs_within_its_bound(dtype):
    w = normal(130, 37) * np.exp(3 * normal(130, 1))
    found = unpack(pack(w, dtype))
    if dtype == "float32":
        assert (found == w).all()
    elif dtype == "bfloat16":
        assert (np.abs(found - w) <= np.abs(w) * 2.0**-8).all()
    else:
        for top in range(0, 130, GROUP):
            part = w[top : top + GROUP]
            bound = np.abs(part).max(0) / 254 * (1 + 2**-7 + 1e-5)
            assert (np.abs(found[top : top + GROUP] - part) <= bound).all()


def test_bfloat16_rounds_as_the_checkpoint_does():
    w = normal(64, 16)
    w[0, :4] = np.inf, -np.inf, np.nan, -0.0
    found = unpack(pack(w, "bfloat16"))
    np.testing.assert_array_equal(found, bfloat16(w))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_table_is_also_the_head(dtype):
    table, x = normal(53, 40), normal(2, 40)
    packed = pack(table, dtype, is_table=True)
    assert packed.shape == table.shape
    assert packed.T.T.data is packed.data
    ids = np.array([[0, 52], [17, 17]])
    assert (kernels.embedding(ids, packed) == unpack(packed)[ids]).all()
    y = kernels.linear(x, packed.T)
    assert np.abs(y - x @ table.T).max() < 0.5
    with pytest.raises(ValueError, match="id"):
        kernels.embedding(np.array([53]), packed)


def test_packed_weights_have_the_promised_bytes():
    for dtype, width in (("float32", 4), ("bfloat16", 2), ("int8", 1 + 2 / GROUP)):
        assert pack(normal(128, 2 * PANEL), dtype).nbytes == 128 * 2 * PANEL * width
        assert sizes(768, 50257, dtype)[0] % (768 * PANEL) == 0


def test_wrong_shapes_are_refused_before_a_kernel_runs():
    weight = pack(normal(8, 4), "float32")
    with pytest.raises(ValueError, match="fit"):
        kernels.linear(normal(2, 9), weight)
    with pytest.raises(ValueError, match="fit"):
        kernels.linear(normal(2, 8), weight, normal(5))
    with pytest.raises(ValueError, match="pack"):
        pack(np.zeros((2, 2), np.int32), "float32")
    with pytest.raises(ValueError, match="hold"):
        pack(normal(8, 4), "int8", out=(np.zeros(3, np.int8), np.zeros(1, np.float32)))


@pytest.mark.parametrize("rung", [linear_loops, linear_panels])
def test_every_rung_of_the_ladder_is_the_reference(rung):
    x, w = normal(3, 50), normal(50, 33)
    np.testing.assert_allclose(rung(x, pack(w, "float32")), x @ w, **CLOSE)


@pytest.mark.parametrize(
    ("dtype", "tier"),
    [(dtype, tier) for dtype in DTYPES for tier in tiers.DIFFERENT[dtype]],
)
def test_every_tier_of_this_processor_agrees(dtype, tier, monkeypatch):
    monkeypatch.setenv("NPGPT_CPU_TIER", tier)
    if tier not in tiers.available():
        with pytest.raises(BackendError, match="does not have"):
            tiers.current()
        pytest.skip(f"this processor has {', '.join(tiers.available())}")
    for rows, m in ((7, 50), (75, 200)):  # decoding, and a prompt with half tiles
        x, packed = bfloat16(normal(rows, 200)), pack(normal(200, m), dtype)
        found = kernels.linear(x, packed)
        with monkeypatch.context() as patch:
            patch.setenv("NPGPT_CPU_TIER", "portable")
            base = kernels.linear(x, packed)
        # int8 sums are exact; only their scaling rounds.
        assert np.abs(found - base).max() <= 2e-6 * np.abs(base).max()


@pytest.mark.parametrize("rows", [8, 9])
def test_prompts_round_their_inputs_where_bfloat16_is_multiplied(rows):
    x, packed = normal(rows, 200), pack(normal(200, 64), "bfloat16")
    rounded = rows > 8 and len(tiers.isa("bfloat16")) >= BF16
    expected = (bfloat16(x) if rounded else x) @ unpack(packed)
    np.testing.assert_allclose(kernels.linear(x, packed), expected, **CLOSE)


@pytest.mark.parametrize(
    ("cpu", "kind", "tier", "instruction"),
    [
        ("sapphirerapids", "int8", 2, "vpdpbusd"),
        ("sapphirerapids", "narrow", 3, "vdpbf16ps"),
        ("sapphirerapids", "int8", 4, "tdpbssd"),
        ("sapphirerapids", "bfloat16", 4, "tdpbf16ps"),
        ("znver4", "narrow", 3, "vdpbf16ps"),
        ("haswell", "int8", 1, "vpmaddubsw"),
        ("haswell", "float32", 0, "vfmadd"),
        ("sapphirerapids", "bfloat16", 0, "zmm"),
        ("x86-64", "int8", 0, "xmm"),
    ],
)
def test_tiers_compile_for_processors_that_are_not_here(cpu, kind, tier, instruction):
    import llvmlite.binding as llvm
    from llvmlite import ir
    from numba import types

    from npgpt.kernels.amx import _block
    from npgpt.kernels.vector import _tile_function

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = "x86_64-unknown-linux-gnu"
    kind = {
        "int8": types.int8,
        "float32": types.float32,
        "bfloat16": types.uint16,
        "narrow": NARROW,
    }[kind]
    if tier == AMX:
        function = _block(module, "tile", 2, 2, kind)
    else:
        function = _tile_function(module, "tile", 1, 1, kind, tier)
    function.linkage = "external"
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(
        cpu=cpu, opt=3, features="-prefer-256-bit"
    )
    assert instruction in machine.emit_assembly(parsed)


def test_an_unknown_tier_is_refused(monkeypatch):
    monkeypatch.setenv("NPGPT_CPU_TIER", "mmx")
    with pytest.raises(BackendError, match="mmx"):
        tiers.isa()


def test_packed_weights_read_as_arrays():
    w = normal(20, 10)
    packed = pack(w, "float32")
    assert isinstance(packed, Packed)
    assert (np.asarray(packed) == w).all()
    assert (np.asarray(packed.T) == w.T).all()


def test_importing_npgpt_imports_no_numba():
    code = "import npgpt, sys; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
