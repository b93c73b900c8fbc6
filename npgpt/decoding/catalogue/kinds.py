"""A parameter of a strategy: one keyword of `generate`, checked, in one form.

Each kind is a line of KINDS. What a value means is said where the parameter stands,
beside its strategy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from npgpt.errors import DecodingError
from npgpt.support.arguments import shown


def _number(value: Any) -> float:
    number = not isinstance(value, bool | str) and hasattr(value, "__float__")
    if not number or value != value:
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return value.__index__()


def _if(holds: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """The value itself where this holds of it."""

    def check(value: Any) -> Any:
        if holds(value):
            return value
        raise TypeError

    return check


_flag = _if(lambda value: isinstance(value, bool))
_text = _if(lambda value: isinstance(value, str))
_model = _if(lambda value: hasattr(value, "next_logits"))
_all = _if(all)  # none of them is empty


def _texts(value: Any) -> tuple[str, ...]:
    return _all((value,) if isinstance(value, str) else tuple(map(_text, value)))


def _ids(value: Any) -> tuple[int, ...]:
    ids = tuple(map(_whole, value if hasattr(value, "__iter__") else (value,)))
    if min(ids, default=0) < 0:
        raise ValueError
    return ids


def _phrases(value: Any) -> tuple[tuple[int, ...], ...]:
    return _all(tuple(map(_ids, value)))


def _bias(value: Any) -> dict[int, float]:
    return {  # JSON's keys are texts
        _whole(int(id) if isinstance(id, str) else id): _number(bias)
        for id, bias in value.items()
    }


def _sequence_bias(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((_phrases([ids])[0], _number(bias)) for ids, bias in pairs)


def _pair(value: Any) -> tuple[int, float]:
    start, factor = value
    return _whole(start), _number(factor)


def _schema(value: Any) -> str:
    schema = json.loads(value) if isinstance(value, str) else value
    return json.dumps(_if(lambda value: isinstance(value, dict | bool))(schema))


def _models(value: Any) -> tuple[Any, ...]:
    return tuple(map(_model, value if isinstance(value, list | tuple) else (value,)))


class Kind(NamedTuple):
    """What a user writes, the check, what --help calls it, the token ids in a value."""

    words: str
    check: Callable[[Any], Any] = lambda value: value
    metavar: str = "JSON"
    ids: Callable[[Any], Iterable[int]] = lambda value: ()
    file: bool = False  # long enough to be read from a file


KINDS = {
    "number": Kind("a number", _number, "X"),
    "whole": Kind("a whole number", _whole, "N"),
    "id": Kind("a whole number", _whole, "N", lambda id: [id]),
    "flag": Kind("True or False", _flag),
    "choice": Kind("one of its choices"),
    "text": Kind("a text", _text, "TEXT"),
    "grammar": Kind("a text", _text, "TEXT", file=True),
    "texts": Kind("non-empty texts", _texts, "JSON|TEXT"),
    "ids": Kind("token ids", _ids, ids=lambda ids: ids),
    "keys": Kind("token ids", _ids),  # of a watermark, no tokens
    "phrases": Kind("lists of token ids", _phrases, ids=lambda all: sum(all, ())),
    "bias": Kind("{token id: bias}", _bias, ids=lambda bias: bias),
    "sequence_bias": Kind(
        "[[token ids], bias] pairs, or {(token ids): bias}",
        _sequence_bias,
        ids=lambda pairs: sum((ids for ids, _ in pairs), ()),
    ),
    "pair": Kind("(start, factor)", _pair),
    "schema": Kind("a JSON schema: a dict or its text", _schema, file=True),
    "model": Kind("a model", _model, "MODEL"),
    "models": Kind("a model or a list of models", _models, "MODEL,..."),
    "function": Kind("a function", _if(callable)),
    "any": Kind("a value"),
}


class Parameter(NamedTuple):
    """One keyword of `generate`: what it takes, and the value that changes nothing."""

    name: str
    kind: str
    default: Any
    help: str
    low: float
    high: float
    choices: tuple[Any, ...]

    @classmethod
    def of(
        cls, name: str, default: Any, help: str, *bounds: float, kind: str = ""
    ) -> Parameter:
        """A parameter whose default tells its kind; the first of choices is theirs.

        >>> Parameter.of("top_k", 0, "0 is off.").kind
        'whole'
        """
        choices = () if kind or not isinstance(default, tuple) else default
        default = choices[0] if choices else default
        kinds = {float: "number", int: "whole", bool: "flag", str: "text"}
        kind = "choice" if choices else kind or kinds[type(default)]
        low, high = (*bounds, *(-math.inf, math.inf)[len(bounds) :])
        return cls(name, kind, default, help, low, high, choices)

    def checked(self, value: Any) -> Any:
        """The value in its one form; None is the default. Raises DecodingError.

        >>> Parameter.of("min_p", 0.0, "", 0, 1).checked(0.1)
        0.1
        """
        if value is None:
            return self.default
        if type(value) is type(self.default) and value == self.default:
            return value
        wanted = self.wanted
        try:
            # 1 == True and 0 == False: only the very type is the choice that was meant
            if self.choices and not any(
                value == c and type(value) is type(c) for c in self.choices
            ):
                raise ValueError
            value = KINDS[self.kind].check(value)
            if self.bounds and value != self.default:
                wanted = self.bounds if self.kind == "number" else wanted
                if not self.low <= value <= self.high:
                    raise ValueError
            return value
        except (TypeError, ValueError, AttributeError):
            sentence = f"{self.name} must be {wanted}, not {shown(value)}"
            raise DecodingError(sentence) from None

    @property
    def wanted(self) -> str:
        """What a value has to be, in words."""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        if self.kind in ("whole", "id") and self.bounds:
            return f"a whole number {'of ' * self.bounds.startswith('at')}{self.bounds}"
        return KINDS[self.kind].words

    @property
    def bounds(self) -> str:
        """The allowed numbers in words; empty where all are."""
        if self.high < math.inf:
            return f"in [{self.low:g}, {self.high:g}]"
        return f"at least {self.low:g}" if self.low > -math.inf else ""

    def parse(self, text: str) -> Any:
        """The value that a text on the command line stands for, not yet checked."""
        words = KINDS[self.kind].words
        if self.kind in ("text", "grammar", "schema"):
            return text
        if self.kind in ("function", "model", "models"):
            raise DecodingError(f"{self.name} is {words}: give it from Python")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if self.kind in ("texts", "choice", "any"):
                return [unescaped(text)] if self.kind == "texts" else text
            raise DecodingError(f"{self.name} must be {words}, not {text!r}") from None


def unescaped(text: str) -> str:
    r"""A text as it was typed in a shell: \n is a line end, \t a tab, \\ a backslash.

    >>> unescaped(r"a\nb"), unescaped(r"C:\\new")
    ('a\nb', 'C:\\new')
    """
    marks = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda match: marks[match[1]], text)
