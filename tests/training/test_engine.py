"""An engine is a backend and what training needs besides."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from npgpt import BackendError
from npgpt.backend import NUMPY, Backend
from npgpt.training import backward, optim
from npgpt.training.engine import Engine, get_engine
from npgpt.training.lora import lora_engine
from npgpt.training.mixed import mixed_engine

PUBLIC = {
    name
    for name, function in vars(backward).items()
    if inspect.isfunction(function) and function.__module__ == backward.__name__
}


def test_every_derivative_is_a_field():
    assert set(Engine._fields) - {"backend", "update", "products"} == PUBLIC


def test_a_backend_is_found_by_name_and_kept_as_it_is(backend):
    engine = get_engine(backend.name)
    assert engine.backend is backend
    assert get_engine(engine) is engine
    own = replace(backend, softmax=np.negative)
    assert get_engine(own).backend is own
    assert get_engine(own)._replace(backend=backend) == engine
    with pytest.raises(BackendError, match="not one of"):
        get_engine("metal")


def test_an_unknown_backend_goes_back_by_the_reference():
    own = Backend("own", np)
    assert get_engine(own) == Engine(own)
    assert get_engine(own).update is optim.update


def test_numba_brings_its_twins():
    kernels = pytest.importorskip("npgpt.kernels.backward")
    engine = get_engine("numba")
    for name in PUBLIC:
        assert getattr(engine, name) is getattr(kernels, name), name
    assert engine.update.__module__ == "npgpt.kernels.optim"
    assert {f.__module__ for f in engine.products} == {"npgpt.kernels.mixed"}


def test_an_engine_is_changed_by_replacing(backend):
    engine = get_engine(backend)
    for change in (mixed_engine, lora_engine):
        found = change(engine)
        assert found.linear is not engine.linear
        assert found.backend.linear is not backend.linear
        same = found._replace(backend=backend, linear=engine.linear)
        assert same == engine
        assert replace(found.backend, linear=backend.linear) == backend
    assert get_engine(NUMPY).backend is NUMPY
