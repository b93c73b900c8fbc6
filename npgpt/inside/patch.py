"""A patch: numbers of an intermediate that a traced model goes on with instead.

"h.3.attn.context[:, 2]": 0 takes head 2 of layer 3 out of all rows and tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import InsideError
from npgpt.inside.address import axes
from npgpt.inside.reading import Pass
from npgpt.inside.recipes import recipes
from npgpt.shapes import Array
from npgpt.support.arguments import shown


class Patch:
    """A name, an index (by place with slices, or by letter), the value to put there.

    A value is a number, an array that fits, or a function of what stood there.
    """

    def __init__(self, text: str, value: Any, config: GPT2Config):
        self.text, self.value, self.fired = text, value, False
        found = re.fullmatch(r"\s*([\w.]+)\s*(?:\[(.*)\])?\s*", text)
        if not found:
            raise InsideError(f"{text!r} is nothing to patch; write h.0.mlp.out[:, 3]")
        self.name, self.letters = found[1], axes(found[1], config)
        bound = recipes(config).get(self.name)
        if bound is None or bound.virtual is not None:
            raise InsideError(
                f"{self.name} cannot be patched: only what a tap sees can, and "
                f"{self.name} is computed from that"
                if bound is not None
                else f"{self.name} cannot be patched: it is no intermediate"
            )
        self.index = self._parsed(found[2] or "")

    def _parsed(self, text: str) -> dict[str, int | slice]:
        index: dict[str, int | slice] = {}
        parts = [part.strip() for part in text.split(",") if part.strip()]
        for place, part in enumerate(parts):
            letter, sign, number = part.rpartition("=")
            if not sign and place >= len(self.letters):
                raise InsideError(
                    f"{self.text}: {self.name} has {len(self.letters)} axes"
                )
            letter = letter.strip() if sign else self.letters[place]
            if letter not in self.letters:
                raise InsideError(
                    f"{self.text}: {self.name} has axes {', '.join(self.letters)}"
                )
            numbers = [x.strip() for x in number.split(":")]
            if len(numbers) > 2 or not all(re.fullmatch(r"-?\d*", x) for x in numbers):
                raise InsideError(
                    f"{self.text}: {part!r} is not an index, such as 2 or :3"
                )
            ends = [int(x) if x else None for x in numbers]
            index[letter] = slice(*ends) if len(ends) == 2 else int(number)
        return index

    def __call__(self, array: Array, one: Pass) -> Array:
        """The array with the value where the index says, if this reading has that."""
        places = [self.index.get(letter, slice(None)) for letter in self.letters]
        rows = range(array.shape[0])
        chosen = places[0] if isinstance(places[0], slice) else slice(places[0], None)
        wanted = (
            rows[chosen] if isinstance(places[0], slice) else [places[0] % len(rows)]
        )
        changed = None
        for row in wanted:
            at = [row, *places[1:]]
            if "t" in self.letters:
                slots = self._tokens(one, min(row, len(one.start) - 1))
                if not len(slots):
                    continue
                at[self.letters.index("t")] = slice(slots[0], slots[-1] + 1)
            changed = self._put(
                array if changed is None else changed, tuple(at), changed
            )
        return array if changed is None else changed

    def of_rows(self, array: Array, places: Sequence[Any]) -> Array:
        """The same for logits, whose rows are tokens of any reading."""
        changed = None
        for n, place in enumerate(places):
            if place is None:
                continue
            one, row, slot = place
            if not _within(self.index.get("b"), row, len(one.ids)):
                continue
            if not _within(self.index.get("t"), slot, one.S):
                continue
            at = (
                *np.unravel_index(n, array.shape[:-1]),
                self.index.get("v", slice(None)),
            )
            changed = self._put(array if changed is None else changed, at, changed)
        return array if changed is None else changed

    def _tokens(self, one: Pass, row: int) -> list[int]:
        """Places of the reading's own tokens that the index means."""
        wanted, start = self.index.get("t"), one.start[row]
        every = range(start, start + one.T)
        return [slot - start for slot in every if _within(wanted, slot, start + one.T)]

    def _put(self, array: Array, at: tuple[Any, ...], changed: Any) -> Array:
        if changed is None:
            array = array.copy() if hasattr(array, "copy") else array + 0
        value = self.value(array[at]) if callable(self.value) else self.value
        try:
            array[at] = value
        except (ValueError, TypeError, IndexError) as error:
            raise InsideError(
                f"{self.text}: cannot put {shown(value)} there ({error})"
            ) from None
        self.fired = True
        return array


def _within(wanted: int | slice | None, i: int, n: int) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, slice):
        return i in range(*wanted.indices(n))
    return i == (wanted if wanted >= 0 else wanted + n)
