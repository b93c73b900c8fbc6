"""The suite runs with the shapes in signatures checked, and over every backend here."""

import os
from pathlib import Path

# The suite's matrices are small: a second BLAS thread would only spin and wait. It must
# stand here before NumPy is imported; jaxtyping imports NumPy (and its plugin would do
# so before this file: setup.cfg leaves it out).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
from jaxtyping import install_import_hook

# Where arguments are arrays, shapes are checked; the public surface checks its own.
SHAPED = (
    "npgpt.activations",
    "npgpt.training.backward",
    "npgpt.training.backward_activations",
    "npgpt.decoding.rules.bias",
    "npgpt.decoding.rules.regex",
    "npgpt.decoding.rules.dry",
    "npgpt.decoding.rules.entropy",
    "npgpt.decoding.feedback",
    "npgpt.decoding.rules.fsd",
    "npgpt.decoding.rules.grammar",
    "npgpt.decoding.guidance.formulas",
    "npgpt.decoding.healing",
    "npgpt.decoding.rules.penalties",
    "npgpt.decoding.rules.reshaping",
    "npgpt.decoding.rules.base",
    "npgpt.decoding.selectors",
    "npgpt.decoding.watermarks.synthid",
    "npgpt.decoding.rules.trie",
    "npgpt.decoding.rules.truncation",
    "npgpt.decoding.watermarks.watermark",
    "npgpt.lab.diversity",
    "npgpt.gpt2",
    "npgpt.training.gradients",
    "npgpt.training.mixed",
    "npgpt.ops",
    "npgpt.training.optim",
    "npgpt.inside.attention",
    "npgpt.evaluation.score",
)
install_import_hook(SHAPED, "beartype.beartype")

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
