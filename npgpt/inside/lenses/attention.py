"""What heads look at: three habits that have names, and rollout through all layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from npgpt.errors import InsideError
from npgpt.inside.lenses.grid import Grid
from npgpt.inside.lenses.target import Prompt, labels
from npgpt.support.arguments import shown

HABITS = {
    "previous token": "Weight on the token before",
    "duplicate token": "Weight on the same token, where it stood before",
    "induction": "Weight on what followed the same token, where it stood before",
}


def head_scores(
    model: Any, *, length: int | None = None, rows: int = 4, seed: int = 0
) -> tuple[Grid, Grid, Grid]:
    """How much every head looks where three known kinds of head look, layer x head.

    The text is `length` random tokens (20, or as many as fit), none twice, and then the
    same once more (behind the model's bos, if it has one), so nothing but the
    repetition can be of use. A score is the mean weight: from each token on the one
    before; and from each token of the second half on itself in the first, and on what
    followed it there. Source: Olsson et al., "In-context Learning and Induction Heads"
    (2022).
    """
    config = model.config
    begin = [] if config.bos_token_id is None else [config.bos_token_id]
    first = len(begin)
    most = min((config.n_positions - first) // 2, config.vocab_size)
    length = min(20, most) if length is None else length
    if not (_whole(length, 2) and length <= most):
        raise InsideError(f"length must be 2 to {most} here, not {shown(length)}")
    if not _whole(rows, 1) or not _whole(seed, 0):
        raise InsideError("rows must be 1 or more, and seed 0 or more, whole numbers")
    rng = np.random.default_rng(seed)
    ids = []
    for _ in range(rows):
        half = rng.choice(config.vocab_size, length, replace=False).tolist()
        ids.append([*begin, *half, *half])
    with model.trace("h.*.attn.weights") as trace:
        model.logits(ids)
    every = range(1, len(ids[0]))
    second = range(first + length, first + 2 * length)
    looked = {  # from these tokens, so far back
        "previous token": (every, 1),
        "duplicate token": (second, length),
        "induction": (second, length - 1),
    }
    grids = []
    for habit, (tokens, back) in looked.items():
        t = np.array(tokens)
        values = [
            trace[f"h.{i}.attn.weights"]
            .array[:, :, t, t - back]
            .mean((0, 2), np.float64)
            for i in range(config.n_layer)
        ]
        grids.append(
            Grid(
                habit,
                f"{HABITS[habit]} ({rows} texts of {length} random tokens, twice).",
                tuple(f"layer {i}" for i in range(config.n_layer)),
                tuple(f"head {h}" for h in range(config.n_head)),
                np.array(values),
            )
        )
    return grids[0], grids[1], grids[2]


def rollout(model: Any, prompt: Prompt, *, layers: int | None = None) -> Grid:
    """From which token what a position holds has come, after so many layers (all).

    R_l = (A_l / 2 + I / 2) R_{l-1}: A_l the weights, their mean over heads, and half of
    everything stays where it is by way of the stream. It takes all that is seen to be
    passed on alike, whatever values and MLPs do with it. Rows are the tokens that
    look; each adds up to 1. Source: Abnar and Zuidema, "Quantifying Attention Flow in
    Transformers" (2020).
    """
    ids, n = model.encode(prompt), model.config.n_layer
    layers = n if layers is None else layers
    if not _whole(layers, 0) or layers > n:
        raise InsideError(f"layers must be 0 to {n}, not {shown(layers)}")
    with model.trace("h.*.attn.weights") as trace:
        model.logits([ids])
    stay = rolled = np.eye(len(ids))
    for i in range(layers):
        weights = trace[f"h.{i}.attn.weights"].array[0].mean(0, np.float64)
        rolled = (weights / 2 + stay / 2) @ rolled
    names = labels(model, ids)
    caption = f"Rollout of attention through {layers} layers: rows look at columns."
    return Grid("rollout", caption, names, names, rolled.copy())


def _whole(value: Any, least: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and value >= least
