"""A learner's own functions in the place of ours, and which function made a tensor."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from npgpt import ops
from npgpt.backend import NUMPY, Backend
from npgpt.errors import NpgptError
from npgpt.support.arguments import checked

REPLACEABLE = ("softmax", "layer_norm", "gelu", "linear", "attention")
MAKERS = {  # every tap: the function that makes it; None: a sum
    "wte": "embedding",
    "wpe": "embedding",
    "embed": None,
    "h.{i}.ln_1": "layer_norm",
    "h.{i}.attn.q": "linear",
    "h.{i}.attn.k": "linear",
    "h.{i}.attn.v": "linear",
    "h.{i}.attn.scores": "attention",
    "h.{i}.attn.weights": "softmax",
    "h.{i}.attn.context": "attention",
    "h.{i}.attn.out": "linear",
    "h.{i}.resid_mid": None,
    "h.{i}.ln_2": "layer_norm",
    "h.{i}.mlp.pre": "linear",
    "h.{i}.mlp.act": "gelu",
    "h.{i}.mlp.out": "linear",
    "h.{i}.resid": None,
    "ln_f": "layer_norm",
    "logits": "linear",
}


def maker(tensor: str) -> str | None:
    """The function that makes a tensor of the forward pass; None if no one does.

    >>> maker("h.3.attn.weights"), maker("h.3.resid"), maker("logits[3], row 1")
    ('softmax', None, None)
    """
    return MAKERS.get(re.sub(r"^h\.\d+\.", "h.{i}.", tensor))


@checked(NpgptError)
def own_functions(path: str | Path) -> Backend:
    """A NumPy backend with the functions that a Python file defines in place of ours.

    The file may define any of REPLACEABLE, with the arguments that npgpt.ops gives
    them. Raises NpgptError if it cannot be run or defines none of them.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location("own_functions", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise NpgptError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise NpgptError(f"{path}: {type(error).__name__}: {error}") from None
    found: dict[str, Any] = {
        name: _guarded(getattr(module, name), f"{path}: {name}")
        for name in REPLACEABLE
        if callable(getattr(module, name, None))
        and getattr(module, name) is not getattr(ops, name)
    }
    if not found:
        raise NpgptError(f"{path}: defines none of {', '.join(REPLACEABLE)}")
    return replace(NUMPY, name=path.name, **found)


def _guarded(function: Callable, where: str) -> Callable:
    """The function; what it raises becomes one sentence that tells the shapes."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        expected = getattr(ops, where.rpartition(" ")[2])(*args, **kwargs).shape
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            given = [*args, *kwargs.values()]
            shapes = ", ".join(str(x.shape) for x in given if hasattr(x, "shape"))
            what = f"{type(error).__name__}: {error}"
            raise NpgptError(
                f"{where} raised {what}; it was given arrays of {shapes}"
            ) from None
        if not isinstance(result, np.ndarray):
            what = f"a {type(result).__name__}, not an array of {expected}"
            raise NpgptError(f"{where} returned {what}")
        if result.shape != expected:
            what = f"an array of {result.shape}, not {expected}"
            raise NpgptError(f"{where} returned {what}")
        return result

    return guarded
