"""Public-domain books as training text: tales apart, and nothing held out in them.

Three steps, each a pure function of text: `books` and `tales_of` take a book's front
and back matter, notes and contents lists away and find where a tale ends; `Shingles`
finds what another text shares, 13 words at a time; `without` takes that out. What is
done by rule is wrong now and then: of 50 boundaries drawn at random 44 parted two
tales, 6 a tale from a part of it (a tale told within it, a chapter, a song); three of
the six are gone since by the rule for tales told within tales. stories.tsv, made
by hand, says where each book begins and ends and what its titles look like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

END = "<|endoftext|>"
WORDS = 13  # a shared run of so many words is no chance
LEAST_WORDS = 40  # a shorter piece of a tale is not kept

TABLE = Path(__file__).with_suffix(".tsv")

_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "--", "–": "-"})
# Paragraphs that no author wrote: sources, pictures, credits, transcribers' remarks.
_JUNK = re.compile(
    r"^[\[({]?(from (the |le |les |la |contes|cuentos|unga|west|a )?[A-Z].{0,120}"
    r"[\])}.]$"
    r"|adapted from|translated (from|by)|edited by|illustrated by|by [A-Z][\w. ]+$"
    r"|\(\d+\) |end of |footnotes?:?$|page$|chapter page$|finis\.?$|the end\.?$"
    r"|(grimm|kletke|asbjornsen|perrault|d'aulnoy|lang|a\. l(ang)?)\.?$)"
    r"|\.jpg\b|^\[?(illustrat|picture)|^pgs?\. \d|^page [ivx\d]+\b|^\W+$|^_{4,}"
    r"|^\[[^\]]{0,120}\]$|^\([A-Z][\w .,'-]{0,60}\)\.?$"
    r"|^(london|new york|boston|chicago)\b.{0,40}$",
    re.IGNORECASE,
)
_INSIDE = re.compile(  # headings within a tale
    r"^\W*(chap(ter)?\b|part\b|book\b|moral\b|canto\b|section\b|act\b|scene\b|volume\b"
    r"|[ivxlc]+\b\W*$|\d+|the (end|moral)\b|(the )?(first|second|third|fourth|fifth"
    r"|sixth|seventh|last)\b.{0,24}$|(a tale in seven )?stor(y|ies)( \w+)?$|"
    r"(mon|tues|wednes|thurs|fri|satur|sun)day|envoy|l'envoi|song\b|introduct|preface"
    r"|postscript|note\b|conclusion|or,?$|of$|the$|after the story|what |which "
    r"|about )",
    re.IGNORECASE,
)
_SMALL = {"a", "an", "and", "as", "at", "but", "by", "for", "from", "how", "in", "into",
          "la", "le", "is", "it", "of", "on", "or", "out", "so", "that", "the", "their",
          "to", "too", "up", "was", "went", "were", "who", "with", "would"}  # fmt: skip


@dataclass(frozen=True)
class Book:
    """A book of the sources: its name and what is left of its paragraphs."""

    name: str
    paragraphs: list[str]
    titles: list[int]  # which of them begin a tale
    dropped: list[str]


# Books and tales


def read_table() -> dict[str, tuple[str, int, int, str]]:
    """Git blob of a book -> its name, paragraphs to drop before and after, titles."""
    rows = [row.split("\t") for row in TABLE.read_text("utf-8").splitlines()]
    return {
        row[0]: (row[4], int(row[1]), int(row[2]), row[3])
        for row in rows
        if row[0] != "blob" and not row[0].startswith("#")
    }


def books(text: str, blobs: list[str]) -> Iterator[Book]:
    """The books of a file, cleaned, in the order of their Git blobs in the manifest."""
    parts, table = text.split(END), read_table()
    if len(parts) != len(blobs):
        raise ValueError(f"{len(parts)} books, but {len(blobs)} lines of the manifest")
    for blob, part in zip(blobs, parts, strict=True):
        yield clean(_paragraphs(part), *table[blob[:12]])


def clean(
    paragraphs: list[str], name: str, before: int, after: int, style: str
) -> Book:
    """One book without what stands before, after and between its tales."""
    front, last = paragraphs[:before], len(paragraphs) - after
    kept, dropped = [], [*front, *paragraphs[last:]]
    for paragraph in paragraphs[before:last]:
        short = len(paragraph) < 400 and "*" not in paragraph  # a break in a tale stays
        if short and _JUNK.search(paragraph):
            dropped.append(paragraph)
            continue
        paragraph = re.sub(r" ?(\(\d{1,3}\)|\[(\d{1,3}|[A-Z])\])", "", paragraph)
        kept.append(re.sub(r"\b_([^_\n]+)_\b", r"\1", paragraph))
    return Book(name, kept, _titles(kept, style, _normal(" ".join(front))), dropped)


def tales_of(book: Book) -> list[list[str]]:
    """The tales of a book as paragraphs; a title opens its tale."""
    edges = [0, *(i for i in book.titles if i), len(book.paragraphs)]
    tales = [book.paragraphs[a:b] for a, b in pairwise(edges)]
    return [tale for tale in tales if words_in(tale) >= LEAST_WORDS]


def words_in(paragraphs: Iterable[str]) -> int:
    """Number of words."""
    return sum(len(paragraph.split()) for paragraph in paragraphs)


def unwrapped(text: str) -> list[str]:
    """Paragraphs of a text whose lines are wrapped at 70 columns, or not at all."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        lines = [" ".join(line.split()) for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        widths = [len(line) for line in lines]
        if max(widths) > 90:  # a line is a paragraph
            paragraphs += lines
        elif len(lines) > 1 and sum(widths[:-1]) / (len(lines) - 1) < 50:  # verse
            paragraphs.append("\n".join(lines))
        else:
            paragraphs.append(" ".join(lines))
    return [paragraph.translate(_PLAIN) for paragraph in paragraphs]


def _paragraphs(text: str) -> list[str]:
    parts = (part.strip().translate(_PLAIN) for part in re.split(r"\n\s*\n", text))
    return [part for part in parts if part]


def _titles(paragraphs: list[str], style: str, listed: str) -> list[int]:
    """Paragraphs that begin a tale, by the style of the book's titles."""

    def title(i: int) -> bool:
        text = paragraphs[i]
        if len(text) > 90 or text.count("\n") > 2 or _INSIDE.search(text):
            return False
        if style == "caps":
            letters = sum(map(str.isalpha, text))
            return text.isupper() and letters > 2 and text[-1] not in ",;:"
        if style == "list":
            return _is_title(text) and _normal(text) in listed
        return _is_title(re.sub(r"^[IVX]+\. |\.$", "", text))

    if style == "none":
        return []
    heads = [i for i in range(len(paragraphs)) if title(i)]
    # A title and its second line are one; a title stands before prose. Who "began:" is
    # within a tale, and tells the next one in it.
    return [
        i
        for i in heads
        if i - 1 not in heads
        and not (i and re.search(r"(:|began|follows|words)\W*$", paragraphs[i - 1]))
        and any(len(p) > 90 for p in paragraphs[i + 1 : i + 4])
    ]


def _is_title(text: str) -> bool:
    """Whether every word but the small ones is capitalised, and no sentence ends."""
    words = re.findall(r"[\w'-]+", text)
    large = [word for word in words if word.lower() not in _SMALL]
    if not large or re.search(r"""[,;:.!]$|^["'(\[]|[.!?] [A-Z]""", text):
        return False
    capitals = sum(word.lstrip("'")[:1].isupper() for word in large)
    return capitals >= 0.85 * len(large) and words[0][0].isupper()


def _normal(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


# What two texts share


class Shingles:
    """The runs of 13 words of some texts, case and punctuation apart.

    >>> s = Shingles(["The cat sat on the mat; and the dog lay by the door, asleep."])
    >>> text = "Then THE CAT sat on the mat and the dog lay by the door. Asleep?"
    >>> s.marks(text)[:2], int(s.marks(text).sum())
    (array([False,  True]), 14)
    """

    def __init__(self, texts: Iterable[str]):
        self.vocabulary: dict[str, int] = {}
        self.known = np.unique(
            np.concatenate([_hashes(self._words(text)) for text in texts])
        )

    def marks(self, text: str) -> np.ndarray:
        """For every word of a text, whether it is within a shared run."""
        words = self._words(text)
        hashes = _hashes(words)
        # np.isin would sort everything known, once for every text.
        after = np.searchsorted(self.known, hashes, side="right")
        hits = np.flatnonzero(after > np.searchsorted(self.known, hashes))
        marks = np.zeros(len(words) + 1, int)
        np.add.at(marks, hits, 1)
        np.add.at(marks, np.minimum(hits + WORDS, len(words)), -1)
        return marks.cumsum()[:-1] > 0

    def _words(self, text: str) -> np.ndarray:
        seen = self.vocabulary
        words = _normal(text).split()
        return np.array([seen.setdefault(w, len(seen)) for w in words], np.uint64)


def _hashes(words: np.ndarray, n: int = WORDS) -> np.ndarray:
    """A 64-bit hash of every run of n words."""
    size = len(words) - n + 1
    if size < 1:
        return np.zeros(0, np.uint64)
    total = np.zeros(size, np.uint64)
    for i in range(n):  # wraps around, as a hash may
        total = (total ^ words[i : i + size]) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total


def without(tale: list[str], shingles: Shingles) -> tuple[list[list[str]], int]:
    """A tale without the paragraphs that share a run; where one was, it is parted.

    Returns the parts and the number of words that went.
    """
    marks = shingles.marks("\n\n".join(tale))
    parts, at = [[]], 0
    for paragraph in tale:
        n = len(_normal(paragraph).split())
        if marks[at : at + n].any():
            parts.append([])
        else:
            parts[-1].append(paragraph)
        at += n
    kept = [part for part in parts if words_in(part) >= LEAST_WORDS]
    return kept, words_in(tale) - sum(map(words_in, kept))


# What a model has by heart


def longest_runs(samples: list[str], text: str, least: int = 8) -> list[list[str]]:
    """The longest run of words that each sample shares with a text, from `least` on.

    Runs of `least` words are found by their hashes and then followed word by word.

    >>> longest_runs(["one two three five", "six"], "Two, three! Five.", least=2)
    [['two', 'three', 'five'], []]
    """
    seen: dict[str, int] = {}

    def numbers(words: list[str]) -> np.ndarray:
        return np.array([seen.setdefault(w, len(seen)) for w in words], np.uint64)

    source = numbers(_normal(text).split())
    hashes = _hashes(source, least)
    order = hashes.argsort()
    ranked = hashes[order]
    longest = []
    for sample in samples:
        words = _normal(sample).split()
        own = numbers(words)
        begins = _hashes(own, least)
        best = (0, 0)
        first, last = (ranked.searchsorted(begins, side) for side in ("left", "right"))
        for i in range(len(begins)):
            for at in order[first[i] : last[i]]:
                n = min(len(own) - i, len(source) - at)
                differ = np.flatnonzero(own[i : i + n] != source[at : at + n])
                best = max(best, (int(differ[0]) if len(differ) else n, i))
        size, i = best
        longest.append(words[i : i + size] if size >= least else [])
    return longest
