"""Arguments of public functions against their annotations, refused in one sentence.

The annotation is the rule, so none is written twice: `n: int | None` takes whole
numbers and None, `file: str | Path` the name of a file, `model: Model` what reads like
one. Which numbers are in range is each function's own business, and so are the shapes
of arrays: what is annotated for jaxtyping is passed over. Of `ids` the first is looked
at, since npgpt.ids.check_ids reads them all.
"""

from __future__ import annotations

import inspect
import os
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from itertools import islice
from pathlib import Path
from typing import (
    Any,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    runtime_checkable,
)

import numpy as np

from npgpt.errors import NpgptError

Function = TypeVar("Function", bound=Callable[..., Any])


@runtime_checkable
class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""


def checked(error: type[NpgptError]) -> Callable[[Function], Function]:
    """Let a function raise `error` for an argument that its annotation does not allow.

    >>> @checked(NpgptError)
    ... def twice(n: int) -> int:
    ...     return 2 * n
    >>> twice("a")
    Traceback (most recent call last):
    npgpt.errors.NpgptError: n must be a whole number, not 'a'
    """

    def decorate(function: Function) -> Function:
        code = inspect.unwrap(function).__code__
        names = code.co_varnames[: code.co_argcount]

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kinds = _kinds(function)
            for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                _check(name, value, kinds, error)
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def check_fields(instance: Any, error: type[NpgptError]) -> None:
    """The same for the fields of a dataclass or a NamedTuple."""
    owner: Any = type(instance)
    kinds = _kinds(owner)
    for name in kinds:
        _check(name, getattr(instance, name), kinds, error)


def is_list(value: Any) -> bool:
    """Whether value is a list or an array of something; a text is none.

    >>> is_list([1]), is_list(np.array([1])), is_list(np.array(1)), is_list("a")
    (True, True, False, False)
    """
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def shown(value: Any) -> str:
    """A wrong value on one line, shortened.

    >>> shown(list(range(100)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    try:
        return " ".join(reprlib.repr(value).split())
    except Exception:  # whatever a stranger's __repr__ does
        return f"a {type(value).__name__}"


def _check(
    name: str, value: Any, kinds: dict[str, Any], error: type[NpgptError]
) -> None:
    if name in kinds and not _fits(value, kinds[name], first=name == "ids"):
        raise error(f"{name} must be {_words(kinds[name])}, not {shown(value)}")


@cache
def _kinds(owner: Any) -> dict[str, Any]:
    """Name -> annotation, as an object; those that cannot be one here are left out."""
    kinds, scope = {}, vars(sys.modules[owner.__module__])
    for name, kind in owner.__annotations__.items():
        kind = getattr(kind, "__forward_arg__", kind)  # as a NamedTuple has it
        try:
            kind = eval(kind, scope) if isinstance(kind, str) else kind
        except (NameError, TypeError):  # for type checkers only; an array's shape
            continue
        if "jaxtyping" not in getattr(kind, "__module__", "") and name != "return":
            kinds[name] = kind
    return kinds


def _fits(value: Any, kind: Any, first: bool = False) -> bool:
    """Whether value is of this kind; `first`: a list is judged by its first item."""
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        if Path in inner and isinstance(value, str | Path):
            return _can_be_path(value)
        return any(_fits(value, one, first) for one in inner)
    if origin is Callable:
        return callable(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, origin) and all(
            _fits(key, inner[0]) and _fits(one, inner[1]) for key, one in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Iterable):
        kind = Sequence if origin in (list, tuple) else origin
        return _holds(value, kind, inner, first)
    return not isinstance(kind, type) or isinstance(value, kind)


def _holds(value: Any, kind: Any, inner: tuple[Any, ...], first: bool) -> bool:
    """Whether value is such a collection of what fits; list and tuple pass as one."""
    if isinstance(value, np.ndarray):
        numbers = inner[0] in (int, float) or get_origin(inner[0]) is not None
        few = value[:1] if first and value.ndim else value
        return numbers and value.ndim > 0 and _holds(few.tolist(), kind, inner, first)
    if not isinstance(value, kind) or isinstance(value, str | bytes):
        return False
    if kind is Iterable:  # looking might use it up
        return True
    if len(inner) > 1 and inner[1] is not ...:  # a pair, and the like
        return len(value) == len(inner) and all(map(_fits, value, inner))
    some = islice(value, 1) if first else value
    return all(_fits(one, inner[0], first) for one in some)


def _can_be_path(value: str | Path) -> bool:
    try:
        return b"\0" not in os.fsencode(value) and value != ""
    except UnicodeEncodeError:
        return False


def _is_number(value: Any, kind: Any = int | float | np.integer | np.floating) -> bool:
    flag = isinstance(value, bool | np.bool_)
    return isinstance(value, kind) and not flag and value == value  # NaN is none


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half a character
        return False


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    int: lambda value: _is_number(value, int | np.integer),
    float: _is_number,
    bool: lambda value: isinstance(value, bool | np.bool_),
    str: _is_text,
}
_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Stream: "binary stream",
    np.ndarray: "array",
    Callable: "function",
    dict: "dict",
    Mapping: "dict",
}


def _words(kind: Any, plural: str = "") -> str:
    """What a value has to be: "a whole number", "a list of texts"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        kinds = [one for one in inner if one is not type(None)]
        if Path in kinds:  # str | Path is the name of a file
            kinds = [one for one in kinds if one is not str]
        return " or ".join(_words(one, plural) for one in kinds)
    if kind is bool:
        return "True or False"
    name: str = getattr(kind, "__name__", str(kind))
    word, more = _WORDS.get(origin or kind, name), ""
    if getattr(kind, "_is_protocol", False) and kind not in _WORDS:
        word = kind.__mro__[-4].__name__.lower()  # of its base, if any
    if origin is not None and origin not in _WORDS:
        word, more = "list", f" of {_words(inner[0], plural='s')}"
    article = "" if plural else "an " if word[0] in "aeiou" else "a "
    return f"{article}{word}{plural}{more}"
