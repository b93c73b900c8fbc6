"""Taps: functions that see every intermediate of a forward pass and may replace it.

npgpt.inside.recipes lists the names, and how each is made. A tap with a method
`wants(name)` is asked before what is computed for it alone; a plain function asks for
all. One with a method `begin` or `head` is told of every reading (`tell`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from npgpt.errors import DecodingError
from npgpt.shapes import Array
from npgpt.support.arguments import shown


class Tap(Protocol):
    """tap(name, array) -> the array, or another of its shape."""

    def __call__(self, name: str, array: Array, /) -> Array:
        """What the forward pass goes on with."""


class _NoTap:
    """The default tap: hands every array back and wants none."""

    def __call__(self, name: str, array: Array) -> Array:
        return array

    def wants(self, name: str) -> bool:
        return False


no_tap = _NoTap()


def tap_wants(tap: Any, name: str) -> bool:
    """Whether the tap asks for this intermediate; a plain function asks for all."""
    wants = getattr(tap, "wants", None)
    return True if wants is None else wants(name)


def tell(tap: Any, what: str, *said: Any) -> None:
    """Call a tap's method of this name, if it has one.

    begin(ids, positions, reading): a pass over these ids (B, T) begins. head(hidden):
    these states go through the output head.
    """
    method = getattr(tap, what, None)
    if method is not None:
        method(*said)


class Recorder:
    """A tap that keeps what it is asked for: `arrays` holds it by name, the last last.

    `wants` says which names (all by default). What is kept is `copy(array)`, such as a
    NumPy copy for what may be written again; by default the array itself.

    >>> recorder = Recorder(lambda name: name.endswith("resid"))
    >>> recorder("h.0.resid", 1), recorder("logits", 2), recorder.arrays
    (1, 2, {'h.0.resid': 1})
    """

    def __init__(
        self,
        wants: Callable[[str], bool] = lambda name: True,
        copy: Callable[[Array], Array] = lambda array: array,
    ):
        self.wants, self.copy = wants, copy
        self.arrays: dict[str, Array] = {}

    def __repr__(self) -> str:
        names = [*self.arrays]
        shown = names if len(names) <= 4 else [*names[:3], "...", names[-1]]
        return f"Recorder({len(names)} arrays: {', '.join(shown) or 'none yet'})"

    def __call__(self, name: str, array: Array) -> Array:
        """Keep the array, where it is wanted, and hand it on."""
        if self.wants(name):
            self.arrays[name] = self.copy(array)
        return array


class CheckedTap:
    """A user's tap, and a sentence for the one that forgets to return.

    It is given the array itself: writing into it replaces it, as another one does.
    `after` is the model's own tap, a trace, which then sees what the user's returned.
    """

    def __init__(self, tap: Any, after: Any = no_tap):
        if not callable(tap):
            raise DecodingError(f"tap must be a function, not {shown(tap)}")
        self.tap, self.after = tap, after

    def wants(self, name: str) -> bool:
        """What the user's tap asks for, or the model's."""
        return tap_wants(self.tap, name) or tap_wants(self.after, name)

    def begin(self, *said: Any) -> None:
        """Hand on to the model's tap: see `tell`."""
        tell(self.after, "begin", *said)

    def head(self, *said: Any) -> None:
        """The same."""
        tell(self.after, "head", *said)

    def __call__(self, name: str, array: Array) -> Array:
        """Its result, an array of the same shape; else DecodingError."""
        result = self.tap(name, array)
        shape, dtype = (getattr(result, part, None) for part in ("shape", "dtype"))
        if shape != array.shape or dtype != array.dtype:
            what = f"an array {shape} of {dtype}" if shape else type(result).__name__
            who = getattr(self.tap, "__name__", type(self.tap).__name__)
            raise DecodingError(
                f"tap {who} returned {what} for {name}; it must return the array "
                f"{array.shape} of {array.dtype} that it was given, or another like it"
            )
        return self.after(name, result)
