"""Lexically constrained beam search: texts that must contain given words.

Beams that have said more of the words are kept in banks of their own, so that they are
not crowded out by likelier texts that say none. A phrase is said when its tokens come
in a row; tokenisation is the caller's (" word" and "word" are different tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.job import Job
from npgpt.decoding.row import Row
from npgpt.decoding.searches.beam import BeamSearch
from npgpt.decoding.searches.candidates import Candidate
from npgpt.decoding.searches.hypotheses import Hypothesis
from npgpt.errors import DecodingError

Phrase = tuple[int, ...]
Constraint = tuple[Phrase, ...]  # phrases of which one must be said


@dataclass(frozen=True)
class Progress:
    """How far a text has come: constraints said, the one in progress, those left."""

    said: int
    current: tuple[Constraint, Phrase] | None
    pending: tuple[Constraint, ...]

    @property
    def completed(self) -> bool:
        """Whether every constraint has been met."""
        return self.current is None and not self.pending

    def bank(self, longest: int) -> int:
        """Tokens of constraints met, each finished one counting as the longest."""
        done = 0
        if self.current is not None:
            done = longest - _length(self.current[0]) + len(self.current[1])
        return self.said * longest + done

    def wanted(self) -> list[int]:
        """Tokens that would bring a constraint further."""
        if self.current is not None:
            constraint, so_far = self.current
            return _following(constraint, so_far)
        return [v for constraint in self.pending for v in _following(constraint, ())]

    def after(self, token: int) -> Progress:
        """The progress once this token has been said."""
        if self.completed:
            return self
        if self.current is not None:
            constraint, so_far = self.current
            if token not in _following(constraint, so_far):
                return Progress(self.said, None, (*self.pending, constraint))
            return self._advanced(constraint, (*so_far, token), self.pending)
        for i, constraint in enumerate(self.pending):
            if token in _following(constraint, ()):
                others = (*self.pending[:i], *self.pending[i + 1 :])
                return self._advanced(constraint, (token,), others)
        return self

    def _advanced(
        self, constraint: Constraint, so_far: Phrase, pending: tuple[Constraint, ...]
    ) -> Progress:
        if so_far in constraint:
            return Progress(self.said + 1, None, pending)
        return Progress(self.said, (constraint, so_far), pending)


def _following(constraint: Constraint, so_far: Phrase) -> list[int]:
    n = len(so_far)
    tokens = [p[n] for p in constraint if p[:n] == so_far and len(p) > n]
    return list(dict.fromkeys(tokens))


def _length(constraint: Constraint) -> int:
    return max(map(len, constraint))


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


class ConstrainedBeamSearch(BeamSearch):
    """Beam search whose texts contain every word of force_words_ids.

    To the best beams of a step are added, for each beam, the tokens that bring one of
    its constraints further. All are sorted by bank (tokens of constraints met), then
    score, and the beams filled round-robin: the best of each bank, the second best, and
    so on. The end of the text is allowed once all constraints are met. If the budget
    ends before, the best texts without all words are returned. Sources: Anderson et
    al., "Guided Open Vocabulary Image Captioning with Constrained Beam Search" (2016);
    Post and Vilar, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation"
    (2018); the details are those of Transformers 4.
    """

    by_candidate = True

    def __init__(self, job: Job, row: Row):
        super().__init__(job, row)
        V = job.model.config.vocab_size
        words = constraint_set(job.options.force_words_ids, V)
        self.longest = max(map(_length, words))
        self._progress: dict[Phrase, Progress] = {(): Progress(0, None, words)}

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
        for rank, (score, parent, token) in enumerate(self.candidates(lp)):
            if token in self.ends.eos:
                said = self.progress(self.running[parent].new)
                if rank < self.num_beams and said.completed:
                    self._finish(self.grown(raw, lp, parent, token, score), "eos")
            elif len(best) < self.num_beams:
                best.append((score, parent, token))
        chosen = self._round_robin(best, lp)
        grown = [self.grown(raw, lp, i, v, score) for score, i, v in chosen]
        self.done, self.running = not self._can_improve(t), []
        for beam in grown:
            reason = self.ends.reason(beam.new)
            if not self.progress(beam.new).completed:
                reason = "length" if len(beam.picks) == self.ends.budget else None
            if not reason:
                self.running.append(beam)
            elif not self.done:
                self._finish(beam, reason)
        self.done = self.done or not self.running

    def results(self) -> list[Hypothesis]:
        """Finished texts, those with all words first, then by score."""
        return sorted(
            self.finished,
            key=lambda text: (not self.progress(text.ids).completed, -text.score),
        )

    def _round_robin(self, best: list[Candidate], lp: np.ndarray) -> list[Candidate]:
        pool = {(parent, token): score for score, parent, token in best}
        for i, beam in enumerate(self.running):
            for v in self.progress(beam.new).wanted():
                pool.setdefault((i, v), beam.score + float(lp[i, v]))
        if len(pool) == len(best):
            return best
        banks: dict[int, list[Candidate]] = {}
        for (i, v), score in pool.items():
            bank = self.progress([*self.running[i].new, v]).bank(self.longest)
            banks.setdefault(bank, []).append((score, i, v))
        shelves = [
            sorted(banks[bank], key=lambda c: -c[0]) for bank in sorted(banks)[::-1]
        ]
        rounds = max(map(len, shelves))
        order = [s[r] for r in range(rounds) for s in shelves if r < len(s)]
        return order[: self.num_beams]
