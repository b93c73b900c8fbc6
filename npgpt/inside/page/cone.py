"""The cone of one number: what it is made of, and what that is made of, and so on.

Of a large model a page cannot hold everything. From the number down it takes the chain
of the largest terms as far as it goes, to a token or a place, then, breadth first, the
largest terms of what it has, until it is full.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np

from npgpt.inside.formula import Index, Operand, operands, terms
from npgpt.inside.given import GIVEN
from npgpt.inside.page.pack import Pack
from npgpt.inside.recipes import recipes
from npgpt.inside.trace import Trace
from npgpt.inside.why import View

NAMED = 8  # terms of a number that are shown by name, and can be followed
FULL = 1 << 20  # numbers of the page
MOST = 60_000  # terms to look at, which takes seconds

Cell = tuple[str, Index]


class Quick(View):
    """The one reading of a trace, its arrays at hand."""

    def __init__(self, pack: Pack, name: str):
        super().__init__(pack.trace, pack.trace.passes[0], name)
        self.pack = pack

    def read(self, name: str, index: Index) -> float:
        """A number of an array."""
        if name == "sees":
            return float(index[2] <= index[1])
        found = self.pack.array(name)
        return float(found[index[-found.ndim :]])


def cone(trace: Trace, name: str, index: Index) -> Pack:
    """The pack of a number's cone, and the logits of the last token."""
    pack = Pack(trace)
    seen: dict[Cell, list[Cell]] = {}
    looked = 0

    def visit(cell: Cell) -> list[Cell]:
        nonlocal looked
        if cell not in seen:
            n, seen[cell] = _opened(pack, cell)
            looked += n
        return seen[cell]

    pack.add("logits", 1, [len(trace.passes[0].ids[0]) - 1])
    _take(pack, [(name, index)])
    below = [(name, index)]
    while below:  # the chain
        below = visit(below[0])[:1]
    queue = deque([(name, index)])
    queued = set(queue)
    while queue and pack.count < FULL and looked < MOST:
        for cell in visit(queue.popleft()):
            if cell not in queued:
                queued.add(cell)
                queue.append(cell)
    return pack


def _opened(pack: Pack, cell: Cell) -> tuple[int, list[Cell]]:
    """Take what a number is made of: how many terms, and the numbers to go on with, the
    largest first.
    """
    name, index = cell
    known = recipes(pack.trace.config)
    if name not in known:
        return 0, []
    node = known[name].node
    letters = dict(zip(known[name].letters, index, strict=True))
    here = Quick(pack, name)
    added = sorted(terms(node, letters, here), key=lambda one: -abs(one.value))
    every = [(one.name, one.at) for term in added for one in term.operands]
    others = operands(node, letters, here) if len(added) == 1 else []  # such as `sees`
    _take(pack, [*every, *((one.name, one.at) for one in others)])
    found: list[Operand] = []
    for term in added[:NAMED]:
        found += sorted(term.operands, key=partial(_rank, term.value))[:NAMED]
    below = [(one.name, one.at) for one in found if one.name in known]
    return len(added), below


def _rank(value: float, one: Operand) -> tuple[bool, bool, float]:
    """What comes first: of a maximum the number that it is; what is masked last."""
    return one.value != value, not np.isfinite(one.value), -abs(one.value)


def _take(pack: Pack, cells: list[Cell]) -> None:
    """The lines that these numbers stand on, along the axis in which they differ."""
    by_name: dict[str, list[Index]] = {}
    for name, index in cells:
        by_name.setdefault(name, []).append(index)
    for name, found in by_name.items():
        if name in GIVEN or found[0] == ():  # () is of a constant
            continue
        if name == "lm_head.weight" and pack.trace.config.tie_word_embeddings:
            pack.same[name] = name = "wte.weight"
        shape, lines = pack.array(name).shape, pack.lines.get(name)
        at = np.array(found)[:, -len(shape) :]
        varies = np.flatnonzero((at != at[0]).any(0))
        axis = int(varies[-1]) if len(varies) else len(shape) - 1
        axis = axis if lines is None else lines.axis
        rows = np.zeros(len(at), int)
        for i in range(len(shape)):
            if i != axis:
                rows = rows * shape[i] + at[:, i]
        pack.add(name, axis, rows.tolist())
