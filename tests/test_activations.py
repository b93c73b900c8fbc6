"""The activations against transformers' and against the C library's erf."""

import math

import array_api_strict as strict
import numpy as np
import pytest
from helpers import FIXTURES
from hypothesis import given
from hypothesis import strategies as st

from npgpt.activations import ACTIVATIONS, erf

REFERENCE = np.load(FIXTURES / "activations.npz")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_matches_reference(name):
    x, y = REFERENCE["x"], REFERENCE[name]
    np.testing.assert_allclose(ACTIVATIONS[name](x), y, atol=2e-14 * 12)
    single = ACTIVATIONS[name](x.astype(np.float32))
    assert single.dtype == np.float32
    # float32: x itself is rounded to 6e-8 of its size, the result to as much again
    np.testing.assert_allclose(single, y, atol=2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_runs_on_any_array_api_library(name):
    y = ACTIVATIONS[name](strict.asarray([-1.0, 0.0, 2.0]))
    assert isinstance(y, type(strict.asarray(0.0)))


@given(st.floats(allow_nan=False))
def test_erf_is_the_error_function(x):
    assert float(erf(np.array([x]))[0]) == pytest.approx(math.erf(x), abs=1e-14)


def test_gelu_of_gpt2_is_the_tanh_form():
    x = np.array([2.0])
    assert ACTIVATIONS["gelu_new"](x) != ACTIVATIONS["gelu"](x)
