"""Power sampling: whole texts drawn from p^alpha, by Metropolis-Hastings moves.

Temperature 1/alpha sharpens each token by itself; p^alpha sharpens whole texts, so a
token that leads to one likely text beats one that leads to many unlikely ones. It costs
power_steps rewritten texts for every power_block tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from npgpt.cache import keep_common
from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row, Step
from npgpt.decoding.rules.base import log_probabilities
from npgpt.decoding.searches.hypotheses import Hypothesis, pick, steps_of
from npgpt.decoding.selectors import ancestral

MOVE = 1 << 20  # random numbers of move n have purposes from MOVE * n on


class Draw(NamedTuple):
    """A text's new tokens, their log p, and their log-probability as a proposal."""

    ids: list[int]
    logp: list[float]
    proposal: list[float]


@strategy("G12", "power sampling", kind="search", sampling=True)
@parameter("power_alpha", 1.0, "alpha; 1 is off.", 1e-3)
@parameter("power_block", 16, "Tokens added between moves.", 1)
@parameter("power_steps", 10, "Moves after each block.", 0)
@example(do_sample=True, power_alpha=4.0, seed=1)
def power_sampling(job: Job) -> Iterator[Step]:
    """Draws from p^alpha of whole texts, by Markov chain: Metropolis-Hastings, a new
    suffix with probability min(1, A).

    p is what the chain makes of the model. Block by block: power_block tokens are added
    from the proposal (temperature 1/alpha), then power_steps times a place m is drawn
    evenly from the new text x and everything from m on proposed anew; the proposal x'
    replaces x with probability min(1, A), A = (p(x')/p(x))^alpha q(x | x')/q(x' | x)
    |x|/|x'|. The law is p^alpha in the limit of many moves; how far ten stay from it is
    in docs/sampling.md. Source: Karan and Du, "Reasoning with Sampling: Your Base Model
    is Smarter Than You Think" (2025, arXiv:2510.14901).
    """
    job.check_search("power sampling")
    job.check_selector("power sampling")
    chains = (_Chain(job, row) for row in job.rows() if job.options.max_new_tokens)
    return (step for c in chains for step in steps_of(c.row, c.hypothesis(c.run())))


class _Chain:
    """One Markov chain over the texts of one row."""

    def __init__(self, job: Job, row: Row):
        self.job, self.row, self.options = job, row, job.options
        self.alpha, self.cache = job.options.power_alpha, job.cache_of(row)
        self.moves = 0

    def run(self) -> Draw:
        """Grow block by block, with moves after each."""
        draw, size = Draw([], [], []), self.options.power_block
        for length in range(size, self.row.most + size, size):
            length = min(length, self.row.most)
            if not draw.ids or self.row.end_after(draw.ids) is None:
                draw = self.propose(draw, len(draw.ids), length)
            for _ in range(self.options.power_steps):
                draw = self.move(draw, length)
        return draw

    def move(self, x: Draw, length: int) -> Draw:
        """One Metropolis-Hastings move on texts of at most `length` new tokens."""
        self.moves += 1
        where, chance = self.row.context_at(0).uniforms(2, MOVE * self.moves)
        m = int(where * len(x.ids))
        y = self.propose(x, m, length)
        ratio = (
            self.alpha * (sum(y.logp[m:]) - sum(x.logp[m:]))
            + sum(x.proposal[m:])
            - sum(y.proposal[m:])
            + np.log(len(x.ids) / len(y.ids))
        )
        return y if chance == 0 or np.log(chance) < ratio else x

    def propose(self, x: Draw, m: int, length: int) -> Draw:
        """x up to place m, then tokens from the proposal p^alpha of each step."""
        y = Draw(x.ids[:m], x.logp[:m], x.proposal[:m])
        while len(y.ids) < length:
            context = self.row.context_at(len(y.ids))
            z = self.row.processed(self._logits(self.row.ids + y.ids), y.ids)
            lp = log_probabilities(z).astype(np.float64)
            q = log_probabilities(np.where(lp > -np.inf, self.alpha * lp, lp))
            id = ancestral(q, context, MOVE * self.moves + 2)
            y.ids.append(id)
            y.logp.append(float(lp[id]))
            y.proposal.append(float(q[id]))
            if self.row.end_after(y.ids) in ("eos", "stop"):
                break
        return y

    def hypothesis(self, draw: Draw) -> Hypothesis:
        """The finished text, scored by its log p."""
        picks = []
        for i, (id, logp) in enumerate(zip(draw.ids, draw.logp, strict=True)):
            lp = log_probabilities(self._logits(self.row.ids + draw.ids[:i]))
            picks.append(pick(lp, id, logp, self.options.top_logprobs))
        reason = self.row.end_after(draw.ids) or "length"
        return Hypothesis(tuple(picks), float(sum(draw.logp)), reason)

    def _logits(self, ids: Sequence[int]) -> np.ndarray:
        return self.job.model.next_logits(
            [keep_common(self.cache, 0, ids)], self.cache
        )[0]
