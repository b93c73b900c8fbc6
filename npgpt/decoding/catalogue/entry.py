"""What a catalogued strategy is: its parameters, its function and where it acts.

The entries stand in npgpt.decoding.catalogue, one list a section. They name their
functions as "module.function" of npgpt.decoding, so that nothing is imported before it
is used. This module computes nothing of the strategies themselves.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from npgpt.errors import DecodingError
from npgpt.support.arguments import shown

KINDS = {  # of a parameter: what a user writes
    "number": "a number",
    "whole": "a whole number",
    "flag": "True or False",
    "choice": "one of its choices",
    "text": "a text",
    "texts": "non-empty texts",
    "ids": "token ids",
    "phrases": "lists of token ids",
    "bias": "{token id: bias}",
    "sequence_bias": "[[token ids], bias] pairs, or {(token ids): bias}",
    "pair": "(start, factor)",
    "schema": "a JSON schema: a dict or its text",
    "model": "a model",
    "models": "a model or a list of models",
    "function": "a function",
    "any": "a value",
}


@dataclass(frozen=True)
class Parameter:
    """One keyword of `generate`: what it takes, and the value that changes nothing."""

    name: str
    kind: str
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple = ()

    def checked(self, value: Any) -> Any:
        """The value in its one form; None is the default. Raises DecodingError.

        >>> Parameter("min_p", "number", 0.0, "", 0, 1).checked(0.1)
        0.1
        """
        if value is None:
            return self.default
        if type(value) is type(self.default) and value == self.default:
            return value
        if self.kind == "choice":
            # 1 == True and 0 == False: only the very type is the choice that was meant
            if not any(value == c and type(value) is type(c) for c in self.choices):
                names = ", ".join(map(str, self.choices))
                raise DecodingError(
                    f"{self.name} must be one of {names}, not {shown(value)}"
                )
            return value
        try:
            value = _CHECKS[self.kind](value)
        except (TypeError, ValueError, AttributeError):
            raise DecodingError(
                f"{self.name} must be {self.wanted}, not {shown(value)}"
            ) from None
        if self.kind not in ("number", "whole") or value == self.default:
            return value
        if not self.low <= value <= self.high:
            wanted = self.wanted if self.kind == "whole" else self.bounds
            raise DecodingError(f"{self.name} must be {wanted}, not {shown(value)}")
        return value

    @property
    def wanted(self) -> str:
        """What a value has to be, in words."""
        if self.kind == "whole" and self.bounds:
            return f"a whole number {'of ' * self.bounds.startswith('at')}{self.bounds}"
        return KINDS[self.kind]

    @property
    def bounds(self) -> str:
        """The allowed numbers in words; empty where all are."""
        if self.high < math.inf:
            return f"in [{self.low:g}, {self.high:g}]"
        return f"at least {self.low:g}" if self.low > -math.inf else ""

    def parse(self, text: str) -> Any:
        """The value that a text on the command line stands for, not yet checked."""
        if self.kind in ("text", "schema"):
            return text
        if self.kind in ("function", "model", "models"):
            raise DecodingError(
                f"{self.name} is {KINDS[self.kind]}: give it from Python"
            )
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if self.kind in ("texts", "choice", "any"):
                return [text] if self.kind == "texts" else text
            raise DecodingError(
                f"{self.name} must be {KINDS[self.kind]}, not {text!r}"
            ) from None


def _number(value: Any) -> float:
    number = not isinstance(value, bool | str) and hasattr(value, "__float__")
    if not number or value != value:
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return value.__index__()


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(map(_text, value))
    if not all(texts):
        raise ValueError
    return texts


def _ids(value: Any) -> tuple[int, ...]:
    value = value if hasattr(value, "__iter__") else (value,)
    ids = tuple(map(_whole, value))
    if min(ids, default=0) < 0:
        raise ValueError
    return ids


def _phrases(value: Any) -> tuple[tuple[int, ...], ...]:
    phrases = tuple(map(_ids, value))
    if not all(phrases):
        raise ValueError
    return phrases


def _bias(value: Any) -> dict[int, float]:
    return {_whole(_key(id)): _number(bias) for id, bias in value.items()}


def _key(id: Any) -> Any:
    return int(id) if isinstance(id, str) else id  # JSON's keys are texts


def _sequence_bias(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((_phrases([ids])[0], _number(bias)) for ids, bias in pairs)


def _pair(value: Any) -> tuple[int, float]:
    start, factor = value
    return _whole(start), _number(factor)


def _schema(value: Any) -> str:
    schema = json.loads(value) if isinstance(value, str) else value
    if not isinstance(schema, dict | bool):
        raise TypeError
    return json.dumps(schema)


def _function(value: Any) -> Callable:
    if not callable(value):
        raise TypeError
    return value


def _model(value: Any) -> Any:
    if not hasattr(value, "next_logits"):
        raise TypeError
    return value


def _models(value: Any) -> tuple:
    value = value if isinstance(value, list | tuple) else (value,)
    return tuple(map(_model, value))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "number": _number, "whole": _whole, "flag": _flag, "text": _text, "texts": _texts,
    "ids": _ids, "phrases": _phrases, "bias": _bias, "sequence_bias": _sequence_bias,
    "pair": _pair, "schema": _schema, "function": _function,
    "model": _model, "models": _models, "any": lambda value: value,
}  # fmt: skip


@dataclass(frozen=True)
class Strategy:
    """One decoding strategy.

    kind says where it acts. "rule": an element of the chain, z -> z. "selector": takes
    the token. "stopping": ends a row. "guidance": wraps the model, function(model,
    options) -> model. "search": owns the loop, function(model, prompts, options,
    cache) -> iterator of Step. "after": works on finished text, as rerankers do.
    "part": of another strategy.

    It is on when its switch (the first parameter, if none is named) has the value
    `equals`, or any but its default. A rule's function is called with what `takes`
    names (see chain.SOURCES), then the values of `parameters` and of `also`, which
    belong to others, or what `prepare` makes of those values once.
    """

    code: str
    name: str
    line: str
    function: str
    parameters: tuple[Parameter, ...] = ()
    paper: str = ""
    kind: str = "rule"
    switch: str = ""
    equals: Any = None
    takes: str = "z"
    also: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None  # what is passed, where it is not those
    element: str = ""  # its name in a chain; several may share one, if `replaces`
    replaces: bool = False
    prepare: str = ""
    uses: tuple[str, ...] = ()  # parameters of others that it takes over when it is on
    sampling: bool = False  # changes nothing, or makes no sense, in greedy search
    keeps_top: bool = True  # the most probable token stays the most probable one
    formula: str = ""
    formula_in: str = ""  # what has the formula, where `function` only asks for it

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of the options that its function is called with, in order."""
        if self.values is not None:
            return self.values
        return (*(p.name for p in self.parameters), *self.also)

    @property
    def switched_by(self) -> str:
        """The parameter that turns it on; empty if something else does."""
        return self.switch or (self.parameters[0].name if self.parameters else "")


def resolve(function: str) -> Callable:
    """The function that "module.function" of npgpt.decoding names.

    >>> resolve("rules.truncation.min_p").__name__
    'min_p'
    """
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(f"npgpt.decoding.{module}"), name)
