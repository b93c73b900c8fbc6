"""The logit lens: what the model would say if it ended here."""

from __future__ import annotations

from typing import Any

import numpy as np

from npgpt.backend import NUMPY
from npgpt.inside.lenses.grid import Grid, Law
from npgpt.inside.lenses.target import (
    Prompt,
    Token,
    labels,
    place,
    rounding,
    target,
    written,
)


def logit_lens(
    model: Any,
    prompt: Prompt,
    *,
    token: Token | None = None,
    against: Token | None = None,
    at: int = -1,
) -> Grid:
    """The stream after every half block, read by the last norm and the output head.

    z = layer_norm(x; ln_f) lm_head^T for every x: the embedding, each resid_mid, each
    resid. The norm's mean and variance are those of each x itself: the lens asks what
    the model would say, so it reads as the model would (attribution freezes them
    instead, and asks who said it). A cell is the best token and its probability; with
    `token` the probability of that one, with `against` the lead of its logit, and the
    token's rank. The law: the last row is the model's own answer, here at token `at`.
    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    ids, config = model.encode(prompt), model.config
    with model.trace(["embed", "h.*.resid*", "logits"]) as trace:
        own = model.logits([ids])[0]
    at = place(ids, at)
    goal = target(model, own[at], token, against, at)
    halves = [
        f"h.{i}.{x}" for i in range(config.n_layer) for x in ("resid_mid", "resid")
    ]
    names = ("embed", *halves)
    weight, bias = (trace.parameter(f"ln_f.{x}") for x in ("weight", "bias"))
    head, epsilon = trace.parameter("lm_head.weight").T, config.layer_norm_epsilon
    values, texts, lead, size = [], [], 0.0, 0.0
    for name in names:
        x = NUMPY.layer_norm(trace[name].array, weight, bias, epsilon)
        z = NUMPY.linear(x, head)[0]
        p = NUMPY.softmax(z)
        if token is None:
            best = z.argmax(-1)
            values.append(p[range(len(ids)), best])
            texts.append(tuple(written(model, id) for id in best.tolist()))
        else:
            ranks = (z > z[:, goal.token, None]).sum(-1) + 1
            leads = z[:, goal.token] - (0 if against is None else z[:, goal.against])
            values.append(p[:, goal.token] if against is None else leads)
            texts.append(tuple(f"#{rank}" for rank in ranks.tolist()))
        lead, size = (
            goal.logit(z[at]),
            float((np.abs(x[0, at]) @ np.abs(head))[goal.token]),
        )
    what = "the best next token and its probability"
    if token is not None:
        kind = "probability" if against is None else "lead in logits"
        what = f"{kind} of {goal.text}, and the first token's rank"
    law = Law(
        f"the model's logit of {goal.text}",
        goal.logit(own[at]),
        lead,
        rounding(own, size),
    )
    return Grid(
        "logit lens",
        f"After each half block, read as if it were the last: {what}.",
        names,
        labels(model, ids),
        np.array(values, np.float64),
        tuple(texts),
        law,
    )
