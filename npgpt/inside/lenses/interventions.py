"""Ablation and activation patching: what happens when a part is something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.errors import InsideError
from npgpt.inside.lenses.grid import Grid
from npgpt.inside.lenses.target import (
    Prompt,
    Token,
    labels,
    logits,
    place,
    target,
    written,
)
from npgpt.support.arguments import checked, shown

HOW = ("zero", "mean", "resample")
WHAT = {  # what is patched: the taps of a layer, from the embedding on or not
    "resid": ("embed", "h.{i}.resid"),
    "resid_mid": (None, "h.{i}.resid_mid"),
    "attn": (None, "h.{i}.attn.out"),
    "mlp": (None, "h.{i}.mlp.out"),
    "heads": (None, "h.{i}.attn.context"),
}
DIRECTIONS = ("denoise", "noise")


@checked(InsideError)
def ablation(
    model: Any,
    prompt: Prompt,
    *,
    how: str = "zero",
    other: Prompt | None = None,
    token: Token | None = None,
    against: Token | None = None,
    at: int = -1,
) -> Grid:
    """What the answer loses when one head, or one layer's MLP, is taken out.

    The context of a head, or the activations of an MLP, become 0 (`zero`), their mean
    over the tokens of `other` or of the prompt itself (`mean`), or those of `other`,
    token by token (`resample`: as many tokens). c_proj's bias stays: it is nobody's. A
    cell is the measure with the part ablated less the measure without: log-probability
    of the token in nats, or with `against` the lead of its logit. Source: Michel, Levy
    and Neubig, "Are Sixteen Heads Really Better than One?" (2019).
    """
    if how not in HOW:
        raise InsideError(f"how is {', '.join(HOW)}, not {shown(how)}")
    if how == "resample" and other is None:
        raise InsideError("resample takes its numbers from another prompt; give other")
    if how == "zero" and other is not None:
        raise InsideError("zero needs no other prompt; mean and resample take one")
    ids, layers = model.encode(prompt), range(model.config.n_layer)
    at, z = place(ids, at), logits(model, ids)
    goal = target(model, z[at], token, against, at)
    base = goal.measure(z[at])
    source = ids if other is None else model.encode(other)
    if how == "resample":
        same_length(ids, source)
    places = {
        (i, column): (f"h.{i}.mlp.act", ())
        if column == "mlp"
        else (f"h.{i}.attn.context", (int(column[5:]),))
        for i in layers
        for column in (*(f"head {h}" for h in range(model.config.n_head)), "mlp")
    }
    with model.trace(["h.*.attn.context", "h.*.mlp.act"]) as trace:
        model.logits([source])
    values = []
    for name, at_head in places.values():
        there = trace[name].array[(0, *at_head)]  # (T, D), or (T, M)
        put = {"zero": 0 * there[:1], "mean": there.mean(0, keepdims=True)}
        patch = {f"{name}[:{''.join(f', {h}' for h in at_head)}]": put.get(how, there)}
        values.append(goal.measure(logits(model, ids, patch)[at]) - base)
    columns = tuple(column for i, column in places if i == 0)
    return Grid(
        "ablation",
        f"What becomes of the {goal.measured} after token {at} "
        f"({written(model, ids[at])}), {base:.3f}, when a part is ablated ({how}).",
        tuple(f"layer {i}" for i in layers),
        columns,
        np.array(values).reshape(len(layers), len(columns)),
    )


@checked(InsideError)
def patching(
    model: Any,
    clean: Prompt,
    corrupted: Prompt,
    *,
    token: Token | None = None,
    against: Token | None = None,
    what: str = "resid",
    direction: str = "denoise",
) -> Grid:
    """Where the difference between two prompts lives: layer x position.

    `denoise` reads the corrupted prompt with one activation of the clean one in it, and
    asks what that restores; `noise` reads the clean one with one of the corrupted, and
    asks what that destroys. A cell is (m - m_corrupted) / (m_clean - m_corrupted), m
    the measure after the last token: 1 is as good as clean, 0 as corrupted. By default
    the token is the clean prompt's best, against the corrupted one's. what: resid (with
    the embedding), resid_mid, attn, mlp, or heads (layer x head, at all tokens). The
    prompts have as many tokens each, or are aligned (see `aligned`). Source: Meng et
    al., "Locating and Editing Factual Associations in GPT" (2022); Heimersheim and
    Nanda, "How to use and interpret activation patching" (2024).
    """
    if what not in WHAT:
        raise InsideError(f"what is {', '.join(WHAT)}, not {shown(what)}")
    if direction not in DIRECTIONS:
        raise InsideError(f"direction is denoise or noise, not {shown(direction)}")
    ids = model.encode(clean), model.encode(corrupted)
    z = [logits(model, one)[-1] for one in ids]
    if token is None and against is None:
        token, against = (int(one.argmax()) for one in z)
        against = None if token == against else against
    goal = target(model, z[0], token, against, len(ids[0]) - 1)
    good, bad = (goal.measure(one) for one in z)
    if good == bad:
        raise InsideError(
            f"both prompts have the same {goal.measured}: there is no difference to "
            "restore; name a token that tells them apart"
        )
    to, source = ids[::-1] if direction == "denoise" else ids
    pairs = aligned(to, source)
    first, every = WHAT[what]
    names = [] if first is None else [first]
    names += [every.replace("{i}", str(i)) for i in range(model.config.n_layer)]
    with model.trace(names) as trace:
        model.logits([source])

    def share(patch: dict[str, Any]) -> float:
        return (goal.measure(logits(model, to, patch)[-1]) - bad) / (good - bad)

    if what == "heads":
        same_length(to, source)
        places = [
            [(f"{name}[:, {h}]", trace[name][0, h]) for h in range(model.config.n_head)]
            for name in names
        ]
        columns = tuple(f"head {h}" for h in range(model.config.n_head))
    else:
        places = [
            [(f"{name}[t={t}]", trace[name][0, s]) for t, s in pairs] for name in names
        ]
        columns = tuple(labels(model, to)[t] for t, _ in pairs)
    values = [[share({place: put}) for place, put in row] for row in places]
    done = "restored" if direction == "denoise" else "left"
    return Grid(
        "patching",
        f"How much of the {goal.measured} is {done} (corrupted {bad:.3f}, clean "
        f"{good:.3f}).",
        tuple(names),
        columns,
        np.array(values).reshape(len(names), len(columns)),
    )


def aligned(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Which token of one prompt stands for which of another.

    All in their order where there are as many. Else the beginning and the end that both
    have, and the last tokens of what differs between.

    >>> aligned([1, 2, 9, 4, 5], [1, 7, 8, 6, 4, 5])
    [(0, 0), (2, 3), (3, 4), (4, 5)]
    """
    n, m = len(a), len(b)
    if n == m:
        return [(t, t) for t in range(n)]
    few = min(n, m)
    head = next((i for i in range(few) if a[i] != b[i]), few)
    tail = next(
        (i for i in range(few - head) if a[n - 1 - i] != b[m - 1 - i]), few - head
    )
    between = [(n - tail - 1, m - tail - 1)] if head + tail < few else []
    ends = [(n - i, m - i) for i in range(tail, 0, -1)]
    return [*((t, t) for t in range(head)), *between, *ends]


def same_length(a: Sequence[int], b: Sequence[int]) -> None:
    """Raise InsideError unless both prompts have as many tokens."""
    if len(a) != len(b):
        raise InsideError(
            f"the prompts have {len(a)} and {len(b)} tokens; here they need as many"
        )
