"""Beam search, and its sampling kind: several texts in the making, the best returned.

`run_beams` owns the loop and the cache for any search that keeps a list of beams;
BeamSearch is the rule of the Transformers library, step by step. Diverse, stochastic
and constrained beams are files of their own. What is improbable at first but better in
the end can still be lost: only a beam as wide as all texts is an exact search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from npgpt.cache import KVCache
from npgpt.decoding import randomness
from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import run_chain
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, Rule, check
from npgpt.decoding.sampling import read_prompts
from npgpt.decoding.searches.hypotheses import Ends, Hypothesis, Pick, pick
from npgpt.errors import DecodingError
from npgpt.ops import log_softmax

GROUP = 64  # tokens that best_candidates passes over by their largest number


class Beam(NamedTuple):
    """A text in the making: all its ids, what its tokens add up to, where it grew."""

    ids: list[int]
    score: float = 0.0
    picks: tuple[Pick, ...] = ()
    parent: int = 0  # which of the beams before it was


class Search(Protocol):
    """What run_beams asks of a search: beams, a step, an end."""

    running: list[Beam]
    done: bool

    def advance(self, z: np.ndarray) -> None:
        """Replace `running` by its successors, from the logits (len(running), V)."""


def run_beams(
    model: Any,
    prompts: Sequence[Sequence[int]],
    searches: Sequence[Search],
    options: GenerationConfig,
) -> None:
    """Feed every search, one a prompt, until all are done; a step is one reading."""
    z, cache = read_prompts(model, prompts, options, None)
    rows = [[i] for i in range(len(prompts))]  # the cache rows of each search's beams
    live = list(searches)
    while True:
        for search, own in zip(live, rows, strict=True):
            search.advance(z[own])
        wanted = [
            [own[beam.parent] for beam in search.running]
            for search, own in zip(live, rows, strict=True)
            if not search.done
        ]
        live = [search for search in live if not search.done]
        if not live:
            return
        slots, cache = place(cache, [source for own in wanted for source in own])
        taken = iter(slots)
        rows = [[next(taken) for _ in own] for own in wanted]
        unread: list[list[int]] = [[]] * len(slots)
        for search, own in zip(live, rows, strict=True):
            for beam, slot in zip(search.running, own, strict=True):
                unread[slot] = beam.ids[-1:]
        z = model.next_logits(unread, cache)


def place(cache: KVCache, sources: Sequence[int]) -> tuple[list[int], KVCache]:
    """A cache row for every beam, given the row that its parent had.

    The first child of a row stays there; only further children are copied, from where
    their texts part.
    """
    if len(sources) != cache.batch:
        return list(range(len(sources))), cache.select(sources)
    stay: dict[int, int] = {}
    for i, source in enumerate(sources):
        stay.setdefault(source, i)
    free = [row for row in range(cache.batch) if row not in stay]
    slots = []
    for i, source in enumerate(sources):
        if stay[source] == i:
            slots.append(source)
        else:
            slots.append(free.pop())
            cache.copy_row(slots[-1], source)
    return slots, cache


@strategy("G7", "patience", kind="part", also=("num_beams", "early_stopping"))
@parameter("patience", 1.0, "Texts a beam; 1 is off.", 0.01)
@example(num_beams=2, patience=2.0, early_stopping=True)
def capacity(num_beams: int, patience: float = 1.0) -> int:
    """Go on until more texts have ended than there are beams: stop at patience *
    num_beams.

    Source: Kasai et al., "A Call for Clarity in Beam Search" (2022, arXiv:2204.05424).

    >>> capacity(3, 2.0)
    6
    """
    return max(1, round(num_beams * patience))


@strategy("G6", "length normalisation", kind="part", also=("num_beams",))
@parameter(
    "length_normalization",
    ("hf", "gnmt"),
    "The length itself (Hugging Face, fairseq), or GNMT's.",
)
@example(num_beams=3, length_normalization="gnmt", length_penalty=2.0)
def length_norm(length: int, alpha: float, kind: str = "hf") -> float:
    """What a beam's score is divided by: t^alpha ("hf"), or GNMT's ((5 + t) / 6)^alpha.

    alpha 0 divides by 1: the plain sum of log-probabilities, which likes short texts.
    Source: Wu et al., "Google's Neural Machine Translation System" (2016,
    arXiv:1609.08144).

    >>> length_norm(4, 0.5), length_norm(7, 1.0, "gnmt")
    (2.0, 2.0)
    """
    return (length if kind == "hf" else (5 + length) / 6) ** alpha


def best_candidates(
    lp: np.ndarray, scores: Sequence[float], n: int
) -> list[tuple[float, int, int]]:
    """The n best (score + lp, beam, token) of all pairs, best first; lowest ids on
    ties.

    >>> lp = np.log(np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0001]]))
    >>> [(b, v) for s, b, v in best_candidates(lp, [0.0, -1.0], 3)]
    [(0, 0), (1, 0), (0, 1)]
    """
    scores, width, end = np.asarray(scores), lp.shape[1] // GROUP, 0
    found, least = [], np.float64(-np.finfo(np.float64).max)
    if len(lp) * width >= n:
        # Group j holds the tokens j, j + width, ... Each group has a best one, so n
        # pairs reach the n-th best of those: only groups that do are looked into.
        end = GROUP * width
        groups = lp[:, :end].reshape(len(lp), GROUP, width)
        tops = groups.max(axis=1) + scores[:, None]
        place = tops.size - n
        least = np.maximum(least, np.partition(tops, place, axis=None)[place])
        beam, group = np.nonzero(tops >= least)
        totals = groups[beam, :, group] + scores[beam, None]
        i, j = np.nonzero(totals >= least)
        found += zip(
            totals[i, j].tolist(),
            beam[i].tolist(),
            (group[i] + width * j).tolist(),
            strict=True,
        )
    if end < lp.shape[1]:
        rest = lp[:, end:] + scores[:, None]
        i, j = np.nonzero(rest >= least)
        found += zip(rest[i, j].tolist(), i.tolist(), (end + j).tolist(), strict=True)
    found.sort(key=lambda c: (-c[0], c[1], c[2]))
    return found[:n]


@strategy("G2", "beam-search multinomial sampling", kind="part")
@example(num_beams=2, do_sample=True, seed=3)
def drawn_candidates(
    lp: np.ndarray, scores: Sequence[float], n: int, context: Context
) -> list[tuple[float, int, int]]:
    """Candidates of a beam search that are drawn without replacement: the n largest of
    score + lp + Gumbel noise.

    In the order of drawing, which the Gumbel-top-k trick gives: the n largest of
    score + lp + Gumbel noise. Source: Kool et al., "Stochastic Beams and Where to Find
    Them" (2019, arXiv:1903.06059).
    """
    total = (lp.astype(np.float64) + np.asarray(scores)[:, None]).ravel()
    possible = np.flatnonzero(total > -np.inf)
    u = randomness.uniforms(
        context.seed, context.row, context.step, randomness.TOKEN, len(total)
    )
    # The lowest bit is 2^-53: half of it keeps u off 0, where the logarithm ends.
    keys = total[possible] - np.log(-np.log(u[possible] + 2.0**-54))
    order = possible[np.argsort(-keys, kind="stable")[:n]]
    V = lp.shape[1]
    return [(float(total[i]), int(i) // V, int(i) % V) for i in order]


@dataclass
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

    prompt: Sequence[int]
    chain: Sequence[Rule]
    options: GenerationConfig
    ends: Ends
    num_beams: int
    length_penalty: float = 1.0
    length_normalization: str = "hf"
    early_stopping: bool | str = False
    patience: float = 1.0
    running: list[Beam] = field(default_factory=list)
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def __post_init__(self):
        self.running = [Beam(list(self.prompt))]
        self.capacity = capacity(self.num_beams, self.patience)
        self.considered = max(2, 1 + len(self.ends.eos)) * self.num_beams

    def advance(self, z: np.ndarray) -> None:
        """One step: candidates, those that end, those that run on, whether to stop."""
        t = len(self.running[0].picks) + 1
        if self.chain:
            z, lp, context = processed(self, z, t)
            norm = np.zeros(len(z))
        else:  # z - norm are the log-probabilities: what is not a candidate needs none
            context, norm, lp = _context(self, t), log_sum_exp(z), z
        candidates = self.candidates(lp, context, norm)
        running: list[Beam] = []
        self.chosen = []  # what groups of a diverse search keep away from
        best = self.options.greedy and not self.chain
        for rank, (score, parent, token) in enumerate(candidates):
            if rank >= self.num_beams == len(running):
                break
            if token not in self.ends.eos and len(self.chosen) < self.num_beams:
                self.chosen.append(token)
            before = self.running[parent]
            new = [*before.ids[len(self.prompt) :], token]
            reason = self.ends.reason(new)
            if (rank >= self.num_beams) if reason else len(running) == self.num_beams:
                continue
            # The best candidates of all: what is better than one stands before it.
            ahead = [s for s, p, _ in candidates[:rank] if p == parent and s > score]
            taken = pick(
                z[parent],
                token,
                lp[parent, token] - norm[parent],
                self.options.top_logprobs,
                norm[parent],
                len(ahead) + 1 if best else None,
            )
            picks = (*before.picks, taken)
            if reason:
                self._finish(picks, score / self._norm(t), reason)
            else:
                running.append(Beam([*before.ids, token], score, picks, parent))
        self.running = running
        self.done = not running or not self._can_improve(t)

    def candidates(
        self, lp: np.ndarray, context: Context, norm: Any = 0.0
    ) -> list[tuple[float, int, int]]:
        """The (score, beam, token) considered in this step; lp - norm are log p."""
        scores = np.array([beam.score for beam in self.running]) - norm
        if self.options.greedy:
            found = best_candidates(lp, scores, self.considered)
        else:
            found = drawn_candidates(lp, scores, self.considered, context)
        if not found:
            raise DecodingError(
                "every token of every beam has been removed; loosen the constraints"
            )
        self.best_candidate = found[0][0]
        return found

    def results(self) -> list[Hypothesis]:
        """The finished texts, best first."""
        return self.finished

    def _best_score(self) -> float:
        return self.running[0].score if self.running else -np.inf

    def _norm(self, length: int) -> float:
        return length_norm(length, self.length_penalty, self.length_normalization)

    def _finish(self, picks: tuple[Pick, ...], score: float, reason: str) -> None:
        self.finished.append(Hypothesis(picks, score, reason))
        self.finished.sort(key=lambda text: -text.score)
        del self.finished[self.capacity :]

    def _can_improve(self, t: int) -> bool:
        if len(self.finished) < self.capacity:
            return True
        if self.early_stopping is True:
            return False
        length = t
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.ends.budget
        best = self._best_score() / self._norm(length)
        return best > self.finished[-1].score


def processed(
    search: Any, z: np.ndarray, t: int
) -> tuple[np.ndarray, np.ndarray, Context]:
    """Log-probabilities of the model, what the chain makes of them, and the context."""
    _check_rows(z)
    raw, context = log_softmax(z), _context(search, t)
    if not search.chain:
        return raw, raw, context
    rows = [
        run_chain(search.chain, beam.ids, row, context)
        for beam, row in zip(search.running, raw, strict=True)
    ]
    return raw, np.stack(rows), context


def _context(search: Any, t: int) -> Context:
    return Context(len(search.prompt), t - 1, search.options.seed, 0)


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """log sum_v exp z_v of every row, (B,) float64: z less it is log softmax.

    >>> log_sum_exp(np.log(np.array([[1.0, 2.0], [3.0, 3.0]]))).round(4).tolist()
    [1.0986, 1.7918]
    """
    top = _check_rows(z)
    e = z - top[:, None]
    np.exp(e, out=e)
    return top + np.log(e.sum(axis=1)).astype(np.float64)


def _check_rows(z: np.ndarray) -> np.ndarray:
    """The largest number of each row, or DecodingError where it is no number."""
    top = z.max(axis=1)
    if not np.isfinite(top).all():
        for row in z:
            check(row)  # says what is wrong with it
    return top
