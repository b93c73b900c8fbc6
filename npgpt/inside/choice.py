"""What each element of a chain does to one next-token distribution, and its figure.

`npgpt sample --show` prints it; nothing is written on a screen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npgpt.decoding.chain import build_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, entropy, probabilities
from npgpt.decoding.selection import build_selector
from npgpt.decoding.selectors import gumbel_noise
from npgpt.interface import Model, Tokens
from npgpt.support.figure import DARK, GREY, LIGHT, MONOSPACE, PALE, RED
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
    """One step under the lens: the stages, the numbers drawn, the token taken."""

    stages: tuple[Stage, ...]  # the model's own first
    selector: str
    u: float | None  # of inverse_cdf; None where no one number decides
    noise: np.ndarray | None  # (V,) of gumbel_max; None where there is none
    token_id: int
    interval: tuple[float, float]  # the token's slice of the cumulative distribution
    tokenizer: Tokens | None = field(default=None, compare=False)

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
        if self.noise is not None:
            return (
                f"{self.selector} adds noise to every ln p and takes {token}: "
                f"{self.sum_of(self.token_id)} is the largest sum"
            )
        if self.u is None:
            return f"{self.selector} takes {token}"
        return (
            f"{self.selector} drew u = {self.u:.4f} and takes {token}, whose slice of "
            f"the last distribution is {low:.4f} to {high:.4f}"
        )

    def key(self, id: int) -> tuple[float, float]:
        """A token's ln p under the last distribution, and its noise."""
        assert self.noise is not None
        return math.log(self.stages[-1].p[id]), float(self.noise[id])

    def sum_of(self, id: int) -> str:
        """What gumbel_max compares, written out."""
        logp, noise = (round(x, 3) for x in self.key(id))
        sign = "-" if noise < 0 else "+"
        return f"{logp:.3f} {sign} {abs(noise):.3f} = {logp + noise:.3f}"

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
    model: Model, prompt: Sequence[int], options: GenerationConfig, row: int = 0
) -> Choice:
    """The first step of `generate` with these options, stage by stage."""
    start = heal(prompt, model.tokenizer, options)
    z = model.next_logits([start.ids], model.new_cache(1))[0]
    context = Context(len(start.ids), 0, options.seed, row, prefix=start.prefix)
    return judge(model, start.ids, z, context, options)[0]


def judge(
    model: Model,
    ids: Sequence[int],
    z: np.ndarray,
    context: Context,
    options: GenerationConfig,
    *state: Any,
) -> tuple[Choice, Any]:
    """Any step, from the model's logits (V,), and the selector's next state.

    state: what the selector remembers of the steps before, at the first step nothing.
    """
    eos = options.eos_ids(model.config)
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    stages = [_stage("the model", None, z)]
    for rule in chain:
        before, z = z, rule.apply(ids, z, context)
        stages.append(_stage(str(rule), before, z))
    selector = build_selector(options)
    memory = state[0] if state else selector.start(context)
    id, memory = selector.choose(ids, z, context, memory)
    F = np.cumsum(stages[-1].p)
    interval = (float(F[id] - stages[-1].p[id]), float(F[id]))
    u = context.uniform() if selector.name == "inverse_cdf" else None
    noise = None
    if selector.name == "gumbel_max":
        noise = gumbel_noise(context.uniforms(len(z)))
    who = model.tokenizer
    choice = Choice(tuple(stages), str(selector), u, noise, id, interval, who)
    return choice, memory


def _stage(name: str, before: np.ndarray | None, z: np.ndarray) -> Stage:
    p, cut, rescaled = probabilities(z), 0.0, False
    if before is not None:
        q = probabilities(before)
        both = (p > 0) & (q > 0)
        cut = float(q[p == 0].sum())
        ratio = p[both] / q[both]
        rescaled = bool(np.ptp(ratio) > 1e-4 * ratio.max()) if both.any() else False
    return Stage(name, p, int((z > -np.inf).sum()), entropy(z), cut, rescaled)


def plot_choice(choice: Choice, prompt: str, shown: Sequence[int]) -> Any:
    """The stages as bars side by side on one scale, outlined where they stood before.

    The token taken is dark. Last, what decides: the noise beside ln p, or below the
    slices of [0, 1] and the uniform number among them.
    """
    from matplotlib.figure import Figure

    n, drawn = len(choice.stages), choice.u is not None
    if choice.noise is not None:
        n += 1
    bars, below = 0.28 * len(shown) + 0.9, 0.75 if drawn else 0.0
    figure = Figure(figsize=(2.6 * n + 1.2, bars + below + 0.6), layout="constrained")
    ratios = [bars, below] if drawn else [bars]
    grid = figure.add_gridspec(len(ratios), n, height_ratios=ratios)
    axes: list[Any] = []
    for i in range(len(choice.stages)):
        first = axes[0] if axes else None
        axes.append(figure.add_subplot(grid[0, i], sharex=first, sharey=first))
    before = choice.stages[0].p
    for axis, stage in zip(axes, choice.stages, strict=True):
        _draw_stage(axis, stage, before, shown, choice.token_id)
        before = stage.p
        axis.tick_params(labelsize=8, labelleft=axis is axes[0])
    labels = [repr(choice.text(id)) for id in shown]
    axes[0].set_yticks(range(len(shown)), labels, **MONOSPACE)
    axes[0].invert_yaxis()
    if choice.noise is not None:
        _draw_noise(figure.add_subplot(grid[0, -1], sharey=axes[0]), choice, shown)
    if drawn:
        _draw_uniform(figure.add_subplot(grid[1, :]), choice)
    title = f"{prompt!r}: {choice.sentence}"
    figure.suptitle(title, fontsize=9, wrap=True, parse_math=False)
    return figure


def _draw_stage(
    axis: Any, stage: Any, before: np.ndarray, shown: Sequence[int], taken: int
) -> None:
    """Bars of one stage; what it changed is outlined, what it removed is marked."""
    places = range(len(shown))
    colors = [DARK if id == taken else LIGHT for id in shown]
    axis.barh(places, stage.p[shown], color=colors)
    axis.barh(places, before[shown], fill=False, edgecolor=GREY, linewidth=0.6)
    for place, id in enumerate(shown):
        if stage.p[id] == 0:
            axis.text(
                before[id],
                place,
                " cut",
                fontsize=7,
                color=RED,
                verticalalignment="center",
            )
    what = f"cut {stage.cut:.1%}" if stage.cut > 0 else ""
    what = ", ".join(word for word in (what, "rescaled" * stage.rescaled) if word)
    axis.set_title(f"{stage.name}\n{stage.left:,} tokens\n{what}", fontsize=9)
    axis.set_xlabel("probability", fontsize=8)


def _draw_noise(axis: Any, choice: Choice, shown: Sequence[int]) -> None:
    """What gumbel_max compares: bars from ln p to ln p + noise, and the largest sum."""
    for place, id in enumerate(shown):
        if choice.stages[-1].p[id] > 0:
            logp, noise = choice.key(id)
            color = DARK if id == choice.token_id else LIGHT
            axis.barh(place, noise, left=logp, color=color)
    axis.axvline(sum(choice.key(choice.token_id)), color=RED, linewidth=1.2)
    axis.tick_params(labelsize=8, labelleft=False)
    axis.set_title("the draw\nthe largest sum", fontsize=9)
    axis.set_xlabel("from ln p to ln p + noise", fontsize=8)


def _draw_uniform(axis: Any, choice: Choice) -> None:
    """The slices of the last distribution, in the order of ids, and u."""
    p = choice.stages[-1].p
    ends = np.cumsum(p)
    for i, id in enumerate(np.flatnonzero(p > 1e-3)):  # thinner ones cannot be seen
        color = DARK if id == choice.token_id else (LIGHT, PALE)[i % 2]
        axis.barh(0, p[id], left=ends[id] - p[id], color=color)
    low, high = choice.interval
    axis.barh(0, high - low, left=low, color=DARK)
    axis.axvline(choice.u, color=RED, linewidth=1.2)
    axis.set_xlim(0, 1)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    axis.set_xlabel(
        f"the last distribution, in the order of ids; u = {choice.u:.4f}", fontsize=8
    )
