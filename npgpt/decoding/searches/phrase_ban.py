"""Phrase ban with backtracking: when a banned phrase completes, go back before it.

The token that began it is banned at that place and another one drawn, from the logits
kept there and with fresh random numbers. Text is held back while it may still be the
beginning of a phrase. Phrases are matched in the text, whatever their tokens or case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Rule
from npgpt.decoding.sampling import check_room
from npgpt.decoding.selection import Selector, build_selector
from npgpt.errors import DecodingError


@dataclass
class _Place:
    """One position not yet shown: what was there to choose from, and what was taken."""

    logits: np.ndarray
    state: Any  # the selector's, before this token
    banned: list[int] = field(default_factory=list)
    id: int = -1
    z: np.ndarray | None = None


@strategy("E17", "phrase ban", kind="search")
@parameter("banned_strings", (), "Texts, in any case.", kind="texts")
@example(banned_strings=["cat the"])
def sample_without_phrases(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: Any = None,
) -> Iterator[Step]:
    """Phrases that never occur, by going back before them: when one completes, ban its
    first token there and draw again.

    Rows are written one after the other. Source: Paech, "AntiSlop" (2024).
    """
    if model.tokenizer is None:
        raise DecodingError("banned_strings need a tokenizer, and this model has none")
    if options.overflow == "slide":
        raise DecodingError("banned_strings cannot go back with overflow='slide'")
    if cache is not None:
        raise DecodingError("banned_strings cannot continue a cache; leave it out")
    check_room(model, prompts, options)
    eos = options.eos_ids(model.config)
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    return _rows(model, prompts, options, chain, eos)


def _rows(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    chain: Sequence[Rule],
    eos: Sequence[int],
) -> Iterator[Step]:
    selector, n = build_selector(options), options.num_return_sequences
    for i, prompt in enumerate(prompts):
        start = heal(prompt, model.tokenizer, options)
        for j in range(n):
            row = Row(i * n + j, start, j, model.tokenizer, options, selector)
            if options.max_new_tokens:
                yield from _row(model, row, options, chain, selector, eos)


def _row(
    model: Any,
    row: Row,
    options: GenerationConfig,
    chain: Sequence[Rule],
    selector: Selector,
    eos: Sequence[int],
) -> Iterator[Step]:
    cache = model.new_cache(1)
    base, context = list(row.ids), row.context
    most = min(options.max_new_tokens, model.config.n_positions + 1 - len(base))
    phrases = [phrase.lower() for phrase in options.banned_strings]
    z = model.next_logits([base], cache)[0]
    places, state, again = [_Place(z, row.state)], row.state, 0
    shown = 0  # places already given to the row
    while True:
        place = places[-1]
        ids = base + [p.id for p in places[:-1]]
        here = replace(context, step=len(places) - 1, attempt=again)
        place.z = run_chain(chain, ids, place.logits, here)
        if place.banned:
            place.z = place.z.copy()
            place.z[place.banned] = -np.inf
        place.id, state = selector.choose(ids, place.z, here, place.state)
        texts = _texts(model.tokenizer, [p.id for p in places])
        start = _first_phrase(texts[-1].lower(), phrases)
        if start is not None:
            at = next(i for i, text in enumerate(texts) if len(text) > start)
            del places[at + 1 :]
            places[at].banned.append(places[at].id)
            cache.crop(len(base) + at)
            again += 1
            continue
        over = place.id in eos or len(places) == most
        safe = len(texts[-1]) - (0 if over else _undecided(texts[-1].lower(), phrases))
        while shown < len(places) and (over or len(texts[shown]) <= safe):
            p = places[shown]
            ends = over and shown == len(places) - 1
            yield record(row, p.id, p.logits, p.z, options, eos, last=ends)
            shown += 1
            if row.finish_reason is not None:
                return
        z = model.next_logits([[place.id]], cache)[0]
        places.append(_Place(z, state))


def _texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text after each token; an unfinished character is not there yet."""
    stream, text, texts = tokenizer.stream(), "", []
    for id in ids:
        text += stream.push(id)
        texts.append(text)
    return texts


def _first_phrase(text: str, phrases: Sequence[str]) -> int | None:
    """Where the first banned phrase begins."""
    found = [at for phrase in phrases if (at := text.find(phrase)) >= 0]
    return min(found, default=None)


def _undecided(text: str, phrases: Sequence[str]) -> int:
    """Length of the longest end of the text that begins a phrase.

    >>> _undecided("it was a", ["a dark", "was a dark"])
    5
    """
    return max(
        (
            n
            for phrase in phrases
            for n in range(1, min(len(phrase), len(text) + 1))
            if text.endswith(phrase[:n])
        ),
        default=0,
    )
