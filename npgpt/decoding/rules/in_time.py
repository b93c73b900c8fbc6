"""Sentences of a grammar that end in time: the fewest tokens to an end, by search.

The library tells what may follow a text, and nothing of how far its end is. So texts
are tried byte by byte, those of the fewest tokens first, and whatever is found the
library has to accept: a token is kept only where an end is known. Of texts that allow
the same next tokens few are gone on with: the search may pass an end over, and then
removes a token, or refuses a number of tokens, with which there was a way.
"""

from __future__ import annotations

import functools
import heapq
from typing import Any, Protocol

import numpy as np

from npgpt.decoding.rules.base import Ids
from npgpt.errors import DecodingError
from npgpt.shapes import Bool

MOST_TEXTS = 2000  # that one search looks at
KEPT = 32  # endings that are remembered of a text
TEXTS = 256  # whose endings are remembered
WIDE = 8  # so many bytes that lead to the same may stand for each other
FEW_TEXTS, SEARCHES = 60, 8  # for one step: in a search, and so many searches
STILL = (b" ", b"\n")  # bytes that are no progress
RUN, DETOUR = 4, 200  # what a byte of a run costs, an escape where letters would do
RIVALS = 4  # texts that may be as far as another for no more, and it is still tried
LONGEST = 32  # bytes of a token that the search looks for
Ending = tuple[int, ...]  # the tokens from a text to the end of a sentence
# the fewest tokens that are a text; tokens it may end inside, and what is before each
Spelt = tuple[float, tuple[tuple[bytes, float], ...]]
START: Spelt = (0.0, ())


class Parsed(Protocol):
    """What the search asks of a grammar's mask."""

    V: int
    tokens: list[bytes]

    def matcher(self, generated: Ids) -> Any:
        """A matcher that has read these tokens."""

    def mark(self, matcher: Any) -> bytes:
        """What may follow; texts of the same mark are taken to be alike."""

    def bits(self, matcher: Any) -> Bool[np.ndarray, " N"]:
        """True where a token, the end or a byte may follow."""


class Endings:
    """How the texts of a grammar can end within a number of tokens.

    What is known of a text follows from the text alone: the endings known of the text
    before its last token, and those that its own searches find.
    """

    def __init__(self, grammar: Parsed):
        self.grammar = grammar
        self.ids: dict[bytes, int] = {}
        self.reach: dict[bytes, int] = {b"": 0}  # of a prefix: its longest token
        for id, token in enumerate(grammar.tokens[: grammar.V]):
            if 0 < len(token) <= LONGEST:
                self.ids.setdefault(token, id)
                for n in range(1, len(token) + 1):
                    longest = self.reach.get(token[:n], 0)
                    self.reach[token[:n]] = max(longest, len(token))
        self.byte_ids = grammar.V + 1 + np.arange(len(grammar.tokens) - grammar.V - 1)
        known = range(grammar.V)
        self.special = np.array([i for i in known if not grammar.tokens[i]], int)
        self._known: dict[tuple[Ending, float], tuple[list[int], list[Ending]]] = {}

    @functools.cached_property
    def shortest(self) -> Ending | None:
        """A whole sentence of the fewest tokens that are found."""
        return self.search(self.grammar.matcher(()), np.inf)

    def check(self, option: str, most: float) -> None:
        """Raise DecodingError unless a sentence of at most so many tokens is found."""
        if self.find((), most) is None:
            found = self.shortest
            least = f"; the shortest found has {len(found)}" if found else ""
            raise DecodingError(
                f"finish_in_time: no text of this {option} is found that has at most "
                f"{most:.0f} tokens (max_new_tokens){least}"
            )

    def find(self, generated: Ids, most: float) -> Ending | None:
        """An ending of this text of at most so many tokens, if one is found."""
        if not generated and self.shortest is not None and len(self.shortest) <= most:
            return self.shortest
        matcher = self.grammar.matcher(generated)
        found = self.search(matcher, most)
        return self.search(matcher, most, rivals=30) if found is None else found

    def allowed(self, generated: Ids, left: float) -> list[int]:
        """The tokens after which an end is known, with so many left, them included."""
        text, n = tuple(generated), len(generated)
        while n and (text[:n], left + len(text) - n) not in self._known:
            n -= 1
        for m in range(n, len(text) + 1):
            key = (text[:m], left + len(text) - m)
            if key not in self._known:
                before = self._known.get((text[: m - 1], key[1] + 1)) if m else None
                found = self._read(key[0], key[1], before[1] if before else [])
                if len(self._known) >= TEXTS:
                    del self._known[next(iter(self._known))]
                self._known[key] = found
        return self._known[text, left][0]

    def _read(
        self, text: Ending, left: float, before: list[Ending]
    ) -> tuple[list[int], list[Ending]]:
        """The tokens after which this text can end, and the endings that show it."""
        matcher, end = self.grammar.matcher(text), self.grammar.V
        if matcher.is_stopped() or left < 1:
            return [], []

        def fits(ending: Ending) -> bool:
            whole = [*ending, end]
            return matcher.validate_tokens(whole) == len(whole)

        if not any(len(w) <= left and fits(w) for w in before):
            found = self.find(text, left)
            before = [*([] if found is None else [found]), *before]
        own = [w[1:] for w in before if w and len(w) <= left and fits(w)]
        endings = [*dict.fromkeys([*own, *before, ()])]
        todo = {*np.flatnonzero(self.grammar.bits(matcher)[:end]).tolist()}
        good: list[int] = []
        useful: list[Ending] = []

        def settle(ending: Ending) -> None:
            kept = [id for id in todo if fits((id, *ending))]
            if kept:
                useful.append(ending)
                good.extend(kept)
                todo.difference_update(kept)

        for ending in endings:
            if todo and len(ending) < left:
                settle(ending)
        # a token may be the beginning of what is known to lead to an end
        known = next((w for w in before if len(w) <= left and fits(w)), ())
        pieces = [self.grammar.tokens[id] for id in known]
        for id in sorted(todo) if all(pieces) else ():
            token, way = self.grammar.tokens[id], b"".join(pieces)
            if id in todo and token and way.startswith(token):
                rest = self.spell(way[len(token) :])
                if len(rest) < left:
                    settle(rest)
        alike: dict[bytes, list[int]] = {}
        for id in sorted(todo):
            after = _after(matcher, id)
            alike.setdefault(self.grammar.mark(after), []).append(id)
        left_over = SEARCHES
        for ids in sorted(alike.values(), key=lambda ids: (-len(ids), ids)):
            # of tokens that allow the same, the longest are the nearest to an end
            ids.sort(key=lambda id: (-len(self.grammar.tokens[id]), id))
            for id in ids:
                if id in todo and left_over:
                    left_over -= 1
                    found = self.search(_after(matcher, id), left - 1, FEW_TEXTS)
                    if found is None:
                        break
                    settle(found)
        return good, [*dict.fromkeys([*own[:1], *useful, *endings])][:KEPT]

    def search(
        self, matcher: Any, most: float, texts: int = MOST_TEXTS, rivals: int = RIVALS
    ) -> Ending | None:
        """The fewest tokens to an end that are found, if at most so many.

        A text costs its tokens; those that go on and on in the same way come later.
        Of two that allow the same, after as many changes of what is allowed, the
        cheaper one is gone on with.
        """
        if matcher.is_accepting() and most >= 0:
            return ()
        if most < 1:
            return None
        # cost, -changes, order; special tokens, bytes behind them, their costs; bytes
        # since the last change, detours, matcher, mark
        start = (0, 0, 0, (), b"", START, 0, 0, matcher, self.grammar.mark(matcher))
        todo: list[tuple[Any, ...]] = [start]
        prices: dict[Any, list[float]] = {}
        order = 0
        for _ in range(texts):
            if not todo:
                return None
            _, gone, _, before, text, costs, same, detours, at, was = heapq.heappop(
                todo
            )
            if at is None:
                return (*before, *self.spell(text))
            for price, detour, path, longer, now, after, mark in self._steps(
                at, before, text, costs, most
            ):
                order += 2
                whole, still = len(path) + now[0], longer[-1:] in STILL
                if after.is_accepting() and whole <= most:
                    node = (whole, 0, order, path, longer, now, 0, 0, None, mark)
                    heapq.heappush(todo, node)
                run = same + 1 if mark == was else 0
                away = detours + detour
                far = gone - (mark != was and not still)
                seen = prices.setdefault((mark, far, run, away), [])
                if sum(cost <= price for cost in seen) < rivals:
                    seen.append(price)
                    rest = (path, longer, now, run, away, after, mark)
                    cost = price + RUN * run + DETOUR * away
                    heapq.heappush(todo, (cost, far, order + 1, *rest))
        return None

    def _steps(
        self,
        at: Any,
        before: Ending,
        text: bytes,
        costs: Spelt,
        most: float,
    ) -> list[tuple[Any, ...]]:
        """The ways on from a text by a byte or a special token, some for all alike."""
        grammar, wide = self.grammar, dict[bytes, list[Any]]()
        steps: list[tuple[Any, ...]] = []
        bits = grammar.bits(at)
        for id in self.special[bits[self.special]].tolist():
            if len(before) + costs[0] < most:
                path, after = (*before, *self.spell(text), id), _after(at, id)
                mark = grammar.mark(after)
                steps.append((len(path), 0, path, b"", START, after, mark))
        for id in self.byte_ids[bits[self.byte_ids]].tolist():
            longer = text + grammar.tokens[id]
            price, now, reach = self._price(grammar.tokens[id], costs)
            if (price := price + len(before)) <= min(most, 1e9):
                after = _after(at, id)
                mark = grammar.mark(after)
                step = (price, -reach, before, longer, now, after, mark)
                wide.setdefault(mark, []).append(step)
        free = any(len(group) >= WIDE for group in wide.values())
        for group in wide.values():
            group.sort(key=lambda step: step[:2])
            some = group
            if len(group) >= WIDE:  # large digits make a least number, too
                highest = max(group, key=lambda step: (-step[0], step[3]))
                some = [highest, group[0]][: 1 + (highest is not group[0])]
            for price, _, path, longer, *rest in some:
                last = longer[-1:]
                detour = free and (last == b"\\" or last >= b"\xc0")
                steps.append((price, detour, path, longer, *rest))
        return steps

    def _price(self, byte: bytes, spelt: Spelt) -> tuple[float, Spelt, int]:
        """With one byte more: the fewest tokens that begin with the text, its state,
        and how much longer the token may be that it ends in.
        """
        whole, inside = spelt
        begun = [(piece + byte, cost) for piece, cost in (*inside, (b"", whole))]
        begun = [(piece, cost) for piece, cost in begun if piece in self.reach]
        least = min((cost for _, cost in begun), default=np.inf)
        whole = min((c for piece, c in begun if piece in self.ids), default=np.inf) + 1
        ways = [self.reach[p] - len(p) for p, cost in begun if cost == least]
        return least + 1, (whole, tuple(begun)), max(ways, default=0)

    def spell(self, text: bytes) -> Ending:
        """The fewest tokens that are this text."""
        ways: list[Ending | None] = [()]
        for n in range(1, len(text) + 1):
            found = [
                (*way, self.ids[text[i:n]])
                for i, way in enumerate(ways)
                if way is not None and text[i:n] in self.ids
            ]
            ways.append(min(found, key=len, default=None))
        return ways[-1] or ()


def _after(matcher: Any, id: int) -> Any:
    """A matcher that has read one token more."""
    after = matcher.deep_copy()
    after.consume_token(id)
    return after
