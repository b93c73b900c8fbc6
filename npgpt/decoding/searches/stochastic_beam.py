"""Stochastic beam search: k different texts, drawn without replacement from the model.

A beam search by Gumbel-perturbed log-probabilities. The k texts are exact draws from
the law of whole texts, in the order of drawing; no length penalty belongs to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npgpt.decoding import randomness
from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row
from npgpt.decoding.searches.beam import BeamSearch
from npgpt.decoding.searches.hypotheses import Hypothesis
from npgpt.decoding.selectors import gumbel_noise
from npgpt.ops import log_softmax


@strategy("G4", "stochastic beam search", kind="part", also=("num_beams",))
@parameter("stochastic_beams", False, "On or off.")
@fields(deterministic=False)
@example(num_beams=3, stochastic_beams=True, num_return_sequences=3)
class StochasticBeamSearch(BeamSearch):
    """Different texts, drawn without replacement: the k largest Gumbel-perturbed sums G
    of log p.

    A beam carries phi = log p(text so far) and G, a Gumbel variable with location phi.
    Its children v get G_v ~ Gumbel(phi_v), conditioned on their maximum being G:
    g_v = phi_v + Gumbel, Z = max g, u = G - g_v + log(1 - exp(g_v - Z)),
    G_v = G - max(0, u) - log(1 + exp(-|u|)). Finished texts keep their G and stay in
    the competition. The score of a text is its G. Source: Kool, van Hoof and Welling,
    "Stochastic Beams and Where to Find Them" (2019, arXiv:1903.06059).
    """

    def __init__(self, job: Job, row: Row):
        super().__init__(job, row)  # a beam's score is phi
        u = row.context.uniforms(1, randomness.PROCESSOR)
        self.keys = gumbel_noise(u).tolist()  # G, one a beam

    def advance(self, z: np.ndarray) -> None:
        """Children of all beams, and the k best of them and of the finished texts."""
        raw, lp = self.processed(z)
        lp = log_softmax(lp.astype(np.float64))  # a law: what the chain left sums to 1
        u = self.row.context_at(len(self.running[0].picks) + 1).uniforms(lp.size)
        noise = gumbel_noise(u).reshape(lp.shape)
        found: list[tuple[float, Any]] = [(text.score, text) for text in self.finished]
        for i, beam in enumerate(self.running):
            keys = conditioned(beam.score + lp[i] + noise[i], self.keys[i])
            best = np.argsort(-keys, kind="stable")[: self.num_beams]
            found += [(float(keys[v]), (i, int(v))) for v in best if keys[v] > -np.inf]
        found.sort(key=lambda entry: -entry[0])
        self.finished, running, self.keys = [], [], []
        for key, entry in found[: self.num_beams]:
            if isinstance(entry, Hypothesis):
                self.finished.append(entry)
                continue
            i, v = entry
            score = self.running[i].score + float(lp[i, v])
            beam = self.grown(raw, lp, (score, i, v))
            reason = self.row.end_after(beam.ids)
            if reason:
                self.finished.append(beam._replace(score=key, finish_reason=reason))
            else:
                running.append(beam)
                self.keys.append(key)
        self.running, self.done = running, not running


def conditioned(g: np.ndarray, maximum: float) -> np.ndarray:
    """Gumbel variables g (V,) moved so that their largest is `maximum`.

    >>> conditioned(np.array([1.0, 0.0, -np.inf]), 5.0).round(4).tolist()
    [5.0, 0.4481, -inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # At the largest g the logarithm is of 0: u = -inf, which gives `maximum`.
        u = maximum - g + np.log1p(-np.exp(g - g.max()))
        moved = maximum - np.maximum(u, 0) - np.log1p(np.exp(-np.abs(u)))
    return np.where(g > -np.inf, moved, -np.inf)
