"""Recipes of GPT-2: how every intermediate of the forward pass is made, as data.

One line a tap, in the order of the pass: its axes, its formula (npgpt.inside.formula),
the function that computes it, and what it means. Axis letters are those of npgpt.ops,
in small: b, t (new positions), s (all), h, d, c (width; e where it comes twice), m (the
MLP's inner width), j (queries, keys and values side by side), v. Names are looked up
from the tap outwards, so `weight` in the norm h.3.ln_1 is h.3.ln_1.weight; x is what
streams into the tap's half of the block.

Virtual taps are computed on the way and not tapped: a norm's mean, variance and rstd,
a softmax's max and sum, the unsplit c_attn. Traces, `why`, `verify`, the stepper and
the page all read this table, and none explains by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from npgpt import ops
from npgpt.activations import ACTIVATIONS
from npgpt.config import GPT2Config
from npgpt.inside.formula import Node, names, parse, renamed
from npgpt.inside.given import GIVEN, PARAMETERS

Arrays = Callable[[str], np.ndarray]  # by a name as the formula has it


class Recipe(NamedTuple):
    """How one tap is made: tap[axes] = formula."""

    axes: str
    formula: str
    function: Callable[..., Any] | None  # None: an addition
    meaning: str
    virtual: Callable[[Arrays], np.ndarray] | None = None  # computes what is not tapped


class Bound(NamedTuple):
    """A recipe of one layer, its names found."""

    name: str
    letters: tuple[str, ...]
    short: Node  # as it is written
    node: Node  # with every array under its full name
    function: Callable[..., Any] | None
    meaning: str
    virtual: Callable[[Arrays], np.ndarray] | None
    full: dict[str, str]  # name in the formula -> full name


def _norm(place: str, what: str) -> dict[str, Recipe]:
    """The recipes of a layer norm."""
    return {
        f"{place}.mean": Recipe(
            "b t",
            "mean[c](x[b,t,c])",
            ops.layer_norm,
            "The mean of the stream at {t}.",
            lambda array: array("x").mean(-1),
        ),
        f"{place}.variance": Recipe(
            "b t",
            "mean[c]((x[b,t,c] - mean[b,t]) ** 2)",
            ops.layer_norm,
            "The variance of the stream at {t}.",
            lambda array: array("x").var(-1),
        ),
        f"{place}.rstd": Recipe(
            "b t",
            "1 / sqrt(variance[b,t] + epsilon)",
            ops.layer_norm,
            "What brings the stream at {t} to variance 1.",
            lambda array: 1 / np.sqrt(array("variance") + array("epsilon")),
        ),
        place: Recipe(
            "b t c",
            "(x[b,t,c] - mean[b,t]) * rstd[b,t] * weight[c] + bias[c]",
            ops.layer_norm,
            f"Feature {{c}} of {{t}}, normalised for {what}.",
        ),
    }


def _part(name: str, first: str, role: str) -> dict[str, Recipe]:
    """The recipe of queries, keys or values: a part of the unsplit projection."""
    return {
        f"h.{{i}}.attn.{name}": Recipe(
            "b h t d",
            f"c_attn[b,t,{first}h * D + d]",
            ops.split_heads,
            f"Number {{d}} of the {role} of {{t}} in head {{h}}.",
        )
    }


RECIPES: dict[str, Recipe] = {
    "wte": Recipe(
        "b t c",
        "wte.weight[token[b,t],c]",
        ops.embedding,
        "Feature {c} of the embedding of {t}.",
    ),
    "wpe": Recipe(
        "b t c",
        "wpe.weight[position[b,t],c]",
        ops.embedding,
        "Feature {c} of the embedding of the place of {t}.",
    ),
    "embed": Recipe(
        "b t c",
        "wte[b,t,c] + wpe[b,t,c]",
        None,
        "Feature {c} of {t} and its place: the stream begins.",
    ),
    **_norm("h.{i}.ln_1", "attention"),
    "h.{i}.attn.c_attn": Recipe(
        "b t j",
        "sum[c](ln_1[b,t,c] * c_attn.weight[c,j]) + c_attn.bias[j]",
        ops.linear,
        "Number {j} of queries, keys and values of {t}, side by side.",
        lambda array: ops.linear(
            array("ln_1"), array("c_attn.weight"), array("c_attn.bias")
        ),
    ),
    **_part("q", "", "query"),
    **_part("k", "C + ", "key"),
    **_part("v", "2 * C + ", "value"),
    "h.{i}.attn.scores": Recipe(
        "b h t s",
        "sum[d](q[b,h,t,d] * k[b,h,s,d]) * scale if sees[b,t,s] else minus_infinity",
        ops.attention_scores,
        "How well the query of {t} matches the key of {s}, in head {h}.",
    ),
    "h.{i}.attn.weights.max": Recipe(
        "b h t",
        "max[s](scores[b,h,t,s])",
        ops.softmax,
        "The best score of {t} in head {h}.",
        lambda array: array("scores").max(-1),
    ),
    "h.{i}.attn.weights.sum": Recipe(
        "b h t",
        "sum[s](exp(scores[b,h,t,s] - max[b,h,t]))",
        ops.softmax,
        "What the weights of {t} in head {h} are divided by.",
        lambda array: np.exp(array("scores") - array("max")[..., None]).sum(-1),
    ),
    "h.{i}.attn.weights": Recipe(
        "b h t s",
        "exp(scores[b,h,t,s] - max[b,h,t]) / sum[b,h,t]",
        ops.softmax,
        "How much head {h} looks from {t} at {s}.",
    ),
    "h.{i}.attn.context": Recipe(
        "b h t d",
        "sum[s](weights[b,h,t,s] * v[b,h,s,d])",
        ops.attention,
        "Number {d} of what head {h} gathers for {t}.",
    ),
    "h.{i}.attn.out": Recipe(
        "b t c",
        "sum[h,d](context[b,h,t,d] * c_proj.weight[h * D + d,c]) + c_proj.bias[c]",
        ops.linear,
        "What attention adds to feature {c} of {t}.",
    ),
    "h.{i}.resid_mid": Recipe(
        "b t c",
        "x[b,t,c] + attn.out[b,t,c]",
        None,
        "Feature {c} of the stream at {t}, after attention.",
    ),
    **_norm("h.{i}.ln_2", "the MLP"),
    "h.{i}.mlp.pre": Recipe(
        "b t m",
        "sum[c](ln_2[b,t,c] * c_fc.weight[c,m]) + c_fc.bias[m]",
        ops.linear,
        "How strongly {t} meets what neuron {m} looks for.",
    ),
    "h.{i}.mlp.act": Recipe(
        "b t m",
        "activation(pre[b,t,m])",
        ops.gelu,
        "How strongly neuron {m} answers at {t}.",
    ),
    "h.{i}.mlp.out": Recipe(
        "b t c",
        "sum[m](act[b,t,m] * c_proj.weight[m,c]) + c_proj.bias[c]",
        ops.linear,
        "What the MLP adds to feature {c} of {t}.",
    ),
    "h.{i}.resid": Recipe(
        "b t c",
        "resid_mid[b,t,c] + mlp.out[b,t,c]",
        None,
        "Feature {c} of the stream at {t}, after the block.",
    ),
    **_norm("ln_f", "the output head"),
    "logits": Recipe(
        "b t v",
        "sum[c](ln_f[b,t,c] * lm_head.weight[v,c])",
        ops.linear,
        "The score of {v} as the next token after {t}.",
    ),
    "logits.max": Recipe(
        "b t",
        "max[v](logits[b,t,v])",
        ops.softmax,
        "The best score after {t}.",
        lambda array: array("logits").max(-1),
    ),
    "logits.sum": Recipe(
        "b t",
        "sum[v](exp(logits[b,t,v] - max[b,t]))",
        ops.softmax,
        "What the probabilities after {t} are divided by.",
        lambda array: np.exp(array("logits") - array("max")[..., None]).sum(-1),
    ),
}


def taps() -> dict[str, str]:
    """Every tap of the forward pass and its axes, {i} being the layer.

    >>> taps()["h.{i}.attn.scores"]
    'b h t s'
    """
    return {name: one.axes for name, one in RECIPES.items() if one.virtual is None}


@cache
def recipes(config: GPT2Config) -> dict[str, Bound]:
    """The recipes of every layer of a model, by full name, in the order of the pass."""
    order = list(RECIPES)
    of_blocks = [name for name in order if "{i}" in name]
    at, end = order.index(of_blocks[0]), order.index(of_blocks[-1]) + 1
    places = [(name, 0) for name in order[:at]]
    places += [(name, i) for i in range(config.n_layer) for name in of_blocks]
    places += [(name, config.n_layer) for name in order[end:]]
    full = [(name, name.replace("{i}", str(i)), i) for name, i in places]
    return {name: _bind(pattern, name, i, config) for pattern, name, i in full}


def _bind(pattern: str, name: str, layer: int, config: GPT2Config) -> Bound:
    recipe = RECIPES[pattern]
    short = parse(recipe.formula)
    full = {one: found(one, name, layer) for one in names(short)}
    function = recipe.function
    if function is ops.gelu:
        function = ACTIVATIONS[config.activation_function]
    return Bound(
        name,
        tuple(recipe.axes.split()),
        short,
        renamed(short, full),
        function,
        recipe.meaning,
        recipe.virtual,
        full,
    )


def found(short: str, name: str, layer: int) -> str:
    """The full name of what a formula calls by a short one, from its tap outwards."""
    if short in GIVEN:
        return short
    if short == "x":
        if name.startswith(f"h.{layer}.ln_2"):
            return f"h.{layer}.resid_mid"
        return f"h.{layer - 1}.resid" if layer else "embed"
    places = name.split(".")
    for n in range(len(places), -1, -1):
        candidate = ".".join([*places[:n], short])
        pattern = candidate.replace(f"h.{layer}.", "h.{i}.", 1)
        if pattern in RECIPES or pattern in PARAMETERS:
            return candidate
    raise ValueError(f"{name}: its formula reads {short}, which is nowhere")
