"""A learner's own functions in the place of ours, and which function made a tensor."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt import ops
from npgpt.backend import NUMPY, Backend
from npgpt.errors import NpgptError
from npgpt.inside.recipes import RECIPES
from npgpt.support.arguments import checked, shown

REPLACEABLE = ("softmax", "layer_norm", "gelu", "linear", "attention", "embedding")
OWN = (  # in the order of ops.py: what a function is made of stands before it
    "softmax",
    "log_softmax",
    "cross_entropy",
    "gelu",
    "layer_norm",
    "embedding",
    "linear",
    "split_heads",
    "merge_heads",
    "causal_mask",
    "attention_scores",
    "attention",
)
LEFT_OUT = ("epsilon", "causal", "mask", "window", "scale", "xp")  # may be missing
WITHIN = {
    "split_heads": "linear",
    "attention_scores": "attention",
}  # a backend


def maker(tensor: str) -> str | None:
    """The function that makes a tensor of the forward pass; None if no one does.

    >>> maker("h.3.attn.weights"), maker("h.3.resid"), maker("logits[3], row 1")
    ('softmax', None, None)
    """
    recipe = RECIPES.get(re.sub(r"^h\.\d+\.", "h.{i}.", tensor))
    if recipe is None or recipe.function is None:
        return None
    name = recipe.function.__name__
    return WITHIN.get(name, name)


def signature(name: str) -> str:
    """How a function of npgpt.ops is called.

    >>> signature("attention")
    'attention(q, k, v, *, causal=True, mask=None, window=None, scale=None)'
    """
    found = inspect.signature(getattr(ops, name)).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found]
    return name + str(inspect.Signature(plain))


class Own(NamedTuple):
    """A learner's function, called as npgpt.ops calls its own."""

    name: str
    function: Callable[..., Any]
    path: Path

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What it returns; all that cannot be used is one NpgptError with the line."""
        expected = getattr(ops, self.name)(*args, **options)
        fitted, named = self._fitted(args, options)
        try:
            with np.errstate(all="ignore"):
                result = self.function(*fitted, **named)
        except (Exception, SystemExit) as error:
            what = _raised(self.path, error, f"{self.name} raised ")
            shapes = [str(x.shape) for x in (*fitted, *named.values()) if _is_array(x)]
            raise NpgptError(
                f"{what}; it was given arrays of {', '.join(shapes)}, as in "
                f"{signature(self.name)}"
            ) from None
        return self._usable(result, expected)

    def takes(self, options: Mapping[str, Any]) -> bool:
        """Whether it has all these options; it may call epsilon what it likes."""
        own = self._parameters()
        wanted = {name for name in options if name in LEFT_OUT} - own.keys()
        if self.name == "layer_norm" and len(own) > 3:
            wanted.discard("epsilon")
        return not own or not wanted or _any_keyword(own)

    def _parameters(self) -> dict[str, inspect.Parameter]:
        try:
            return dict(inspect.signature(self.function).parameters)
        except (ValueError, TypeError):  # a function of NumPy that does not say
            return {}

    def _fitted(self, args: Any, options: Any) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as its parameters want them: by place first, then by name."""
        own = self._parameters()
        if not own:
            return [*args, *options.values()], {}
        bound = inspect.signature(getattr(ops, self.name)).bind(*args, **options)
        bound.apply_defaults()
        values = dict(bound.arguments)
        if "causal" not in own and "mask" in own and values.get("causal"):
            values.update(mask=_causal_too(values), window=None)
        by_place = [
            p.name
            for p in own.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            and p.name not in LEFT_OUT[1:]
        ]
        count = min(len(by_place), sum(name not in LEFT_OUT[1:] for name in values))
        if any(p.kind is p.VAR_POSITIONAL for p in own.values()):
            count = len([name for name in values if name not in LEFT_OUT])
        placed, named = list(values)[:count], {}
        for name in list(values)[count:]:
            if name in own or _any_keyword(own):
                named[name] = values[name]
            elif self._needs(name, values):
                raise NpgptError(
                    f"{self.path}: {self.name} has no {name}, and is called with one; "
                    f"write {signature(self.name)}"
                )
        try:
            inspect.signature(self.function).bind(*placed, **named)
        except TypeError as error:
            raise NpgptError(
                f"{self.path}: {self.name}{inspect.signature(self.function)} cannot be "
                f"called ({error}); write {signature(self.name)}"
            ) from None
        return [values[name] for name in placed], named

    def _needs(self, name: str, values: dict[str, Any]) -> bool:
        """Whether leaving an argument out would ask for something else."""
        value = values[name]
        if name == "xp":
            return False
        if name == "scale" and value is not None:
            return bool(abs(value * values["q"].shape[-1] ** 0.5 - 1) > 1e-6)
        if name == "mask" and value is not None:
            past = _causal_too({**values, "mask": None})
            return not values["causal"] or bool((past & ~value).any())
        default = inspect.signature(getattr(ops, self.name)).parameters[name].default
        return _is_array(value) or value != default

    def _usable(self, result: Any, expected: Any) -> Any:
        where = f"{self.path}: {self.name} returned"
        if isinstance(expected, float):
            if not isinstance(result, float | np.floating) and np.shape(result) != ():
                raise NpgptError(f"{where} {shown(result)}, not a number")
            return float(result)
        if isinstance(expected, tuple):
            if not isinstance(result, tuple | list) or len(result) != len(expected):
                raise NpgptError(f"{where} {_kind(result)}, not {len(expected)} arrays")
            return tuple(map(self._usable, result, expected))
        if not isinstance(result, np.ndarray):
            raise NpgptError(
                f"{where} {_kind(result)}, not an array of {expected.shape}"
            )
        if result.shape != expected.shape:
            what = f"an array of {result.shape}, not {expected.shape}"
            raise NpgptError(f"{where} {what}")
        return result


@checked(NpgptError)
def own_file(path: str | Path) -> dict[str, Own]:
    """The functions of npgpt.ops that a Python file defines, in the order of OWN.

    Raises NpgptError if it cannot be run or defines none of them.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location("own_functions", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise NpgptError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise NpgptError(_raised(path, error)) from None
    found = {
        name: Own(name, getattr(module, name), path)
        for name in OWN
        if callable(getattr(module, name, None))
        and getattr(module, name) is not getattr(ops, name)
    }
    if not found:
        names = dict.fromkeys((*REPLACEABLE, *OWN))
        raise NpgptError(f"{path}: defines none of {', '.join(names)}")
    return found


def in_place(found: Mapping[str, Own]) -> Backend:
    """A NumPy backend with those of the functions in it that a model calls."""
    called: dict[str, Any] = {n: own for n, own in found.items() if n in REPLACEABLE}
    name = next(iter(found.values())).path.name
    return replace(NUMPY, name=name, **called)


def own_functions(path: str | Path) -> Backend:
    """A NumPy backend with the functions that a Python file defines in place of ours.

    Raises NpgptError as `own_file` does.
    """
    return in_place(own_file(path))


def _raised(path: Path, error: BaseException, who: str = "") -> str:
    """What went wrong, and in which line of the file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == os.path.realpath(path)
    ]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f"{path}, line {lines[-1]}" if lines else str(path)
    what = f"{place}: {who}{type(error).__name__}: {error}"
    if "read-only" in str(error):
        what += " (it may not write into what it is given)"
    return what


def _causal_too(values: dict[str, Any]) -> np.ndarray:
    """The mask with the causal rule in it, for a function that knows masks alone."""
    T, S, mask = values["q"].shape[2], values["k"].shape[2], values["mask"]
    past = ops.causal_mask(T, S, window=values["window"])[None]
    return past if mask is None else past & mask


def _any_keyword(own: dict[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in own.values())


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _kind(x: Any) -> str:
    return f"a {type(x).__name__}"
