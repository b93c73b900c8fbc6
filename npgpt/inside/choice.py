"""What each element of a chain does to one next-token distribution: the data to show.

Nothing is drawn on a screen here: `npgpt sample --show` and figures read this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.chain import build_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, entropy, probabilities
from npgpt.decoding.selection import build_selector


@dataclass(frozen=True)
class Stage:
    """The distribution p (V,) after one element, and what the element did."""

    name: str
    p: np.ndarray
    left: int
    entropy: float  # nats
    cut: float  # probability of the tokens that this element removed
    rescaled: bool  # whether ratios between tokens that stayed have changed


@dataclass(frozen=True)
class Choice:
    """One step under the lens: the stages, the uniform drawn, the token taken."""

    stages: tuple[Stage, ...]  # the model's own first
    selector: str
    u: float | None  # None where no one number decides
    token_id: int
    interval: tuple[float, float]  # the token's slice of the cumulative distribution


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
    return Choice(tuple(stages), str(selector), u, id, interval)


def _stage(name: str, before: np.ndarray | None, z: np.ndarray) -> Stage:
    p, cut, rescaled = probabilities(z), 0.0, False
    if before is not None:
        q = probabilities(before)
        both = (p > 0) & (q > 0)
        cut = float(q[p == 0].sum())
        ratio = p[both] / q[both]
        rescaled = bool(np.ptp(ratio) > 1e-4 * ratio.max()) if both.any() else False
    return Stage(name, p, int((z > -np.inf).sum()), entropy(z), cut, rescaled)
