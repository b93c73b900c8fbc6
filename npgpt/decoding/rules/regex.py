"""Regex-constrained decoding: which tokens keep the text on the way to a match.

The automaton reads bytes, since a token may be part of a character. Where the text
stands is a function of the new tokens; results are remembered, nothing else is. JSON
schemas and grammars are in npgpt.decoding.rules.grammar.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.automaton import Automaton
from npgpt.decoding.rules.base import Context, Ids, keep
from npgpt.decoding.vocabulary import all_bytes, padded, whole
from npgpt.errors import DecodingError
from npgpt.interface import Tokens
from npgpt.shapes import Bool, Logits

States = frozenset[int]  # of the automaton


class RegexMask:
    """The tokens that a regular expression allows after each text.

    tokens: the bytes of each id, b"" for one that may not occur. eos: ids that may
    occur where the text matches. Vocabularies share beginnings, so tokens are walked
    through the automaton as a tree: each common beginning once.
    """

    def __init__(self, pattern: str, tokens: Sequence[bytes], eos: Ids):
        self.automaton = Automaton(pattern)
        self._behind: dict[bytes, RegexMask] = {}
        self.tokens = tokens
        self.eos = list(eos)
        self.tree: dict[int | None, Any] = {}  # byte: a tree; None: the ids here
        for id, token in enumerate(tokens):
            if token and id not in self.eos:
                node = self.tree
                for byte in token:
                    node = node.setdefault(byte, {})
                node.setdefault(None, []).append(id)
        self._next: dict[States, dict[int, States]] = {}
        if not self.automaton.start:
            raise DecodingError(f"regex {pattern!r} matches no text at all")

    def behind(self, prefix: bytes) -> RegexMask:
        """The mask of texts that have these bytes before the match (token healing)."""
        if not prefix:
            return self
        if prefix not in self._behind:
            self._behind[prefix] = mask = copy.copy(self)
            mask.automaton = Automaton(self.automaton.pattern, whole(prefix))
            mask._next = {}
            mask.__dict__.pop("_distances", None)
        return self._behind[prefix]

    def state(self, generated: Ids) -> States:
        """Where the new tokens lead; an end of text leads nowhere further."""
        states = self.automaton.start
        for id in generated:
            if id not in self.eos:
                states = self.automaton.step(states, self.tokens[id])
        return states

    def ended(self, generated: Ids) -> bool:
        """Whether the new tokens match, and nothing can follow."""
        states = self.state(generated)
        return self.automaton.accepts(states) and not self.next(states)

    def next(self, states: States) -> dict[int, States]:
        """Every token that keeps a match possible, and where it leads."""
        if states not in self._next:
            found: dict[int, States] = {}
            todo = [(self.tree, states)]
            while todo:
                node, at = todo.pop()
                for byte, child in node.items():
                    if byte is None:
                        found.update(dict.fromkeys(child, at))
                    elif after := self.automaton.step(at, bytes([byte])):
                        todo.append((child, after))
            self._next[states] = found
        return self._next[states]

    def mask(
        self, states: States, tokens_left: float = np.inf
    ) -> Bool[np.ndarray, " V"]:
        """(V,) True where a token is allowed, with so many left (itself included)."""
        reached, allowed = self.next(states), np.zeros(len(self.tokens), bool)
        ids = list(reached)
        if tokens_left < np.inf:
            most = tokens_left - 1
            ids = [id for id in ids if self.distance(reached[id]) <= most]
        allowed[ids] = True
        allowed[self.eos] = self.automaton.accepts(states)
        return allowed

    def distance(self, states: States) -> float:
        """The fewest tokens from here to a match, over this vocabulary."""
        return self._distances.get(states, np.inf)

    @functools.cached_property
    def _distances(self) -> dict[States, float]:
        """Breadth first from the matches, along the tokens backwards."""
        before: dict[States, list[States]] = {}
        todo, seen = [self.automaton.start], {self.automaton.start}
        while todo:
            states = todo.pop()
            if len(seen) > 20_000:
                raise DecodingError(
                    "finish_in_time: the regex has more than 20,000 states"
                )
            for after in set(self.next(states).values()):
                before.setdefault(after, []).append(states)
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        front = [states for states in seen if self.automaton.accepts(states)]
        distance: dict[States, float] = dict.fromkeys(front, 0.0)
        while front:
            behind = []
            for states in front:
                for earlier in before.get(states, ()):
                    if earlier not in distance:
                        distance[earlier] = distance[states] + 1
                        behind.append(earlier)
            front = behind
        return distance


@strategy("E12", "regex", constrains=True, stage="ban", rank=90)
@parameter("regex", "", "Matches the whole new text.")
@parameter(
    "finish_in_time",
    False,
    "Keep only what can still reach the constraint's end within max_new_tokens.",
)
@fields(prepare=lambda *settings: prepare_regex(*settings))
@fields(ends=lambda new, c, bound: bound[0].behind(c.prefix).ended(new))
@example(regex=" (cat|old) queen")
def regex(
    z: Logits, generated: Ids, context: Context, bound: tuple[RegexMask, float]
) -> Logits:
    """The new text matches a regular expression: keep v if the automaton lives on after
    it, the end where it accepts.

    bound is the mask and the number of tokens in which to reach a match (inf: any).
    Where a match must be reached in time, tokens too far from it go; a match that is
    complete may end with no end-of-text id left to write. Source: Willard and Louf,
    "Efficient Guided Generation for Large Language Models" (2023, arXiv:2307.09702).

    >>> mask = RegexMask("a+b", [b"", b"a", b"b", b"aab"], eos=[0])
    >>> regex(np.zeros(4), [1], Context(1, 1), (mask, np.inf)).tolist()
    [-inf, 0.0, 0.0, 0.0]
    >>> regex(np.zeros(4), [1], Context(1, 1), (mask, 2)).tolist()  # one token left
    [-inf, -inf, 0.0, 0.0]
    """
    mask, most = bound[0].behind(context.prefix), bound[1]
    states = mask.state(generated)
    if not states:
        raise DecodingError(
            "the new text cannot match the regex any more; a later rule forced a token"
        )
    left = most - context.step
    if left < np.inf:
        check_distance(mask.distance(states), left)
    return keep(z, mask.mask(states, left)[: len(z)])


def prepare_regex(
    pattern: str, finish_in_time: bool, setup: Any
) -> tuple[RegexMask, float]:
    """What `regex` is bound to: the mask of this vocabulary, and the tokens allowed."""
    if setup.tokenizer is None:
        raise DecodingError("regex needs a tokenizer, and this model has none")
    mask = _mask(pattern, setup.tokenizer, setup.vocab_size, setup.eos)
    most = float(setup.options.max_new_tokens) if finish_in_time else np.inf
    if finish_in_time:
        check_distance(mask.distance(mask.automaton.start), most)
    return mask, most


def check_distance(distance: float, left: float) -> None:
    """Raise DecodingError where a match needs more tokens than are left."""
    if distance > left:
        raise DecodingError(
            f"finish_in_time: a match needs {distance:.0f} more tokens, "
            f"max_new_tokens leaves {left:.0f}"
        )


@functools.lru_cache(maxsize=8)
def _mask(
    pattern: str, tokenizer: Tokens, V: int | None, eos: tuple[int, ...]
) -> RegexMask:
    return RegexMask(pattern, padded(all_bytes(tokenizer), V), eos)
