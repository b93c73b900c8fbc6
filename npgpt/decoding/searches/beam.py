"""Beam search, and its sampling kind: several texts in the making, the best returned.

`run_beams` owns the loop and the cache for any search that keeps a list of beams;
BeamSearch is the rule of the Transformers library, step by step. Diverse, stochastic
and constrained beams are files of their own. What is improbable at first but better in
the end can still be lost: only a beam as wide as all texts is an exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npgpt.decoding.chain import run_chain
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row
from npgpt.decoding.rules.base import Context
from npgpt.decoding.searches.candidates import (
    Candidate,
    best_candidates,
    capacity,
    check_rows,
    drawn_candidates,
    length_norm,
    log_sum_exp,
)
from npgpt.decoding.searches.hypotheses import Hypothesis, pick
from npgpt.errors import DecodingError
from npgpt.interface import Cache
from npgpt.ops import log_softmax


class BeamSearch:
    """Several texts in the making, the best is returned: the num_beams best of sum log
    p, ended ones ranked by sum / t^length_penalty.

    At step t: log-probabilities, the chain's rules on them, plus each beam's score; the
    best max(2, 1 + #eos) * num_beams pairs are candidates. Those among the first
    num_beams that end are finished with score / t^length_penalty (t counts the end);
    the best num_beams that do not end run on. It stops when no running beam can improve
    on the worst finished one, judged at the present length (early_stopping False), at
    the full length ("never"), or as soon as num_beams texts are finished (True;
    `patience` times as many with patience).

    With do_sample the candidates are drawn without replacement instead; a truncation
    may then leave a beam one token (Transformers: 1 + #eos). Sources: Lowerre, "The
    Harpy Speech Recognition System" (1976); Kasai et al., "A Call for Clarity in Beam
    Search" (2022) for patience; the rules are those of Transformers 5.
    """

    by_candidate = False  # whether a search is judged by its best candidate, or beam

    def __init__(self, job: Job, row: Row, num_beams: int | None = None):
        self.row, self.options, self.chain = row, job.options, job.chain
        self.num_beams = num_beams or job.options.num_beams
        self.capacity = capacity(self.num_beams, job.options.patience)
        self.considered = max(2, 1 + len(job.eos)) * self.num_beams
        self.running = [Hypothesis()]
        self.finished: list[Hypothesis] = []
        self.chosen: list[int] = []  # what groups of a diverse search keep away from
        self.done = False

    def advance(self, z: np.ndarray) -> None:
        """One step: candidates, those that end, those that run on, whether to stop."""
        if self.chain:
            z, lp = self.processed(z)
            norm = np.zeros(len(z))
        else:  # z - norm are the log-probabilities: what is not a candidate needs none
            norm, lp = log_sum_exp(z), z
        candidates = self.candidates(lp, norm)
        running: list[Hypothesis] = []
        self.chosen = []
        best = self.options.greedy and not self.chain
        for place, (score, parent, token) in enumerate(candidates):
            if place >= self.num_beams == len(running):
                break
            if token not in self.row.eos and len(self.chosen) < self.num_beams:
                self.chosen.append(token)
            reason = self.row.end_after([*self.running[parent].ids, token])
            if place >= self.num_beams if reason else len(running) == self.num_beams:
                continue
            rank = None
            if best:  # the best candidates of all: what is better stands before it
                ahead = candidates[:place]
                rank = 1 + sum(p == parent and s > score for s, p, _ in ahead)
            beam = self.grown(z, lp, candidates[place], norm[parent], rank)
            if reason:
                self._finish(beam, reason)
            else:
                running.append(beam)
        t, self.running = len(self.running[0].picks) + 1, running
        self.done = not running or not self._can_improve(t)

    def candidates(self, lp: np.ndarray, norm: Any = 0.0) -> list[Candidate]:
        """The (score, beam, token) considered in this step; lp - norm are log p."""
        scores = np.array([beam.score for beam in self.running]) - norm
        if self.options.greedy:
            found = best_candidates(lp, scores, self.considered)
        else:
            found = drawn_candidates(lp, scores, self.considered, self.context())
        if not found:
            raise DecodingError(
                "every token of every beam has been removed; loosen the constraints"
            )
        self.best_candidate = found[0][0]
        return found

    def grown(
        self, z: Any, lp: Any, found: Candidate, norm: Any = 0.0, rank: Any = None
    ) -> Hypothesis:
        """The text of a candidate: a running one and one token more.

        z - norm and lp - norm are what the model and the chain say, log p (beams, V).
        """
        score, parent, token = found
        before, logp = self.running[parent], lp[parent, token] - norm
        top = self.options.top_logprobs
        taken = pick(z[parent], token, logp, top, norm, rank)
        return Hypothesis((*before.picks, taken), score, None, parent)

    def processed(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (beams, V), the model's and those of the chain."""
        check_rows(z)
        raw, context = log_softmax(z), self.context()
        rows = [
            run_chain(self.chain, self.row.ids + beam.ids, lp, context)
            for beam, lp in zip(self.running, raw, strict=True)
        ]
        return raw, np.stack(rows)

    def context(self) -> Context:
        """Where the next token of the running beams stands; its row is the prompt's."""
        prompt = self.row.index // self.options.num_return_sequences
        context = self.row.context_at(len(self.running[0].picks))
        return replace(context, index=prompt)

    def results(self) -> list[Hypothesis]:
        """The finished texts, best first."""
        return sorted(self.finished, key=lambda text: -text.score)

    def _norm(self, length: int) -> float:
        o = self.options
        return length_norm(length, o.length_penalty, o.length_normalization)

    def _finish(self, beam: Hypothesis, reason: str) -> None:
        score = beam.score / self._norm(len(beam.picks))
        self.finished.append(beam._replace(score=score, finish_reason=reason))
        self.finished = self.results()[: self.capacity]

    def _can_improve(self, t: int) -> bool:
        o = self.options
        if len(self.finished) < self.capacity:
            return True
        if o.early_stopping is True:
            return False
        if o.early_stopping == "never" and o.length_penalty > 0:
            t = self.row.most
        best = self.best_candidate if self.by_candidate else self.running[0].score
        return best / self._norm(t) > self.finished[-1].score


def run_beams(job: Job, searches: Sequence[BeamSearch]) -> None:
    """Feed every search, one a prompt, until all are done; a step is one reading."""
    z, cache = job.read(job.prompts)
    live = [(search, [i]) for i, search in enumerate(searches)]  # and its beams' rows
    while True:
        for search, own in live:
            search.advance(z[own])
        live = [
            (search, [own[beam.parent] for beam in search.running])
            for search, own in live
            if not search.done
        ]
        if not live:
            return
        slots, cache = place(cache, [source for _, own in live for source in own])
        taken = iter(slots)
        live = [(search, [next(taken) for _ in own]) for search, own in live]
        last = {
            slot: beam.ids[-1:]
            for search, own in live
            for beam, slot in zip(search.running, own, strict=True)
        }
        z = job.model.next_logits([last[i] for i in range(len(slots))], cache)


def place(cache: Cache, sources: Sequence[int]) -> tuple[list[int], Cache]:
    """A cache row for every beam, given the row that its parent had.

    The first child of a row stays there; only further children are copied, from where
    their texts part.
    """
    if len(sources) != cache.batch:
        return list(range(len(sources))), cache.select(sources)
    free = [row for row in range(cache.batch) if row not in sources]
    slots: list[int] = []
    for source in sources:
        slots.append(free.pop() if source in slots else source)
        if slots[-1] != source:
            cache.copy_row(slots[-1], source)
    return slots, cache
