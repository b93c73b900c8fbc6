"""The suite runs with the shapes in signatures checked, and over every backend here."""

import os
from pathlib import Path

# The suite's matrices are small: a second BLAS thread would only spin and wait. It must
# stand here before NumPy is imported; jaxtyping imports NumPy (and its plugin would do
# so before this file: setup.cfg leaves it out).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent

# Every module with shapes in its signatures has them checked, found by its import. The
# kernels are not among them: the hook would stand between a function and its compiler.
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "npgpt").rglob("*.py"))
    if "\nfrom npgpt.shapes import" in path.read_text(encoding="utf-8")
]
install_import_hook(SHAPED, "shape_check.check")

# A busy machine must not turn a test red. `--hypothesis-profile=full` is for what is
# long: ten times the cases.
CALM = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("calm", hypothesis.settings(), **CALM)
hypothesis.settings.register_profile("full", max_examples=1000, **CALM)
hypothesis.settings.load_profile("calm")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

import npgpt  # noqa: E402
from npgpt.backend import BACKENDS, get_backend  # noqa: E402


def available_backends() -> list[str]:
    """Names of the backends that this machine can run."""
    names = []
    for name in BACKENDS:
        try:
            get_backend(name)
        except npgpt.BackendError:
            continue
        names.append(name)
    return names


@pytest.fixture(scope="session", params=available_backends())
def backend(request):
    """Every backend that this machine can run."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def tales():
    """The bundled model."""
    return npgpt.GPT2.from_pretrained("tales")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data files that NPGPT_SHARED names."""
    folder = os.environ.get("NPGPT_SHARED")
    if not folder:
        pytest.skip("NPGPT_SHARED is not set: public data files are not here")
    return Path(folder) / "data"


@pytest.fixture(scope="session")
def tiny_reference():
    """What transformers computed on the tiny models, tools/record_fixtures.py."""
    from helpers import FIXTURES

    with np.load(FIXTURES / "gpt2_tiny.npz") as file:
        return dict(file)
