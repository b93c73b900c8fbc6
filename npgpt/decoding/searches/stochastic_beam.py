"""Stochastic beam search: k different texts, drawn without replacement from the model.

A beam search by Gumbel-perturbed log-probabilities. The k texts are exact draws from
the law of whole texts, in the order of drawing; no length penalty belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from npgpt.decoding import randomness
from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Rule
from npgpt.decoding.searches.beam import Beam, processed
from npgpt.decoding.searches.hypotheses import Ends, Hypothesis, pick
from npgpt.ops import log_softmax


@strategy("G4", "stochastic beam search", kind="part", also=("num_beams",))
@parameter("stochastic_beams", False, "On or off.")
@example(num_beams=3, stochastic_beams=True, num_return_sequences=3)
@dataclass
class StochasticBeamSearch:
    """Different texts, drawn without replacement: the k largest Gumbel-perturbed sums G
    of log p.

    A beam carries phi = log p(text so far) and G, a Gumbel variable with location phi.
    Its children v get G_v ~ Gumbel(phi_v), conditioned on their maximum being G:
    g_v = phi_v + Gumbel, Z = max g, u = G - g_v + log(1 - exp(g_v - Z)),
    G_v = G - max(0, u) - log(1 + exp(-|u|)). Finished texts keep their G and stay in
    the competition. The score of a text is its G. Source: Kool, van Hoof and Welling,
    "Stochastic Beams and Where to Find Them" (2019, arXiv:1903.06059).
    """

    prompt: Sequence[int]
    chain: Sequence[Rule]
    options: GenerationConfig
    ends: Ends
    num_beams: int
    running: list[Beam] = field(default_factory=list)
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def __post_init__(self):
        self.running = [Beam(list(self.prompt))]  # score is phi
        u = randomness.uniform(self.options.seed, 0, 0, randomness.PROCESSOR)
        self.keys = [float(-np.log(-np.log(u + 2.0**-54)))]  # G, one a beam

    def advance(self, z: np.ndarray) -> None:
        """Children of all beams, and the k best of them and of the finished texts."""
        t = len(self.running[0].picks) + 1
        raw, lp, context = processed(self, z, t)
        lp = log_softmax(lp.astype(np.float64))  # a law: what the chain left sums to 1
        V = lp.shape[1]
        u = randomness.uniforms(
            context.seed, 0, t, randomness.TOKEN, len(self.running) * V
        )
        noise = -np.log(-np.log(u + 2.0**-54)).reshape(-1, V)
        found = []
        for i, beam in enumerate(self.running):
            keys = conditioned(beam.score + lp[i] + noise[i], self.keys[i])
            for v in np.argsort(-keys, kind="stable")[: self.num_beams]:
                if keys[v] > -np.inf:
                    found.append((float(keys[v]), i, int(v)))
        competing = [(text.score, text) for text in self.finished]
        competing += [(key, (i, v)) for key, i, v in found]
        competing.sort(key=lambda entry: -entry[0])
        self.finished, running, self.keys = [], [], []
        for key, entry in competing[: self.num_beams]:
            if isinstance(entry, Hypothesis):
                self.finished.append(entry)
                continue
            i, v = entry
            before = self.running[i]
            taken = pick(raw[i], v, lp[i, v], self.options.top_logprobs)
            picks = (*before.picks, taken)
            reason = self.ends.reason([p.token_id for p in picks])
            if reason:
                self.finished.append(Hypothesis(picks, key, reason))
            else:
                score = before.score + float(lp[i, v])
                running.append(Beam([*before.ids, v], score, picks, i))
                self.keys.append(key)
        self.running, self.done = running, not running

    def results(self) -> list[Hypothesis]:
        """The texts, in the order in which they were drawn."""
        return sorted(self.finished, key=lambda text: -text.score)


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
