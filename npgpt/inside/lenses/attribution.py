"""Who made a logit, and who made a score: exact sums over what the layers wrote.

The stream that a norm reads is a sum: embedding, heads, biases, MLPs. Once the norm's
mean and deviation are taken as they were, what follows is linear, so a logit is a sum
over these parts, and a score of attention, a product of two such sums, a table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npgpt.block import attention_scale
from npgpt.errors import InsideError
from npgpt.inside.address import parse_address
from npgpt.inside.lenses.grid import Grid, Law
from npgpt.inside.lenses.target import Prompt, Token, place, rounding, target, written
from npgpt.inside.trace import Trace

WRITTEN = ["wte", "wpe", "h.*.attn.context", "h.*.mlp.out"]  # what parts are made of


class Parts(NamedTuple):
    """What was added to the stream of one token: names, and arrays (n, C) in float64.

    A head's name is its patch: h.2.attn.context[h=1] set to 0 takes it out.
    """

    names: tuple[str, ...]
    arrays: np.ndarray


def parts(trace: Trace, layers: int, t: int) -> Parts:
    """What the embedding and the first so many blocks wrote at token t.

    A head's part is its context through its rows of c_proj, whose bias is a part of its
    own. The sum of all parts is the stream.
    """
    H, D = trace.config.n_head, trace.config.head_dim
    names, arrays = ["wte", "wpe"], [trace["wte"].array[0, t], trace["wpe"].array[0, t]]
    for i in range(layers):
        attn = f"h.{i}.attn"
        weight = trace.parameter(f"{attn}.c_proj.weight").astype(np.float64)
        context = trace[f"{attn}.context"].array[0, :, t].astype(np.float64)  # (H, D)
        arrays += list(np.einsum("hd,hdc->hc", context, weight.reshape(H, D, -1)))
        arrays += [trace.parameter(f"{attn}.c_proj.bias")]
        arrays += [trace[f"h.{i}.mlp.out"].array[0, t]]
        names += [f"{attn}.context[h={h}]" for h in range(H)]
        names += [f"{attn}.c_proj.bias", f"h.{i}.mlp.out"]
    return Parts(tuple(names), np.array(arrays, np.float64))


def normed(trace: Trace, place: str, found: Parts, t: int) -> np.ndarray:
    """The parts as a norm hands them on: centred, times its rstd and its weight.

    rstd is that of the whole stream, as the model computed it. The rows and the norm's
    bias add up to the norm's result.
    """
    centred = found.arrays - found.arrays.mean(-1, keepdims=True)
    rstd = np.float64(trace[f"{place}.rstd"].array[0, t])
    return np.asarray(centred * rstd * trace.parameter(f"{place}.weight"))


def attribution(
    model: Any,
    prompt: Prompt,
    *,
    token: Token | None = None,
    against: Token | None = None,
    at: int = -1,
) -> Grid:
    """Direct logit attribution: what each part of the stream adds to a logit.

    z_v = sum over parts p of ((p - mean(p)) rstd w) . u_v + b . u_v, where u_v is row v
    of the output head, w and b are ln_f's, and rstd is frozen as it was for the whole
    stream. With `against` the same of the difference of two logits (u_v - u_w), in
    which what lifts both cancels. Only direct effects are here: what a head did through
    later heads stands with those. Source: Elhage et al., "A Mathematical Framework for
    Transformer Circuits" (2021).
    """
    ids = model.encode(prompt)
    with model.trace([*WRITTEN, "ln_f", "ln_f.rstd", "logits"]) as trace:
        z = model.logits([ids])[0]
    at = place(ids, at)
    goal = target(model, z[at], token, against, at)
    head = trace.parameter("lm_head.weight")
    row = head[goal.token].astype(np.float64)
    if goal.against is not None:
        row = row - head[goal.against]
    found = parts(trace, model.config.n_layer, at)
    each = np.vstack([normed(trace, "ln_f", found, at), trace.parameter("ln_f.bias")])
    values = each @ row
    size = float((np.abs(each) @ np.abs(row)).sum())
    return Grid(
        "attribution",
        f"What each part adds to the logit of {goal.text} after token {at} "
        f"({written(model, ids[at])}).",
        (*found.names, "ln_f.bias"),
        (goal.text,),
        values[:, None],
        law=Law("logit", goal.logit(z[at]), values.sum(), rounding(z, size)),
    )


def score_parts(model: Any, prompt: Prompt, address: str) -> Grid:
    """A score of attention as a table: part of the query's stream x part of the key's.

    score = scale (sum_p W_q p' + b_q) . (sum_r W_k r' + b_k), where p' and r' are the
    parts as ln_1 hands them on, its rstd frozen; ln_1's bias and c_attn's are the last
    row and column. address: h.2.attn.scores[h=1,t=5,s=3]. Raises InsideError for
    another one, and for a score that is hidden by the mask.
    """
    ids, config = model.encode(prompt), model.config
    if not parse_address(address, config).name.endswith("attn.scores"):
        raise InsideError(
            f"{address} is no score; write one, such as h.0.attn.scores[h=0,t=2,s=1]"
        )
    with model.trace([*WRITTEN, "h.*.ln_1.rstd", "h.*.attn.scores"]) as trace:
        model.logits([ids])
    one, name, index = trace.at(address)
    _, h, t, s = index
    if not one.sees(0, t, s):
        raise InsideError(f"{address} is hidden: token {t} does not see token {s}")
    i, D, C = int(name.split(".")[1]), config.head_dim, config.n_embd
    weight, bias = (
        trace.parameter(f"h.{i}.attn.c_attn.{x}").astype(np.float64)
        for x in ("weight", "bias")
    )

    def projected(token: int, first: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Every part of a token's query or key, (n + 1, D)."""
        place, found = f"h.{i}.ln_1", parts(trace, i, token)
        columns = slice(first + h * D, first + (h + 1) * D)
        rest = trace.parameter(f"{place}.bias") @ weight[:, columns] + bias[columns]
        each = normed(trace, place, found, token) @ weight[:, columns]
        return (*found.names, "biases"), np.vstack([each, rest])

    scale = attention_scale(config, i)
    (rows, q), (columns, k) = projected(t, 0), projected(s, C)
    values = scale * q @ k.T
    size = abs(scale) * float((np.abs(q) @ np.abs(k).T).sum())
    value = trace.value(one, name, index)
    texts = [f"token {x} ({written(model, ids[x])})" for x in (t, s)]
    return Grid(
        "score",
        f"Rows: what wrote the query of {texts[0]}; columns: what wrote the key of "
        f"{texts[1]}; layer {i}, head {h}.",
        rows,
        columns,
        values,
        law=Law("score", value, values.sum(), rounding(trace[name].array, size)),
        cells=True,
    )
