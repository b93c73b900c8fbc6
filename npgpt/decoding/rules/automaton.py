"""A regular expression as an automaton over bytes.

Parsing is Python's own (`re._parser` gives the syntax tree), so a pattern means here
what it means to `re.fullmatch` on text. The tree becomes a nondeterministic automaton
over UTF-8 bytes (Thompson 1968), whose subsets are the states used while decoding
(Rabin and Scott 1959). A match is of the whole text, so anchors at its ends say
nothing. Not here: look-around, backreferences, anchors inside a pattern, \\b, and flags
that change letter case.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from re import _constants as op  # type: ignore[attr-defined]  # not in typeshed
from re import _parser  # type: ignore[attr-defined]  # not in typeshed
from typing import Any

from npgpt.errors import DecodingError

Ranges = list[tuple[int, int]]  # code points, both ends included
TOP = sys.maxunicode
# code points of one length in UTF-8, which has no form for what lies between
LENGTHS = ((0, 127), (128, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, TOP))
_BEGINNING = [(op.AT, op.AT_BEGINNING), (op.AT, op.AT_BEGINNING_STRING)]
_END = [(op.AT, op.AT_END), (op.AT, op.AT_END_STRING)]
_CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d", op.CATEGORY_SPACE: r"\s", op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


class Automaton:
    """States with byte edges. A set of states is where a text stands.

    Before a match comes the text `before`.

    >>> a = Automaton("ab|ac")
    >>> states = a.step(a.start, b"a")
    >>> a.accepts(states), a.accepts(a.step(states, b"c")), a.step(states, b"x")
    (False, True, frozenset())
    """

    def __init__(self, pattern: str, before: str = ""):
        try:
            tree = _parser.parse(pattern)
        except re.error as error:
            raise DecodingError(f"regex {pattern!r}: {error}") from None
        if tree.state.flags & (re.IGNORECASE | re.MULTILINE | re.VERBOSE):
            raise DecodingError(f"regex {pattern!r}: flags are not supported")
        self.pattern = pattern
        self.dot = [(0, TOP)] if tree.state.flags & re.DOTALL else _invert([(10, 10)])
        self.empty: list[list[int]] = []  # state -> states reached for nothing
        self.edges: list[list[tuple[int, int, int]]] = []  # (low, high, target)
        first = at = self._state()
        for byte in before.encode():
            self.edges[at].append((byte, byte, at := self._state()))
        self.end = self._sequence(at, list(tree), True, True)
        self.live = self._coaccessible()
        self._moves: dict[tuple[frozenset[int], int], frozenset[int]] = {}
        self.start = self._closed([first])

    def step(self, states: frozenset[int], text: bytes) -> frozenset[int]:
        """Where these bytes lead; empty if they cannot lead to a match any more."""
        for byte in text:
            if not states:
                return states
            key = (states, byte)
            if key not in self._moves:
                self._moves[key] = self._closed(
                    target
                    for state in states
                    for low, high, target in self.edges[state]
                    if low <= byte <= high
                )
            states = self._moves[key]
        return states

    def accepts(self, states: frozenset[int]) -> bool:
        """Whether the text so far is a match."""
        return self.end in states

    def _closed(self, states: Iterable[int]) -> frozenset[int]:
        todo, seen = list(states), set()
        while todo:
            state = todo.pop()
            if state not in seen and state in self.live:
                seen.add(state)
                todo += self.empty[state]
        return frozenset(seen)

    def _coaccessible(self) -> set[int]:
        """States from which the end can be reached."""
        before: list[list[int]] = [[] for _ in self.empty]
        for state in range(len(self.empty)):
            for target in (*self.empty[state], *(e[2] for e in self.edges[state])):
                before[target].append(state)
        todo, live = [self.end], set()
        while todo:
            state = todo.pop()
            if state not in live:
                live.add(state)
                todo += before[state]
        return live

    def _state(self) -> int:
        self.empty.append([])
        self.edges.append([])
        if len(self.empty) > 200_000:
            raise DecodingError(f"regex {self.pattern!r} is too large")
        return len(self.empty) - 1

    def _sequence(
        self, state: int, tree: Any, first: bool = False, last: bool = False
    ) -> int:
        """Add nodes; whether they stand at the beginning, or the end, of the text."""
        nodes = list(tree)
        while first and nodes and nodes[0] in _BEGINNING:
            del nodes[0]
        while last and nodes and nodes[-1] in _END:
            del nodes[-1]
        for i, (kind, value) in enumerate(nodes):
            at_end = last and i == len(nodes) - 1
            state = self._node(state, kind, value, first and not i, at_end)
        return state

    def _node(self, state: int, kind: Any, value: Any, first: bool, last: bool) -> int:
        """Add one node of the syntax tree after a state; the state behind it."""
        if kind is op.ANY:
            return self._characters(state, self.dot)
        if kind in _RANGES:
            return self._characters(state, _RANGES[kind](value))
        if kind is op.SUBPATTERN:
            if value[1] or value[2]:
                raise DecodingError(f"regex {self.pattern!r}: flags are not supported")
            return self._sequence(state, value[3], first, last)
        if kind is op.BRANCH:
            end = self._state()
            for branch in value[1]:
                self.empty[self._sequence(state, branch, first, last)].append(end)
            return end
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):  # greedy or not: the same texts
            return self._repeat(state, *value)
        raise DecodingError(
            f"regex {self.pattern!r}: {str(kind).lower()} cannot constrain a text"
        )

    def _repeat(self, state: int, least: int, most: Any, body: Any) -> int:
        for _ in range(least):
            state = self._sequence(state, body)
        if most is op.MAXREPEAT:
            loop, end = self._state(), self._state()
            self.empty[state] += [loop]
            self.empty[self._sequence(loop, body)].append(loop)
            self.empty[loop].append(end)
            return end
        end = self._state()
        for _ in range(most - least):
            self.empty[state].append(end)
            state = self._sequence(state, body)
        self.empty[state].append(end)
        return end

    def _characters(self, state: int, ranges: Ranges) -> int:
        end = self._state()
        for sequence in utf8_ranges(ranges):
            at = state
            for i, (low, high) in enumerate(sequence):
                target = end if i == len(sequence) - 1 else self._state()
                self.edges[at].append((low, high, target))
                at = target
        return end


@cache
def _category(escape: str) -> tuple[tuple[int, int], ...]:
    """The ranges of \\d, \\s, \\w as Python's re sees them in Unicode."""
    match = re.compile(escape).match
    ranges: list[list[int]] = []
    for code in range(TOP + 1):
        if match(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return tuple((low, high) for low, high in ranges)


def _class(items: Any) -> Ranges:
    negate = items[0][0] is op.NEGATE
    ranges = [r for kind, value in items[negate:] for r in _RANGES[kind](value)]
    return _invert(ranges) if negate else ranges


_RANGES: dict[Any, Callable[[Any], Ranges]] = {  # of each kind of node
    op.LITERAL: lambda code: [(code, code)],
    op.NOT_LITERAL: lambda code: _invert([(code, code)]),
    op.RANGE: lambda pair: [pair],
    op.CATEGORY: lambda name: list(_category(_CATEGORIES[name])),
    op.IN: _class,
}


def _invert(ranges: Ranges) -> Ranges:
    gaps, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return [*gaps, (start, TOP)] if start <= TOP else gaps


def utf8_ranges(ranges: Iterable[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Byte ranges whose products are the UTF-8 forms of these code points.

    >>> utf8_ranges([(0x61, 0x7A), (0xE9, 0xE9)])
    [[(97, 122)], [(195, 195), (169, 169)]]
    """
    return [
        sequence
        for low, high in ranges
        for start, end in LENGTHS
        if max(low, start) <= min(high, end)
        for sequence in _split(
            chr(max(low, start)).encode(), chr(min(high, end)).encode()
        )
    ]


def _split(low: bytes, high: bytes) -> list[list[tuple[int, int]]]:
    """Products of ranges for all byte texts of one length from low to high."""
    if len(low) == 1:
        return [[(low[0], high[0])]]
    smallest, largest = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    if low[0] == high[0]:
        return [[(low[0], low[0]), *rest] for rest in _split(low[1:], high[1:])]
    result = []
    first, last = low[0], high[0]
    if low[1:] != smallest:
        result += [[(first, first), *rest] for rest in _split(low[1:], largest)]
        first += 1
    tail = []
    if high[1:] != largest:
        tail = [[(last, last), *rest] for rest in _split(smallest, high[1:])]
        last -= 1
    if first <= last:
        result.append([(first, last), *[(0x80, 0xBF)] * (len(low) - 1)])
    return result + tail
