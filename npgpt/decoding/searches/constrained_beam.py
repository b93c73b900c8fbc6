"""Lexically constrained beam search: texts that must contain given words.

Beams that have said more of the words are kept in banks of their own, so that they are
not crowded out by likelier texts that say none. A phrase is said when its tokens come
in a row; tokenisation is the caller's (" word" and "word" are different tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row
from npgpt.decoding.searches.beam import BeamSearch
from npgpt.decoding.searches.candidates import Candidate
from npgpt.decoding.searches.hypotheses import Hypothesis
from npgpt.errors import DecodingError

Phrase = tuple[int, ...]
Constraint = tuple[Phrase, ...]  # phrases of which one must be said


class Progress(NamedTuple):
    """How far a text has come: constraints said, and those left with what is said."""

    said: int
    left: tuple[tuple[Constraint, Phrase], ...]  # one in progress comes first

    @property
    def begun(self) -> bool:
        """Whether a constraint is in progress, which then must go on."""
        return bool(self.left and self.left[0][1])

    def bank(self, longest: int) -> int:
        """Tokens of constraints met, each finished one counting as the longest."""
        done = 0
        if self.begun:
            constraint, so_far = self.left[0]
            done = longest - max(map(len, constraint)) + len(so_far)
        return self.said * longest + done

    def wanted(self) -> dict[int, int]:
        """Tokens that would bring a constraint further, and the first such."""
        found: dict[int, int] = {}
        for i, (constraint, so_far) in enumerate(
            self.left[:1] if self.begun else self.left
        ):
            for phrase in constraint:
                if phrase[: len(so_far)] == so_far and len(phrase) > len(so_far):
                    found.setdefault(phrase[len(so_far)], i)
        return found

    def after(self, token: int) -> Progress:
        """The progress once this token has been said."""
        i = self.wanted().get(token)
        if i is None:  # what was begun in vain begins anew, as the last
            again = ((self.left[0][0], ()),) if self.begun else ()
            return Progress(self.said, self.left[len(again) :] + again)
        constraint, so_far = self.left[i][0], (*self.left[i][1], token)
        others = self.left[:i] + self.left[i + 1 :]
        if so_far in constraint:
            return Progress(self.said + 1, others)
        return Progress(self.said, ((constraint, so_far), *others))


def constraint_set(words: Sequence[Any], vocab_size: int) -> tuple[Constraint, ...]:
    """force_words_ids checked: each entry is a phrase, or a list of phrases to choose
    of.

    >>> constraint_set([[5, 6], [[7], [8, 9]]], 10)
    (((5, 6),), ((7,), (8, 9)))
    """
    constraints = []
    for entry in words:
        try:
            phrases = [entry] if isinstance(entry[0], int | np.integer) else entry
            phrases = tuple(tuple(int(id) for id in phrase) for phrase in phrases)
        except (TypeError, IndexError, ValueError):
            phrases = ()
        if not phrases or not all(phrases):
            raise DecodingError(
                "force_words_ids must be lists of token ids, or lists of such lists, "
                f"not {entry!r}"
            )
        for phrase in phrases:
            bad = [id for id in phrase if not 0 <= id < vocab_size]
            if bad:
                raise DecodingError(
                    f"force_words_ids: {bad[0]} is not in the vocabulary, "
                    f"0 to {vocab_size - 1}"
                )
            if any(phrase == o[: len(phrase)] for o in phrases if o is not phrase):
                raise DecodingError(
                    f"force_words_ids: {list(phrase)} is the beginning of another "
                    "phrase of its list; leave the longer one out"
                )
        constraints.append(phrases)
    return tuple(constraints)


@strategy("E15", "constrained beam search", kind="part", also=("num_beams",))
@parameter(
    "force_words_ids",
    None,
    "Phrases of token ids, or lists of phrases to choose from.",
    kind="any",
)
@example(num_beams=2, force_words_ids=[[3, 2]])
class ConstrainedBeamSearch(BeamSearch):
    """Texts that must contain given words: beams filled round-robin over banks of
    constraint tokens met.

    To the best beams of a step are added, for each beam, the tokens that bring one of
    its constraints further. All are sorted by bank (tokens of constraints met), then
    score, and the beams filled round-robin: the best of each bank, the second best, and
    so on. The end of the text is allowed once all constraints are met. If the budget
    ends before, the best texts without all words are returned. Sources: Anderson et
    al., "Guided Open Vocabulary Image Captioning with Constrained Beam Search" (2016,
    arXiv:1612.00576); Post and Vilar, "Fast Lexically Constrained Decoding with Dynamic
    Beam Allocation" (2018, arXiv:1804.06609); the details are those of Transformers 4.
    """

    by_candidate = True

    def __init__(self, job: Job, row: Row):
        super().__init__(job, row)
        V = job.config.vocab_size
        words = constraint_set(job.options.force_words_ids, V)
        self.longest = max(len(phrase) for word in words for phrase in word)
        start = Progress(0, tuple((word, ()) for word in words))
        self._progress: dict[Phrase, Progress] = {(): start}

    def progress(self, new: Sequence[int]) -> Progress:
        """How far these new tokens have come; a function of them alone."""
        new = tuple(new)
        if new not in self._progress:
            self._progress[new] = self.progress(new[:-1]).after(new[-1])
        return self._progress[new]

    def advance(self, z: np.ndarray) -> None:
        """One step of the search."""
        t = len(self.running[0].picks) + 1
        raw, lp = self.processed(z)
        best: list[Candidate] = []
        for rank, found in enumerate(self.candidates(lp)):
            if found[2] in self.row.eos:
                said = self.progress(self.running[found[1]].ids)
                if rank < self.num_beams and not said.left:
                    self._finish(self.grown(raw, lp, found), "eos")
            elif len(best) < self.num_beams:
                best.append(found)
        chosen = self._round_robin(best, lp)
        grown = [self.grown(raw, lp, found) for found in chosen]
        self.done, self.running = not self._can_improve(t), []
        for beam in grown:
            reason = self.row.end_after(beam.ids)
            if self.progress(beam.ids).left:
                reason = "length" if len(beam.picks) == self.row.most else None
            if not reason:
                self.running.append(beam)
            elif not self.done:
                self._finish(beam, reason)
        self.done = self.done or not self.running

    def results(self) -> list[Hypothesis]:
        """Finished texts, those with all words first, then by score."""
        return sorted(
            self.finished,
            key=lambda text: (bool(self.progress(text.ids).left), -text.score),
        )

    def _round_robin(self, best: list[Candidate], lp: np.ndarray) -> list[Candidate]:
        pool = {(parent, token): score for score, parent, token in best}
        for i, beam in enumerate(self.running):
            for v in self.progress(beam.ids).wanted():
                if lp[i, v] > -np.inf:  # what a rule has removed is said by none
                    pool.setdefault((i, v), beam.score + float(lp[i, v]))
        if len(pool) == len(best):
            return best
        banks: dict[int, list[Candidate]] = {}
        for (i, v), score in pool.items():
            bank = self.progress([*self.running[i].ids, v]).bank(self.longest)
            banks.setdefault(bank, []).append((score, i, v))
        shelves = [
            sorted(banks[bank], key=lambda c: -c[0]) for bank in sorted(banks)[::-1]
        ]
        rounds = max(map(len, shelves))
        order = [s[r] for r in range(rounds) for s in shelves if r < len(s)]
        return order[: self.num_beams]
