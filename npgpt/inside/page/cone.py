"""The cone of one number: what it is made of, and what that is made of, and so on.

Of a large model a page cannot hold everything. From the number down it takes the chain
of the largest terms as far as it goes, to a token or a place, then, breadth first, the
largest terms of what it has, until it is full.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import numpy as np

from npgpt.inside.formula import Index, Operand, operands, terms
from npgpt.inside.page.pack import Pack, array
from npgpt.inside.recipes import recipes
from npgpt.inside.trace import Trace
from npgpt.inside.why import View

NAMED = 8  # terms of a number that are shown by name, and can be followed
FULL = 3 << 20  # bytes
MOST = 160  # numbers that can be opened: each of them takes milliseconds to look at

Cell = tuple[str, Index]


class Quick(View):
    """The one reading of a trace, its arrays at hand."""

    def __init__(self, trace: Trace, name: str, arrays: dict[str, np.ndarray]):
        super().__init__(trace, trace.passes[0], name)
        self.arrays = arrays

    def read(self, name: str, index: Index) -> float:
        """A number of an array."""
        if name == "sees":
            return float(index[2] <= index[1])
        if name not in self.arrays:
            self.arrays[name] = array(self.numbers, name)
        found = self.arrays[name]
        return float(found[index[-found.ndim :]])


def cone(trace: Trace, name: str, index: Index) -> Pack:
    """The pack of a number's cone, and the logits of the last token."""
    pack = Pack()
    arrays: dict[str, np.ndarray] = {}
    seen: dict[Cell, list[Cell]] = {}

    def visit(cell: Cell) -> list[Cell]:
        if cell not in seen:
            seen[cell] = _opened(trace, cell, pack, arrays)
        return seen[cell]

    last = len(trace.passes[0].ids[0]) - 1
    pack.add(trace, "logits", 1, [last])
    _take(trace, pack, [(name, index)])
    below = [(name, index)]
    while below:  # the chain
        below = visit(below[0])[:1]
    queue = deque([(name, index)])
    queued = set(queue)
    while queue and pack.nbytes < FULL and len(seen) < MOST:
        for cell in visit(queue.popleft()):
            if cell not in queued:
                queued.add(cell)
                queue.append(cell)
    return pack


def _opened(
    trace: Trace, cell: Cell, pack: Pack, arrays: dict[str, np.ndarray]
) -> list[Cell]:
    """Take what a number is made of; the numbers to go on with, the largest first."""
    name, index = cell
    bound = recipes(trace.config).get(name)
    if bound is None:
        return []
    letters = dict(zip(bound.letters, index, strict=True))
    here = Quick(trace, name, arrays)
    every = operands(bound.node, letters, here)
    _take(trace, pack, [(one.name, one.at) for one in every])
    added = sorted(terms(bound.node, letters, here), key=lambda one: -abs(one.value))
    found: list[Operand] = []
    for term in added[:NAMED]:
        found += sorted(term.operands, key=partial(_rank, term.value))[:NAMED]
    return [(one.name, one.at) for one in found if one.name in recipes(trace.config)]


def _rank(value: float, one: Operand) -> tuple[bool, bool, float]:
    """What comes first: of a maximum the number that it is; what is masked last."""
    return one.value != value, not np.isfinite(one.value), -abs(one.value)


def _take(trace: Trace, pack: Pack, cells: list[Cell]) -> None:
    """The lines that these numbers stand on, along the axis in which they differ."""
    by_name: dict[str, list[Any]] = {}
    for name, index in cells:
        by_name.setdefault(name, []).append(index)
    for name, found in by_name.items():
        if name in ("token", "position", "sees"):
            continue
        if name == "lm_head.weight" and trace.config.tie_word_embeddings:
            pack.same[name] = name = "wte.weight"
        shape = array(trace, name).shape if name not in pack.arrays else None
        shape = pack.arrays[name].shape if shape is None else shape
        at = np.array(found)[:, -len(shape) :]
        lines = pack.lines.get(name)
        varies = np.flatnonzero((at != at[0]).any(0))
        axis = int(varies[-1]) if len(varies) else len(shape) - 1
        axis = axis if lines is None else lines.axis
        others = [i for i in range(len(shape)) if i != axis]
        rows = np.zeros(len(at), int)
        for i in others:
            rows = rows * shape[i] + at[:, i]
        pack.add(trace, name, axis, rows.tolist())
