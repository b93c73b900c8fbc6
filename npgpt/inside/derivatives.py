"""Recipes of the derivatives: which numbers made a gradient, in the form of the taps'.

d.NAME is dE/dNAME for the loss E, the mean over a text of -log p(its next token). The
functions are those of npgpt.training.backward, named here and not imported: training
stands above. Letters as in npgpt.inside.recipes; u goes over the queries that look at a
token. `d.P.x` is what comes back through the norm P, `later` the next block.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.inside.formula import names, parse, renamed
from npgpt.inside.recipes import Bound, Recipe, found, recipes

BACKWARD = "npgpt.training.backward"
NORMED = "(x[b,t,c] - mean[b,t]) * rstd[b,t]"


class _Later:
    """A function of npgpt.training.backward, found when somebody asks."""

    def __init__(self, name: str):
        self.__name__ = name

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return str(self._found().__doc__)

    def __call__(self, *args: Any) -> Any:
        return self._found()(*args)

    def _found(self) -> Any:
        return getattr(importlib.import_module(BACKWARD), self.__name__)


def _recipe(axes: str, formula: str, function: str = "", virtual: Any = None) -> Recipe:
    later = _Later(function) if function else None
    return Recipe(axes, formula, later, "", virtual)


def _norm(place: str) -> dict[str, Recipe]:
    """What comes back through a norm, and its parameters' share."""
    own = place.rpartition(".")[2]

    def mean(array: Any) -> np.ndarray:
        return (array(f"d.{own}") * array("weight")).mean(-1)

    def normed(array: Any) -> np.ndarray:
        return (array("x") - array("mean")[..., None]) * array("rstd")[..., None]

    def along(array: Any) -> np.ndarray:
        return (array(f"d.{own}") * array("weight") * normed(array)).mean(-1)

    def back(array: Any) -> np.ndarray:
        g = array(f"d.{own}") * array("weight") - array(f"d.{own}.mean")[..., None]
        g = g - normed(array) * array(f"d.{own}.along")[..., None]
        return g * array("rstd")[..., None]

    g = f"d.{own}[b,t,c] * weight[c]"
    return {
        f"{place}.mean": _recipe("b t", f"mean[c]({g})", "layer_norm", mean),
        f"{place}.along": _recipe(
            "b t", f"mean[c]({g} * ({NORMED}))", "layer_norm", along
        ),
        f"{place}.x": _recipe(
            "b t c",
            f"({g} - d.{own}.mean[b,t] - {NORMED} * d.{own}.along[b,t]) * rstd[b,t]",
            "layer_norm",
            back,
        ),
        f"{place}.weight": _recipe(
            "c", f"sum[b,t](d.{own}[b,t,c] * ({NORMED}))", "layer_norm"
        ),
        f"{place}.bias": _recipe("c", f"sum[b,t](d.{own}[b,t,c])", "layer_norm"),
    }


def _linear(place: str, x: str, dy: str, weight: str, bias: str) -> dict[str, Recipe]:
    """The parameters' share of an affine map."""
    return {
        f"{place}.weight": _recipe(weight, f"sum[b,t]({x} * {dy})", "linear"),
        f"{place}.bias": _recipe(bias, f"sum[b,t]({dy})", "linear"),
    }


def _parts(array: Any) -> np.ndarray:
    """q, k and v side by side again."""
    sides = [array(f"d.{part}") for part in "qkv"]  # (B, H, T, D)
    turned = [np.moveaxis(one, 1, 2) for one in sides]
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in turned], axis=-1)


def _logits(array: Any) -> np.ndarray:
    """Softmax minus what came, over the targets."""
    z = array("logits")
    p = np.exp(z - array("logits.max")[..., None]) / array("logits.sum")[..., None]
    hit, counted = array("hit"), array("counted")
    return (p - hit) * counted[..., None] / array("count")


DERIVATIVES: dict[str, Recipe] = {  # without the d. before each
    "logits": _recipe(
        "b t v",
        "(exp(logits[b,t,v] - logits.max[b,t]) / logits.sum[b,t] - hit[b,t,v])"
        " * counted[b,t] / count",
        "cross_entropy",
        _logits,
    ),
    "ln_f": _recipe("b t c", "sum[v](d.logits[b,t,v] * lm_head.weight[v,c])", "linear"),
    **_norm("ln_f"),
    "h.{i}.resid": _recipe("b t c", "d.later[b,t,c] + d.later_norm[b,t,c]"),
    "h.{i}.mlp.out": _recipe("b t c", "d.resid[b,t,c]"),
    "h.{i}.mlp.act": _recipe(
        "b t m", "sum[c](d.mlp.out[b,t,c] * c_proj.weight[m,c])", "linear"
    ),
    "h.{i}.mlp.pre": _recipe("b t m", "d.act[b,t,m] * slope(pre[b,t,m])", "gelu"),
    "h.{i}.ln_2": _recipe(
        "b t c", "sum[m](d.mlp.pre[b,t,m] * mlp.c_fc.weight[c,m])", "linear"
    ),
    **_norm("h.{i}.ln_2"),
    "h.{i}.resid_mid": _recipe("b t c", "d.resid[b,t,c] + d.ln_2.x[b,t,c]"),
    "h.{i}.attn.out": _recipe("b t c", "d.resid_mid[b,t,c]"),
    "h.{i}.attn.context": _recipe(
        "b h t d", "sum[c](d.attn.out[b,t,c] * c_proj.weight[h * D + d,c])", "linear"
    ),
    "h.{i}.attn.weights": _recipe(
        "b h t s", "sum[d](d.context[b,h,t,d] * v[b,h,s,d])", "attention_means"
    ),
    "h.{i}.attn.scores.along": _recipe(
        "b h t",
        "sum[s](d.weights[b,h,t,s] * weights[b,h,t,s])",
        "softmax",
        lambda array: (array("d.weights") * array("weights")).sum(-1),
    ),
    "h.{i}.attn.scores": _recipe(
        "b h t s",
        "weights[b,h,t,s] * (d.weights[b,h,t,s] - d.scores.along[b,h,t])",
        "softmax",
    ),
    "h.{i}.attn.q": _recipe(
        "b h t d",
        "sum[s](d.scores[b,h,t,s] * k[b,h,s,d]) * scale",
        "attention_scores",
    ),
    "h.{i}.attn.k": _recipe(
        "b h t d",
        "sum[u](d.scores[b,h,u,t] * q[b,h,u,d]) * scale",
        "attention_scores",
    ),
    "h.{i}.attn.v": _recipe(
        "b h t d",
        "sum[u](weights[b,h,u,t] * d.context[b,h,u,d])",
        "attention_means",
    ),
    "h.{i}.attn.c_attn": _recipe(
        "b t j",
        "d.q[b,j // D,t,j % D] if j < C else"
        " (d.k[b,(j - C) // D,t,j % D] if j < 2 * C else"
        " d.v[b,(j - 2 * C) // D,t,j % D])",
        "split_heads",
        _parts,
    ),
    "h.{i}.ln_1": _recipe(
        "b t c", "sum[j](d.attn.c_attn[b,t,j] * attn.c_attn.weight[c,j])", "linear"
    ),
    **_norm("h.{i}.ln_1"),
    "embed": _recipe("b t c", "d.later[b,t,c] + d.later_norm[b,t,c]"),
    "wte": _recipe("b t c", "d.embed[b,t,c]"),
    "wpe": _recipe("b t c", "d.embed[b,t,c]", "", lambda array: array("d.embed")),
    **_linear("h.{i}.mlp.c_proj", "act[b,t,m]", "d.mlp.out[b,t,c]", "m c", "c"),
    **_linear("h.{i}.mlp.c_fc", "ln_2[b,t,c]", "d.pre[b,t,m]", "c m", "m"),
    **_linear(
        "h.{i}.attn.c_proj",
        "context[b,e // D,t,e % D]",
        "d.attn.out[b,t,c]",
        "e c",
        "c",
    ),
    **_linear("h.{i}.attn.c_attn", "ln_1[b,t,c]", "d.attn.c_attn[b,t,j]", "c j", "j"),
    "wpe.weight": _recipe("p c", "sum[b,t](stands[b,t,p] * d.wpe[b,t,c])", "embedding"),
    "wte.weight": _recipe("v c", "sum[b,t](reads[b,t,v] * d.wte[b,t,c])", "embedding"),
    "lm_head.weight": _recipe(
        "v c", "sum[b,t](d.logits[b,t,v] * ln_f[b,t,c])", "linear"
    ),
}

TIED = "sum[b,t](reads[b,t,v] * d.wte[b,t,c] + d.logits[b,t,v] * ln_f[b,t,c])"
LAST = "d.ln_f.x[b,t,c]"  # what comes to the last block, or to no block at all


@cache
def derivatives(config: GPT2Config) -> dict[str, Bound]:
    """The recipes of every gradient of a model, by full name (d. and the tap's)."""
    bound: dict[str, Bound] = {}
    for pattern, recipe in DERIVATIVES.items():
        layers = range(config.n_layer) if "{i}" in pattern else [-1]
        for i in layers:
            if pattern == "ln_f" or pattern.startswith("ln_f."):
                i = config.n_layer
            name = pattern.replace("{i}", str(i))
            formula = recipe.formula
            last = config.n_layer - 1
            if pattern in ("h.{i}.resid", "embed") and i == last:
                formula = LAST
            if config.tie_word_embeddings and pattern in (
                "wte.weight",
                "lm_head.weight",
            ):
                formula = TIED
            bound[f"d.{name}"] = _bind(name, recipe, formula, i, config)
    return bound


@cache
def every(config: GPT2Config) -> dict[str, Bound]:
    """The recipes of the forward pass and of its derivatives."""
    return recipes(config) | derivatives(config)


def _bind(
    name: str, recipe: Recipe, formula: str, layer: int, config: GPT2Config
) -> Bound:
    short = parse(formula)
    full = {one: _full(one, name, layer) for one in names(short)}
    return Bound(
        f"d.{name}",
        tuple(recipe.axes.split()),
        short,
        renamed(short, full),
        recipe.function,
        recipe.meaning,
        recipe.virtual,
        full,
    )


def _full(short: str, name: str, layer: int) -> str:
    if not short.startswith("d."):
        return found(short, name, layer)
    short = short[2:]
    if short == "later":
        return f"d.h.{layer + 1}.resid_mid"
    if short == "later_norm":
        return f"d.h.{layer + 1}.ln_1.x"
    places = name.split(".")
    for n in range(len(places), -1, -1):
        candidate = ".".join([*places[:n], short])
        if candidate.replace(f"h.{layer}.", "h.{i}.", 1) in DERIVATIVES:
            return f"d.{candidate}"
    raise ValueError(f"d.{name}: its formula reads d.{short}, which is nowhere")
