"""A backend is a plug by name: loaded when asked for, refused in one sentence."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, types
from npgpt import BackendError
from npgpt.backend import get_backend

class CUDARuntimeError(Exception):
    pass

def count():
    if devices < 0:
        raise CUDARuntimeError("no driver")
    return devices

def fake():
    runtime = types.SimpleNamespace(
        getDeviceCount=count, CUDARuntimeError=CUDARuntimeError
    )
    module = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(runtime=runtime)
    return module

for name in sys.argv[3:]:
    sys.modules[name] = None  # as if it were not installed
devices = int(sys.argv[2])
if devices != 99:
    sys.modules["cupy"] = fake()
try:
    backend = get_backend(sys.argv[1])
    found = [backend.name, backend.xp.__name__]
except BackendError as error:
    found = str(error)
print(json.dumps([found, "numba" in sys.modules]))
"""


def asked_for(name, devices=99, *missing):
    """What a process without these modules and with a CuPy of so many GPUs finds."""
    words = [sys.executable, "-c", PROGRAM, name, str(devices), *missing]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_numpy_needs_no_numba():
    assert asked_for("numpy") == [["numpy", "numpy"], False]


@pytest.mark.parametrize("missing", [(), ("numba",), ("npgpt.kernels.attention",)])
def test_a_gpu_needs_no_numba(missing):
    assert asked_for("cupy", 1, *missing)[0] == ["cupy", "cupy"]


@pytest.mark.parametrize(
    ("name", "devices", "missing", "sentence"),
    [
        ("numba", 99, ("numba",), "backend 'numba' cannot be loaded (import of numba "
         "halted; None in sys.modules); install it with pip install 'npgpt[numba]', "
         "or use backend 'numpy'"),
        ("cupy", 99, ("cupy",), "backend 'cupy' needs CuPy, which cannot be imported "
         "(import of cupy halted; None in sys.modules); install it with pip install "
         "'npgpt[cuda12]' or 'npgpt[cuda13]'"),
        ("cupy", 0, (), "backend 'cupy' finds no GPU on this machine; use 'numpy'"),
        ("cupy", -1, (), "backend 'cupy' finds no usable GPU: no driver"),
        ("cupy", 1, ("npgpt.kernels",), "backend 'cupy' cannot be loaded (No module "
         "named 'npgpt.kernels.cuda'; 'npgpt.kernels' is not a package); install it "
         "with pip install 'npgpt[cuda12]' or 'npgpt[cuda13]', or use backend 'numpy'"),
        ("metal", 99, (), "backend 'metal' is not one of numpy, numba, cupy"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(name, devices, missing, sentence):
    assert asked_for(name, devices, *missing)[0] == sentence
