"""Addresses: the name of one number, h.2.attn.scores[h=1,t=5,s=3].

A tap, a virtual tap or a parameter, and an index by axis letter or by position. t and s
count the tokens of a text, whichever reading read them; a batch axis may be left out
where there is one row, and `step` says which reading is meant where several read it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from npgpt.config import GPT2Config
from npgpt.errors import InsideError
from npgpt.inside.derivatives import every
from npgpt.inside.given import GIVEN, PARAMETERS

LETTERS = {  # what an axis is, for sentences
    "b": "row", "t": "token", "s": "token", "h": "head", "d": "number of a head",
    "c": "feature", "e": "feature", "m": "neuron", "j": "number of q, k and v",
    "v": "token id", "p": "place", "u": "token",
}  # fmt: skip


class Address(NamedTuple):
    """A name, the index as it was written, and the reading if it was said."""

    name: str
    letters: tuple[str, ...]
    at: Mapping[str, int]
    step: int | None = None


def parse_address(text: str, config: GPT2Config) -> Address:
    """The address that a text names, its axes still possibly left out.

    >>> parse_address("logits[t=2,v=7]", GPT2Config()).at
    {'t': 2, 'v': 7}
    """
    found = re.fullmatch(r"\s*([\w.]+)\s*(?:\[([^\[\]]*)\])?\s*", text)
    if not found:
        raise InsideError(
            f"{text!r} is no address; write a name and an index, such as "
            "h.0.attn.weights[h=0,t=2,s=1]"
        )
    name = found[1]
    letters = axes(name, config)
    parts = [part.strip() for part in (found[2] or "").split(",") if part.strip()]
    named = {}
    for part in parts:
        letter, sign, number = part.rpartition("=")
        if not re.fullmatch(r"-?\d+", number.strip()):
            raise InsideError(f"{text}: {part!r} is not an index, such as t=5 or 5")
        if sign:
            named[letter.strip()] = int(number)
    plain = [int(part) for part in parts if "=" not in part]
    step = named.pop("step", None)
    for letter in named:
        if letter not in letters:
            raise InsideError(
                f"{text}: {name} has axes {', '.join(letters)}, no {letter}"
            )
    open_axes = [letter for letter in letters if letter not in named]
    if len(plain) == len(open_axes) - 1 and open_axes[0] == "b":
        open_axes = open_axes[1:]  # a batch axis may be left out
    if len(plain) > len(open_axes):
        raise InsideError(
            f"{text}: {len(parts)} indices, and {name} has axes {', '.join(letters)}"
        )
    index = {**dict(zip(open_axes, plain, strict=False)), **named}
    return Address(name, letters, index, step)


def axes(name: str, config: GPT2Config) -> tuple[str, ...]:
    """The axis letters of a tap or a parameter; InsideError for any other name."""
    bound = every(config).get(name)
    if bound is not None:
        return bound.letters
    layer = re.match(r"h\.(\d+)\.", name)
    pattern = re.sub(r"^h\.\d+\.", "h.{i}.", name)
    if pattern in PARAMETERS and not (layer and int(layer[1]) >= config.n_layer):
        return tuple(PARAMETERS[pattern].split())
    if name in GIVEN:
        return tuple(GIVEN[name].split())
    if layer and int(layer[1]) >= config.n_layer:
        raise InsideError(f"{name}: this model has layers 0 to {config.n_layer - 1}")
    known = [*every(config), *PARAMETERS, *GIVEN]
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"near it are {', '.join(near)}; " if near else ""
    raise InsideError(f"there is no {name}; {hint}`npgpt shapes` lists all names")


def filled(address: Address, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The whole index, every axis of it checked; a single row may be left out."""
    index = dict(address.at)
    if "b" in address.letters and sizes["b"] == 1:
        index.setdefault("b", 0)
    missing = [letter for letter in address.letters if letter not in index]
    if missing:
        what = ", ".join(f"{m} ({LETTERS[m]}, 0 to {sizes[m] - 1})" for m in missing)
        raise InsideError(f"{address.name}: the address also needs {what}")
    for letter in address.letters:
        i, n = index[letter], sizes[letter]
        if not -n <= i < n:
            raise InsideError(
                f"{address.name}: {LETTERS[letter]} {letter}={i} is not there; "
                f"{letter} is 0 to {n - 1}"
            )
        index[letter] = i % n
    return tuple(index[letter] for letter in address.letters)


def write_address(
    name: str,
    letters: Sequence[str],
    index: Sequence[int],
    *,
    batch: bool = False,
    step: int | None = None,
) -> str:
    """The address of a number; a row and a step only where they are needed.

    >>> write_address("logits", ("b", "t", "v"), (0, 2, 7))
    'logits[t=2,v=7]'
    """
    parts = [] if step is None else [f"step={step}"]
    parts += [
        f"{letter}={i}"
        for letter, i in zip(letters, index, strict=True)
        if batch or letter != "b"
    ]
    return f"{name}[{','.join(parts)}]"
