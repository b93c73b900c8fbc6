"""What each element of a chain does to one next-token distribution: the data to show.

Nothing is drawn on a screen here: `npgpt sample --show` and figures read this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npgpt.decoding.chain import build_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, entropy, probabilities
from npgpt.decoding.selection import build_selector
from npgpt.support.notebook import table


@dataclass(frozen=True)
class Stage:
    """The distribution p (V,) after one element, and what the element did."""

    name: str
    p: np.ndarray
    left: int
    entropy: float  # nats
    cut: float  # probability of the tokens that this element removed
    rescaled: bool  # whether ratios between tokens that stayed have changed

    @property
    def sentence(self) -> str:
        """What is left, and what was done, in words."""
        words = [f"{self.left:,} tokens", f"entropy {self.entropy:.2f} nats"]
        if self.cut > 0:
            words.append(f"cut {self.cut:.1%} of the probability")
        words.append("rescaled" if self.rescaled else "")
        return ", ".join(word for word in words if word)

    def __repr__(self) -> str:
        return f"Stage({self.name}: {self.sentence})"


@dataclass(frozen=True)
class Choice:
    """One step under the lens: the stages, the uniform drawn, the token taken."""

    stages: tuple[Stage, ...]  # the model's own first
    selector: str
    u: float | None  # None where no one number decides
    token_id: int
    interval: tuple[float, float]  # the token's slice of the cumulative distribution
    tokenizer: Any = field(default=None, compare=False)

    def text(self, id: int) -> str:
        """The text of a token, or its id where there is no tokenizer."""
        return f"<{id}>" if self.tokenizer is None else self.tokenizer.decode([id])

    def best(self, n: int) -> list[int]:
        """The model's best n tokens, and the one taken if it is not among them."""
        best = np.argsort(-self.stages[0].p, kind="stable")[:n].tolist()
        return best if self.token_id in best else [*best, self.token_id]

    @property
    def sentence(self) -> str:
        """Which token was taken, and how, in words."""
        low, high = self.interval
        token = repr(self.text(self.token_id))
        if self.u is None:
            return f"{self.selector} takes {token}"
        return (
            f"{self.selector} drew u = {self.u:.4f} and takes {token}, whose slice of "
            f"the last distribution is {low:.4f} to {high:.4f}"
        )

    def __repr__(self) -> str:
        names = " > ".join(stage.name for stage in self.stages)
        return f"Choice({names}: {self.sentence})"

    def _repr_html_(self) -> str:
        """The stages side by side: probabilities of the best tokens, what was cut."""
        rows = [
            [
                ("▶ " if id == self.token_id else "") + repr(self.text(id)),
                *(f"{s.p[id]:.4f}" if s.p[id] > 0 else "cut" for s in self.stages),
            ]
            for id in self.best(10)
        ]
        rows.append(["", *(stage.sentence for stage in self.stages)])
        head = ["token", *(stage.name for stage in self.stages)]
        return table(head, rows, self.sentence)


def look(
    model: Any, prompt: Sequence[int], options: GenerationConfig, row: int = 0
) -> Choice:
    """The first step of `generate` with these options, stage by stage."""
    eos = options.eos_ids(model.config)
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    start = heal(prompt, model.tokenizer, options)
    z = model.next_logits([start.ids], model.new_cache(1))[0]
    context = Context(len(start.ids), 0, options.seed, row, prefix=start.prefix)
    stages = [_stage("the model", None, z)]
    for rule in chain:
        before, z = z, rule.apply(start.ids, z, context)
        stages.append(_stage(str(rule), before, z))
    selector = build_selector(options)
    id, _ = selector.choose(start.ids, z, context, selector.start(context))
    one = selector.name in ("inverse_cdf", "mirostat", "mirostat_v2", "adaptive_p")
    F = np.cumsum(stages[-1].p)
    interval = (float(F[id] - stages[-1].p[id]), float(F[id]))
    u = context.uniform() if one else None
    return Choice(tuple(stages), str(selector), u, id, interval, model.tokenizer)


def _stage(name: str, before: np.ndarray | None, z: np.ndarray) -> Stage:
    p, cut, rescaled = probabilities(z), 0.0, False
    if before is not None:
        q = probabilities(before)
        both = (p > 0) & (q > 0)
        cut = float(q[p == 0].sum())
        ratio = p[both] / q[both]
        rescaled = bool(np.ptp(ratio) > 1e-4 * ratio.max()) if both.any() else False
    return Stage(name, p, int((z > -np.inf).sum()), entropy(z), cut, rescaled)
