"""The catalogue: every decoding strategy, as the modules of decoding have entered it.

An entry stands on its function, with its parameters:

    @strategy("C4", "min-p", rank=60, limit=1.0)
    @parameter("min_p", 0.0, "Fraction of the top; 0 is off.", 0, 1)
    @example(min_p=0.3)
    def min_p(z, m): ...

Options, chains, --help, `npgpt strategies` and the worked examples follow from what is
entered, at run time too. The modules are imported when a strategy is first asked for.
"""

from __future__ import annotations

import bisect
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.catalogue.kinds import Parameter
from npgpt.errors import DecodingError
from npgpt.support.hints import meant

Function = TypeVar("Function", bound=Callable[..., Any])
_entered: list[Strategy] = []  # by code, as the inventory has them
_known: dict[str, Parameter] = {}
_noted: dict[
    Callable[..., Any], dict[str, Any]
] = {}  # of functions that are being decorated


def strategies() -> list[Strategy]:
    """All of them, in the inventory's order."""
    _import_all()
    return _entered


def parameters() -> dict[str, Parameter]:
    """The parameters of all of them, by name."""
    _import_all()
    return _known


@functools.cache
def _import_all() -> None:
    """Import every module of decoding, so that what it enters is here."""
    folder = Path(__file__).parent.parent
    for file in sorted(folder.rglob("*.py")):
        module = file.relative_to(folder).with_suffix("").parts
        if module[0] != "examples" and module[-1] != "__init__":
            importlib.import_module(".".join(("npgpt.decoding", *module)))


def enter(entry: Strategy) -> None:
    """Take a strategy up, behind those of its code. Raises for a parameter in use."""
    for p in entry.parameters:
        if p.name in _known:
            raise DecodingError(f"a parameter is called {p.name} already")
    _known.update((p.name, p) for p in entry.parameters)
    bisect.insort(_entered, entry, key=lambda s: (s.code[0], int(s.code[1:])))


def remove(entry: Strategy) -> None:
    """Forget a strategy."""
    _entered.remove(entry)
    for p in entry.parameters:
        del _known[p.name]


def strategy(code: str, name: str, **fields: Any) -> Callable[[Function], Function]:
    """Enter the function below as a strategy, with what is noted between."""

    def decorate(function: Function) -> Function:
        enter(Strategy(code, name, function, **_noted.pop(function, {}), **fields))
        return function

    return decorate


def parameter(*fields: Any, **more: Any) -> Callable[[Function], Function]:
    """Note a parameter of the strategy: see Parameter.of."""

    def decorate(function: Function) -> Function:
        noted = _noted.setdefault(function, {})
        below = noted.get("parameters", ())
        noted["parameters"] = (Parameter.of(*fields, **more), *below)
        return function

    return decorate


def fields(**more: Any) -> Callable[[Function], Function]:
    """Note more fields of the strategy: see Strategy."""

    def decorate(function: Function) -> Function:
        _noted.setdefault(function, {}).update(more)
        return function

    return decorate


def example(
    show: Callable[..., str] | None = None, **setting: Any
) -> Callable[[Function], Function]:
    """Note the worked example: a setting, or a function that shows one."""
    return fields(example=show or setting)


def find(name: str) -> Strategy:
    """The strategy with this code, name, parameter or function.

    >>> find("min_p").code, find("c4").name
    ('C4', 'min-p')
    """
    wanted = name.casefold().replace("_", "-")
    for names_of in (
        lambda s: (s.code, s.name),
        lambda s: (p.name for p in s.parameters),
        lambda s: (s.function.__name__,),
    ):
        for entry in strategies():
            if wanted in (x.casefold().replace("_", "-") for x in names_of(entry)):
                return entry
    known = [x for s in strategies() for x in (s.name, *(p.name for p in s.parameters))]
    raise DecodingError(
        f"no decoding strategy is called {name!r}; {meant(name, known)}"
        "`npgpt strategies` lists all"
    )
