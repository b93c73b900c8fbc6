"""Which tokens an answer hangs on: gradient x input, and integrated gradients.

The derivatives are those that training takes (npgpt.training.gradients). What is
attributed are the token embeddings, wte; the embeddings of places stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt import gpt2
from npgpt.backend import NUMPY
from npgpt.errors import InsideError
from npgpt.inside.lenses.grid import Grid, Law
from npgpt.inside.lenses.target import (
    Prompt,
    Target,
    Token,
    labels,
    logits,
    place,
    target,
    written,
)
from npgpt.inside.trace import plain
from npgpt.support.arguments import checked, shown
from npgpt.training.gradients import loss_and_gradients

BASELINES = ("zero", "mean")
AT_ONCE = 16  # points of the path that are read together


class Embeddings:
    """A tap that puts other token embeddings in, and keeps the gradient of them."""

    def __init__(self, wte: np.ndarray):
        self.wte, self.gradient = wte, np.zeros_like(wte)

    def wants(self, name: str) -> bool:
        """The token embeddings."""
        return name == "wte"

    def __call__(self, name: str, array: Any) -> Any:
        """The other ones."""
        return self.wte.astype(array.dtype) if name == "wte" else array

    def backward(self, name: str, gradient: Any) -> Any:
        """Keep dE/d(wte + wpe), which is dE/d(wte)."""
        if name == "embed":
            self.gradient = np.array(gradient, np.float64)
        return gradient


def gradient_input(
    model: Any,
    prompt: Prompt,
    *,
    token: Token | None = None,
    against: Token | None = None,
    at: int = -1,
) -> Grid:
    """Gradient x input: the slope of the answer along each token's embedding.

    a_t = sum_c x_tc df/dx_tc, where x is wte and f the token's log-probability in nats,
    or with `against` the lead of its logit. Of a function that is not linear the a_t
    add up to nothing in particular. Source: Shrikumar et al., "Not Just a Black Box"
    (2016).
    """
    ids = model.encode(prompt)
    at = place(ids, at)
    goal = target(model, logits(model, ids)[at], token, against, at)
    params = plain(model.params, model.backend)
    x = params.wte.weight[ids].astype(np.float64)
    values = (x * slopes(params, ids, goal, x[None])[0]).sum(-1)
    return _grid("gradient", "Gradient x input", model, ids, goal, values)


@checked(InsideError)
def integrated_gradients(
    model: Any,
    prompt: Prompt,
    *,
    token: Token | None = None,
    against: Token | None = None,
    at: int = -1,
    points: int = 32,
    baseline: str = "zero",
) -> Grid:
    """Integrated gradients: how the answer grows as the tokens' embeddings come in.

    a_t = sum_c (x - y)_tc int_0^1 df/dx_tc(y + u (x - y)) du. They add up to f(x) -
    f(y), and the law says how nearly so with so many points of the path (Gauss and
    Legendre's). y is 0, or the mean of all rows of wte. Source: Sundararajan, Taly and
    Yan, "Axiomatic Attribution for Deep Networks" (2017).
    """
    if baseline not in BASELINES:
        raise InsideError(f"baseline is zero or mean, not {shown(baseline)}")
    if not isinstance(points, int) or not 1 <= points <= 4096:
        raise InsideError(f"points must be 1 to 4096, not {shown(points)}")
    ids = model.encode(prompt)
    at = place(ids, at)
    goal = target(model, logits(model, ids)[at], token, against, at)
    params = plain(model.params, model.backend)
    x = params.wte.weight[ids].astype(np.float64)
    y = np.zeros_like(x)
    if baseline == "mean":
        y += params.wte.weight.mean(0, np.float64)
    places, weights = np.polynomial.legendre.leggauss(points)
    gradient = np.zeros_like(x)
    for first in range(0, points, AT_ONCE):
        u = (places[first : first + AT_ONCE] + 1) / 2
        path = y + u[:, None, None] * (x - y)
        w = weights[first : first + AT_ONCE] / 2
        gradient += np.tensordot(w, slopes(params, ids, goal, path), 1)
    values = ((x - y) * gradient).sum(-1)
    ends = [_answer(params, ids, goal, one) for one in (x, y)]
    law = Law(
        f"change from the baseline ({baseline})",
        ends[0] - ends[1],
        float(values.sum()),
        0.01 * float(np.abs(values).sum()),
    )
    return _grid("integrated", "Integrated gradients", model, ids, goal, values, law)


def slopes(
    params: gpt2.GPT2Params, ids: Sequence[int], goal: Target, wte: np.ndarray
) -> np.ndarray:
    """df/d(wte) (B, T, C) of the answer f, for B texts of other token embeddings."""
    total = np.zeros(wte.shape)
    signs = {goal.token: -1.0}  # the loss is -log p
    if goal.against is not None:
        signs[goal.against] = 1.0
    for token, sign in signs.items():
        targets = np.full((len(wte), len(ids)), -1)
        targets[:, goal.at] = token
        tap = Embeddings(wte)
        loss_and_gradients(
            params,
            np.tile(ids, (len(wte), 1)),
            targets,
            backend=NUMPY,
            tap=tap,
            ignore_index=-1,
            count=1,  # each text for itself
            tables=False,
        )
        total += sign * tap.gradient
    return total


def _answer(
    params: gpt2.GPT2Params, ids: Sequence[int], goal: Target, wte: np.ndarray
) -> float:
    hidden = gpt2.hidden_states(
        params, np.array([ids]), backend=NUMPY, tap=Embeddings(wte[None])
    )
    z = gpt2.logits(params, hidden, backend=NUMPY)
    return goal.measure(np.asarray(z[0, goal.at], np.float64))


def _grid(
    lens: str,
    title: str,
    model: Any,
    ids: Sequence[int],
    goal: Target,
    values: np.ndarray,
    law: Law | None = None,
) -> Grid:
    return Grid(
        lens,
        f"{title}: what each token has to do with the {goal.measured} after token "
        f"{goal.at} ({written(model, ids[goal.at])}).",
        labels(model, ids),
        (goal.text,),
        values[:, None],
        law=law,
    )
