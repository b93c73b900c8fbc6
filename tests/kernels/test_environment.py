"""Numba's own variables, each in a process of its own: honoured, or one sentence."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")
# Nothing is compiled that tests/kernels/test_kernels.py does not compile as well.
THREADS = "from npgpt import kernels; import numba; print(numba.threading_layer())"
INT8 = """
import numpy as np
from npgpt import kernels
from npgpt.kernels import tiers
from npgpt.kernels.packed import pack, unpack
draw = np.random.default_rng(0)
w = pack(draw.normal(size=(200, 50)).astype("f"), "int8")
x = draw.normal(size=(3, 200)).astype("f")
expected = x @ unpack(w)
wrong = np.abs(kernels.linear(x, w) - expected).max() / np.abs(expected).max()
assert wrong < 0.02, wrong
print(*tiers.available())
"""
BACKEND = "from npgpt.backend import get_backend; get_backend('numba')"


def run(*words, status=0, **variables):
    """What a process with these variables says; no traceback."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    cache = os.environ.get("NUMBA_CACHE_DIR")
    own = {} if cache is None else {"NUMBA_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, *words],
        env={**kept, **own, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return done


def npgpt(*words, status=0, **variables):
    """The same of the command, whose messages are one line each."""
    done = run("-m", "npgpt", *words, status=status, **variables)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done


GENERATE = ("generate", "Once", "--greedy", "--max-new-tokens", "2", "--backend")


def test_auto_takes_numpy_where_nothing_may_be_compiled_and_says_so():
    done = npgpt(*GENERATE, "auto", NUMBA_DISABLE_JIT="1")
    why, chosen, figures = done.stderr.splitlines()
    assert "NUMBA_DISABLE_JIT=1 forbids" in why
    assert chosen == "backend: numpy"
    assert "[tales, numpy" in figures
    assert done.stdout.startswith("Once upon")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("NUMBA_DISABLE_JIT", "1", "NUMBA_DISABLE_JIT=1 forbids"),
        ("NUMBA_THREADING_LAYER", "nonsense", "'nonsense' is unknown to Numba"),
        ("NUMBA_THREADING_LAYER_PRIORITY", "tbb", "must be a permutation"),
        ("NUMBA_NUM_THREADS", "many", "value 'many' could not be parsed"),
        ("NUMBA_NUM_THREADS", "0", "must be > 0"),
        ("NPGPT_THREADS", "many", "NPGPT_THREADS is 'many', not a whole number"),
    ],
)
def test_what_numba_cannot_start_with_is_one_sentence(name, value, sentence):
    done = npgpt(*GENERATE, "numba", status=1, **{name: value})
    (line,) = done.stderr.splitlines()
    assert line.startswith("npgpt: ")
    assert sentence in line
    assert name in line
    assert done.stdout == ""


@pytest.mark.parametrize("verb", [("warmup",), ("bench", "--quick")])
def test_verbs_of_kernels_say_it_too(verb):
    done = npgpt(*verb, status=1, NUMBA_NUM_THREADS="-1")
    assert done.stderr.startswith("npgpt: backend 'numba' cannot start with NUMBA_NUM")


def test_info_does_without_kernels():
    done = npgpt("info", NUMBA_THREADING_LAYER="nonsense")
    assert "parameters" in done.stdout
    assert done.stderr.startswith("note: backend 'numba' cannot start")


@pytest.mark.parametrize(
    ("variables", "layer"),
    [
        ({"NUMBA_THREADING_LAYER": "tbb"}, "tbb"),
        ({"NUMBA_THREADING_LAYER": "safe"}, "tbb"),
        ({"NUMBA_THREADING_LAYER": "workqueue"}, "workqueue"),
        ({"NUMBA_THREADING_LAYER_PRIORITY": "workqueue omp tbb"}, "workqueue"),
        ({}, "tbb"),
    ],
)
def test_threads_are_those_that_the_user_chose(variables, layer):
    from npgpt.kernels.compiling import load_tbb

    if layer == "tbb" and not load_tbb():
        pytest.skip("tbb is not installed")
    assert run("-c", THREADS, **variables).stdout.split() == [layer]


@pytest.mark.parametrize(
    "variables",
    [
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_FEATURES": "-sse4.2"},
        {"NUMBA_ENABLE_AVX": "0"},
    ],
)
def test_a_tier_is_compiled_for_or_not_used(variables):
    code = "from npgpt.kernels import tiers; print(*tiers.available())"
    assert run("-c", code, **variables).stdout.split() == ["portable"]


def test_products_are_right_for_a_processor_with_less():
    """LLVM used to end the process: the host's instructions, another's machine code."""
    assert run("-c", INT8, NUMBA_CPU_NAME="generic").stdout.split() == ["portable"]


def test_a_tier_that_is_not_compiled_for_is_refused_with_the_reason():
    code = "from npgpt.kernels import tiers; tiers.current()"
    variables = {"NUMBA_CPU_NAME": "generic", "NPGPT_CPU_TIER": "avx2"}
    done = run("-c", code, status=1, **variables)
    assert "does not have with NUMBA_CPU_NAME=generic" in done.stderr.splitlines()[-1]


def test_a_simulated_gpu_changes_nothing():
    run("-c", BACKEND, NUMBA_ENABLE_CUDASIM="1")
