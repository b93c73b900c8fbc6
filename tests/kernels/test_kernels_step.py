"""The whole step in one kernel is the plain path; packed files; threads and forks."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import CASES, TINY, relative_error, tiny_params, token_ids

pytest.importorskip("numba")

from npgpt import GPT2, BackendError, CheckpointError, gpt2
from npgpt.backend import get_backend
from npgpt.cli import main
from npgpt.kernels import compiling, step
from npgpt.kernels.prepare import PackedParams
from npgpt.kernels.tiers import DIFFERENT, available
from npgpt.storage import checkpoint

# float32: sums in another order, unit-scale weights. bfloat16: 2^-9 a weight, halved by
# averaging, through two blocks. int8: 1/254 of the largest of 16 numbers, twice.
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2, "int8": 6e-2}
FUSED = ("plain", "four_heads", "n_inner", "epsilon", "unscaled", "inverse_layer")


def numba_model(config=TINY, dtype="float32"):
    return GPT2(tiny_params(config), backend="numba", dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [*FUSED, "own_head"])
def test_step_equals_the_reference(case, dtype):
    config = CASES[case]
    model, reference = numba_model(config, dtype), GPT2(tiny_params(config))
    caches = model.new_cache(3), reference.new_cache(3)
    ids = token_ids(config, 3, 9).tolist()
    for new in (
        [ids[0][:2], ids[1], ids[2][:1]],  # ragged prompts
        [[5], [6], [7]],  # one token each
        [ids[1][:3], [2], ids[0][:7]],
    ):
        assert step.decode_step(model.params, [[1]] * 3, model.new_cache(3)) is not None
        z, expected = (
            m.next_logits(new, c)
            for m, c in zip((model, reference), caches, strict=True)
        )
        assert z.dtype == np.float32
        assert relative_error(z, expected) < TOLERANCE[dtype]
    assert caches[0].ids == caches[1].ids


def test_what_the_step_cannot_do_goes_function_by_function():
    for case in ("relu", "gelu_erf"):
        model = numba_model(CASES[case])
        assert step.decode_step(model.params, [[1]], model.new_cache()) is None
        z = model.next_logits([[1, 2, 3]], model.new_cache())
        expected = GPT2(tiny_params(CASES[case])).logits([1, 2, 3])[:, -1]
        assert relative_error(z, expected) < TOLERANCE["float32"]
    model = numba_model()
    shallow = model.params._replace(h=model.params.h[:1])
    assert step.decode_step(shallow, [[1]], model.new_cache()) is None


@pytest.mark.parametrize("chunk", [1024, 4])
def test_several_logits_of_a_reading_equal_the_reference(chunk, monkeypatch):
    monkeypatch.setattr(step, "CHUNK", chunk)
    model, reference = numba_model(), GPT2(tiny_params(TINY))
    rows, keep = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11]], [3, 1, 2]
    caches = model.new_cache(3), reference.new_cache(3)
    for _ in range(2):
        z, expected = (
            m.all_logits(rows, c, keep)
            for m, c in zip((model, reference), caches, strict=True)
        )
        for a, b, n in zip(z, expected, keep, strict=True):
            assert a.shape == (n, TINY.vocab_size)
            assert relative_error(a, b) < TOLERANCE["float32"]
    assert caches[0].ids == caches[1].ids


def test_long_prompts_are_read_in_chunks(monkeypatch):
    whole = numba_model().next_logits(
        [list(range(20)), [3]], numba_model().new_cache(2)
    )
    monkeypatch.setattr(step, "CHUNK", 7)
    model = numba_model()
    parts = model.next_logits([list(range(20)), [3]], model.new_cache(2))
    assert relative_error(parts, whole) < 1e-6


def tiers_of_steps():
    """Every dtype on its highest tier; the others, slow to compile, apart."""
    for dtype in TOLERANCE:
        found = [tier for tier in DIFFERENT[dtype] if tier in available()]
        for tier in found:
            marks = [] if tier == found[-1] else [pytest.mark.full]
            yield pytest.param(dtype, tier, marks=marks)


@pytest.mark.parametrize(("dtype", "tier"), list(tiers_of_steps()))
def test_step_on_every_tier(dtype, tier, monkeypatch):
    ids = token_ids(TINY, 2, 21).tolist()
    reference = GPT2(tiny_params())
    expected = reference.next_logits(ids, reference.new_cache(2))
    monkeypatch.setenv("NPGPT_CPU_TIER", tier)
    model = numba_model(dtype=dtype)
    z = model.next_logits(ids, model.new_cache(2))
    assert relative_error(z, expected) < TOLERANCE[dtype]


def test_dtypes_agree_on_the_cache():
    assert numba_model().new_cache().dtype == "float32"
    assert numba_model(dtype="int8").new_cache().dtype == "float16"


def test_weights_are_packed_once():
    model = numba_model()
    params = model.params
    assert isinstance(params, PackedParams)
    assert np.shares_memory(params.buffers.data, params.h[1].mlp.c_proj.weight.data)
    assert params.lm_head.weight is params.wte.weight
    again = GPT2(params, backend="numba")
    assert again.params is params
    with pytest.raises(BackendError, match="float64"):
        GPT2(tiny_params(), backend="numba", dtype="float64")


def test_a_repacked_model_is_rounded_once_more():
    model = GPT2(numba_model().params, backend="numba", dtype="bfloat16")
    z = model.next_logits([[1, 2, 3]], model.new_cache())
    direct = numba_model(dtype="bfloat16")
    assert (z == direct.next_logits([[1, 2, 3]], direct.new_cache())).all()


def test_two_threads_do_not_disturb_each_other(tales):
    model = GPT2.from_pretrained("tales", backend="numba")
    expected = model.generate("Once", max_new_tokens=20).ids
    found = {}

    def work(i):
        found[i] = [model.generate("Once", max_new_tokens=20).ids for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert all(ids == expected for runs in found.values() for ids in runs)
    assert len(found) == 4


def _in_child(model, queue):
    queue.put(model.generate([1, 2, 3], max_new_tokens=5).ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.skipif(
    compiling.numba_config.THREADING_LAYER != "tbb", reason="only tbb survives fork"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_computes_the_same():
    model = numba_model()
    expected = model.generate([1, 2, 3], max_new_tokens=5).ids
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(model, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0
    assert model.generate([1, 2, 3], max_new_tokens=5).ids == expected


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_packed_folder_is_the_same_model(tmp_path, dtype):
    result = CliRunner().invoke(
        main, ["convert", "tales", str(tmp_path / "p"), "--dtype", dtype, "--packed"]
    )
    assert result.exit_code == 0, result.output
    mapped = GPT2.from_pretrained(tmp_path / "p", backend="numba", dtype=dtype)
    packed = GPT2.from_pretrained("tales", backend="numba", dtype=dtype)
    options = dict(max_new_tokens=30)
    assert mapped.generate("Once", **options) == packed.generate("Once", **options)
    with pytest.raises(CheckpointError, match="packed"):
        GPT2.from_pretrained(tmp_path / "p")
    other = "int8" if dtype != "int8" else "float32"
    with pytest.raises(CheckpointError, match=dtype):
        GPT2.from_pretrained(tmp_path / "p", backend="numba", dtype=other)


def test_a_damaged_packed_file_is_refused(tmp_path):
    CliRunner().invoke(main, ["convert", "tales-mini", str(tmp_path), "--packed"])
    path = tmp_path / "packed.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    for damaged in (
        raw[:1000],
        raw.replace(b"version 2", b"version 9", 1),
        raw[:8] + raw[8 : 8 + length].replace(b'"wpe"', b'"xpe"') + raw[8 + length :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="packed"):
            GPT2.from_pretrained(tmp_path, backend="numba", dtype="bfloat16")


def test_convert_to_a_plain_dtype_reads_everywhere(tmp_path):
    result = CliRunner().invoke(
        main, ["convert", "tales-mini", str(tmp_path), "--dtype", "float16", "--json"]
    )
    assert json.loads(result.stdout)["dtype"] == "float16"
    theirs = GPT2.from_pretrained(tmp_path).logits([1, 2, 3])
    assert (theirs == GPT2.from_pretrained("tales-mini").logits([1, 2, 3])).all()
    wrong = CliRunner().invoke(
        main, ["convert", "tales", str(tmp_path), "--dtype", "int8"]
    )
    assert wrong.exit_code == 2


def test_precision_costs_what_it_may(shared):
    """Loss on held-out text: bfloat16 within 0.1 %, int8 within 0.5 % of float32."""
    text = (shared / "tales-model" / "heldout.txt").read_text(encoding="utf-8")
    losses = {}
    for dtype in TOLERANCE:
        model = GPT2.from_pretrained("tales", backend="numba", dtype=dtype)
        ids = np.array(model.tokenizer.encode(text)[: 24 * 512 + 1])
        x, y = ids[:-1].reshape(-1, 512), ids[1:].reshape(-1, 512)
        total = 0.0
        for row, target in zip(x, y, strict=True):
            hidden = gpt2.hidden_states(model.params, row[None], backend=model.backend)
            z = gpt2.logits(model.params, hidden, backend=model.backend)
            from npgpt.kernels import cross_entropy

            total += cross_entropy(z, target[None])
        losses[dtype] = total / len(x)
    assert abs(losses["bfloat16"] / losses["float32"] - 1) < 0.001
    assert abs(losses["int8"] / losses["float32"] - 1) < 0.005


def test_an_unwritable_cache_folder_still_computes(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from npgpt.kernels.elementwise import kernel\n"
        "from npgpt.kernels.gelu import gelu\n"
        "import numpy as np\n"
        "print(gelu(np.ones(3, np.float32)).round(4).tolist())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "below")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "0.8411" in done.stdout


def test_threads_are_those_asked_for():
    code = (
        "import numba; from npgpt.kernels import compiling\n"
        "import npgpt.kernels; print(numba.get_num_threads())"
    )
    environment = {**os.environ, "NPGPT_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1"


def test_without_numba_the_backend_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "npgpt.kernels", None)
    with pytest.raises(BackendError, match=r"npgpt\[numba\]"):
        get_backend("numba")


MEMORY = """
import sys
from pathlib import Path
from npgpt import GPT2

def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

GPT2.from_pretrained("tales-mini", backend="numba").logits([1, 2, 3])  # warm
before = held("VmRSS")
model = GPT2.from_pretrained(sys.argv[1], backend="numba")
print(held("VmHWM") - before, model.params.buffers.nbytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's")
def test_packing_never_holds_two_copies_of_the_weights(tmp_path):
    config = replace(TINY, vocab_size=12_000, n_embd=512, n_layer=8, n_head=8)
    tensors = {
        name: np.full(shape, 0.01, np.float32)
        for name, shape in checkpoint.expected_shapes(config).items()
    }
    checkpoint.save(checkpoint.from_tensors(config, tensors), tmp_path, "float32")
    script = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    peak, weights = map(int, done.stdout.split())
    assert weights > 120e6
    assert peak < weights + 60e6  # two copies of all but the last block: 240e6
