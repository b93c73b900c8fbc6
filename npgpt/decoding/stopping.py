"""Stopping criteria: when a row ends, and what of its text may be shown already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.errors import DecodingError


class StopStrings:
    """Watches a growing text for stop strings, across token borders.

    `push` returns the part that is certainly shown: what could still turn out to be the
    beginning of a stop string is held back until it is decided.

    >>> watch = StopStrings(["stop"])
    >>> watch.push("it st"), watch.found, watch.push("opera"), watch.found
    ('it ', False, '', True)
    """

    def __init__(self, stops: Sequence[str], include: bool = False):
        self.stops = stops
        self.include = include
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """The text that can be shown after these characters."""
        self._held += text
        found = [
            (at + len(stop), at)
            for stop in self.stops
            if (at := self._held.find(stop)) >= 0
        ]
        if found:
            end, start = min(found)  # the one that is complete first
            self.found = True
            shown, self._held = self._held[: end if self.include else start], ""
            return shown
        cut = len(self._held) - undecided(self._held, self.stops)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        shown, self._held = self._held, ""
        return shown


def undecided(text: str, phrases: Sequence[str]) -> int:
    """Length of the longest end of the text that begins a phrase, but is not all of it.

    >>> undecided("it was a", ["a dark", "was a dark"])
    5
    """
    ends = (
        n
        for phrase in phrases
        for n in range(1, min(len(phrase), len(text) + 1))
        if text.endswith(phrase[:n])
    )
    return max(ends, default=0)


def _check_sizes(options: Any) -> None:
    if options.min_pattern_size > max(1, options.max_pattern_size):
        raise DecodingError(
            f"min_pattern_size {options.min_pattern_size} is more than "
            f"max_pattern_size {options.max_pattern_size}"
        )


@strategy("D11", "repetition detection", kind="stopping", check=_check_sizes)
@parameter("max_pattern_size", 0, "Longest pattern; 0 is off.", 1)
@parameter("min_pattern_size", 1, "Shortest pattern.", 1)
@parameter("min_count", 3, "Repeats that end the text.", 2)
@example(max_pattern_size=3, max_new_tokens=10)
def repeats(
    ids: Sequence[int], max_pattern_size: int, min_pattern_size: int, min_count: int
) -> bool:
    """Ends a text that repeats a pattern of s tokens: the last s * count tokens have
    period s.

    s is at least the min, at most the max size; a max of 0 finds nothing. Source: vLLM.

    >>> repeats([5, 1, 2, 1, 2, 1, 2], 4, 1, 3), repeats([1, 2, 1, 2], 4, 1, 3)
    (True, False)
    """
    for size in range(min_pattern_size, max_pattern_size + 1):
        length = size * min_count
        end = list(ids[len(ids) - length :]) if length <= len(ids) else []
        # Period `size` over the whole end: it equals itself moved by one pattern.
        if end and end[size:] == end[:-size]:
            return True
    return False
