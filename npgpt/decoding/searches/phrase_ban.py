"""Phrase ban with backtracking: when a banned phrase completes, go back before it.

The token that began it is banned at that place and another one drawn, from the logits
kept there and with fresh random numbers; where none is left, the one before it goes.
Text is held back while it may still be the beginning of a phrase. Phrases are matched
in the text, whatever their tokens or case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import run_chain
from npgpt.decoding.healing import characters
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.stopping import undecided
from npgpt.errors import DecodingError


@dataclass
class _Place:
    """One position not yet shown: what was there to choose from, and what was taken."""

    logits: np.ndarray
    state: Any  # the selector's, before this token
    banned: list[int] = field(default_factory=list)
    id: int = -1
    z: np.ndarray = field(default_factory=lambda: np.zeros(0))


@strategy("E17", "phrase ban", kind="search")
@parameter("banned_strings", (), "Texts, in any case.", kind="texts")
@example(banned_strings=["cat the"])
def sample_without_phrases(job: Job) -> Iterator[Step]:
    """Phrases that never occur, by going back before them: when one completes, ban its
    first token there and draw again.

    Rows are written one after the other. Source: Paech, "AntiSlop" (2024).
    """
    if job.tokenizer is None:
        raise DecodingError("banned_strings need a tokenizer, and this model has none")
    if job.options.overflow == "slide":
        raise DecodingError("banned_strings cannot go back with overflow='slide'")
    if job.cache is not None:
        raise DecodingError("banned_strings cannot continue a cache; leave it out")
    job.check_room()
    rows = job.rows() if job.options.max_new_tokens else []
    return (step for row in rows for step in _write(job, row))


def _write(job: Job, row: Row) -> Iterator[Step]:
    model = job.model
    cache, base, context = job.cache_of(row), list(row.ids), row.context
    phrases = [phrase.casefold() for phrase in job.options.banned_strings]
    z = model.next_logits([base], cache)[0]
    places, state, again = [_Place(z, row.state)], row.state, 0
    shown = 0  # places already given to the row
    while True:
        place = places[-1]
        ids = base + [p.id for p in places[:-1]]
        here = replace(context, step=len(places) - 1, attempt=again)
        place.z = run_chain(job.chain, ids, place.logits, here)
        if place.banned:
            place.z = place.z.copy()
            place.z[place.banned] = -np.inf
        if place.banned and place.z.max() == -np.inf and len(places) - 1 > shown:
            back = len(places) - 2  # nothing else can stand here
        else:
            place.id, state = job.selector.choose(ids, place.z, here, place.state)
            texts = _texts(job, row, [p.id for p in places])
            text = texts[-1]
            starts = [text.find(phrase) for phrase in phrases if phrase in text]
            longer = (i for i, t in enumerate(texts) if len(t) > min(starts))
            back = next(longer) if starts else -1
        if back >= 0:
            del places[back + 1 :]
            places[back].banned.append(places[back].id)
            cache.crop(len(base) + back)
            again += 1
            continue
        over = row.over([p.id for p in places[shown:]]) or len(places) == row.most
        safe = len(texts[-1]) - undecided(text, phrases)
        while shown < len(places) and (over or _end(texts, shown) <= safe):
            p = places[shown]
            yield record(row, p.id, p.logits, p.z)
            shown += 1
            if row.finish_reason is not None:
                return
        z = model.next_logits([[place.id]], cache)[0]
        places.append(_Place(z, state))


def _end(texts: Sequence[str], i: int) -> float:
    """Where the character ends that token i is part of; inf: not yet.

    >>> _end(["", "é", "éa"], 0), _end(["a", "a"], 1)
    (1, inf)
    """
    before = len(texts[i - 1]) if i else 0
    return next((len(text) for text in texts[i:] if len(text) > before), math.inf)


def _texts(job: Job, row: Row, ids: Sequence[int]) -> list[str]:
    """The new text after each token, its letter case folded, which may lengthen it.

    An unfinished character is not there yet, what token healing took back no news.
    """
    stream, known = row.tokenizer.stream(row.ids), characters(row.prefix)
    text, texts = "", []
    for id in ids:
        text += "" if id in job.eos else stream.push(id)
        texts.append(text[known:].casefold())
    return texts
