"""Worked examples of what takes a token, of penalties inside searches, of guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.decoding import GenerationConfig, feedback, selectors
from npgpt.decoding.examples.five import WORDS, say, table
from npgpt.decoding.examples.rules import P
from npgpt.decoding.guidance import formulas
from npgpt.decoding.rules import penalties
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.selection import build_selector
from npgpt.decoding.stopping import repeats
from npgpt.decoding.watermarks.watermark import gumbel, seed_of

Z = np.log(P)
NOW = Context(prompt_length=3, step=0, seed=7)
U = NOW.uniforms(5)  # five uniform numbers


def _mark(*taken: tuple[int, str]) -> list[str]:
    return [", ".join(what for id, what in taken if id == i) for i in range(5)]


def greedy() -> str:
    """A1."""
    id = selectors.greedy(Z)
    return "one step\n\n" + table({"p": P, "": _mark((id, "<- taken: the largest"))})


def ancestral() -> str:
    """A2: a draw, and how often each word is drawn."""
    counts = np.bincount(
        [selectors.ancestral(Z, Context(3, step, 7)) for step in range(1000)],
        minlength=5,
    )
    return "1,000 draws\n\n" + table({"p": P, "drawn": counts.tolist()})


def gumbel_max() -> str:
    """A3."""
    noise = selectors.gumbel_noise(U)
    id = selectors.gumbel_max(Z, U)
    columns = {"p": P, "u": U, "g": noise, "log p + g": Z + noise,
               "": _mark((id, "<- taken: the largest sum"))}  # fmt: skip
    return "five uniform numbers u, g = -log(-log u)\n\n" + table(columns)


def inverse_cdf() -> str:
    """A4."""
    u = 0.55
    id = selectors.inverse_cdf(Z, u)
    return f"u = {u}\n\n" + table(
        {"p": P, "F": np.cumsum(P), "": _mark((id, "<- taken: the first with F > u"))}
    )


def arithmetic() -> str:
    """A5: two texts share a code."""
    lines = ["2 texts of 3 words, c = 0.30 and 0.80; each word uses up its slice", ""]
    for code in (0.3, 0.8):
        ids, codes = [], [code]
        for _ in range(3):
            id, code = selectors.arithmetic(Z, code, 0.5)
            ids.append(id)
            codes.append(code)
        shown = " -> ".join(f"{c:.3f}" for c in codes)
        lines.append(f"  {say(ids):<20} {shown}")
    return "\n".join(lines)


def without_replacement() -> str:
    """A6."""
    order = selectors.without_replacement(Z, U, 3)
    places = [f"<- draw {order.index(i) + 1}" if i in order else "" for i in range(5)]
    return "3 draws\n\n" + table(
        {"p": P, "log p + g": Z + selectors.gumbel_noise(U), "": places}
    )


def forced() -> str:
    """E9."""
    given = [4, 0]
    lines = [f"trace_decode_token_ids={given}", ""]
    for step in range(3):
        id = selectors.forced(Z, given, step)
        how = "given" if step < len(given) else "greedy, nothing is given any more"
        lines.append(f"  step {step}: {WORDS[id]:<6} log p {Z[id]:.3f}  ({how})")
    return "\n".join(lines)


def mirostat(strategy: Any) -> str:
    """C15 and C16."""
    tau, eta, u, mu = 1.0, 0.1, 0.55, 2.0
    if strategy.code == "C15":
        k = feedback.mirostat_k(P, mu, 100)
        kept, rule = np.sort(Z)[-k] <= Z, f"k = {k}"
        id, after = feedback.mirostat(Z, u, mu, tau, eta, 100)
    else:
        kept, rule = -Z / np.log(2) <= mu, f"surprise <= mu = {mu} bits"
        id, after = feedback.mirostat_v2(Z, u, mu, tau, eta)
    p = np.where(kept, P, 0) / P[kept].sum()
    head = f"tau = {tau} bits, mu = {mu}, u = {u}; {rule}\n\n"
    columns = {"p": P, "bits": -Z / np.log(2), "after": p, "": _mark((id, "<- taken"))}
    surprise = -np.log2(p[id])
    tail = f"\n\n  its surprise {surprise:.3f} bits moves mu to {after:.3f}"
    return head + table(columns) + tail


def adaptive_p() -> str:
    """C17."""
    target, decay, u = 0.2, 0.9, 0.55
    state = feedback.adaptive_start(target, decay)
    id, after = feedback.adaptive_p(Z, u, state, target, decay)
    aim = min(max(2 * target - state[0] / state[1], 0.0), 1.0)
    x = np.abs(P - aim) / 0.3
    columns = {"p": P, "after": probabilities(5 - 10 * x**2 / (1 + x)),
               "": _mark((id, "<- taken"))}  # fmt: skip
    tail = f"\n\n  the mean of past p: {state[0] / state[1]:.3f} -> "
    return (
        f"target {target}, u = {u}\n\n"
        + table(columns)
        + (f"{tail}{after[0] / after[1]:.3f}")
    )


def feedback_selectors() -> str:
    """A7: each takes the token and its own next state."""
    lines = ["each returns a token and its next state, from one state and one u", ""]
    for options in ({"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.3}):
        selector = build_selector(GenerationConfig(do_sample=True, **options))
        state = selector.start(NOW)
        id, after = selector.choose([], Z, NOW, state)
        lines.append(
            f"  {selector.name:<12} {_state(state)} -> {WORDS[id]:<6} {_state(after)}"
        )
    return "\n".join(lines)


def _state(state: Any) -> str:
    numbers = state if isinstance(state, tuple) else (state,)
    return "(" + ", ".join(f"{x:.3f}" for x in numbers) + ")"


def gumbel_watermark() -> str:
    """I4: the noise of a key and of the last word."""
    key, last = 15485863, 2
    bits = np.random.Philox(key=seed_of(key, [last])).random_raw(5)
    u = (bits >> np.uint64(11)) * 2.0**-53
    id = gumbel(Z, [last], key, 1)
    head = f"hashing_key={key}, after {say([last])}: u follows from both\n\n"
    return head + table(
        {
            "p": P,
            "u": u,
            "u^(1/p)": u ** (1 / P),
            "": _mark((id, "<- taken: the largest")),
        }
    )


def repetition_detection() -> str:
    """D11."""
    lines = ["max_pattern_size=3, min_count=3", ""]
    for ids in ([0, 2, 0, 2], [0, 2, 0, 2, 0, 2], [4, 4, 4]):
        ends = "ends" if repeats(ids, 3, 1, 3) else "goes on"
        lines.append(f"  {say(ids):<26} {ends}")
    return "\n".join(lines)


def hamming() -> str:
    """D12."""
    chosen = [0, 0, 2]
    y = penalties.hamming(Z, chosen, 0.5)
    return f"diversity_penalty=0.5, earlier groups chose {say(chosen)}\n\n" + table(
        {"log p": Z, "times": [chosen.count(v) for v in range(5)], "after": y}
    )


def degeneration() -> str:
    """D13: five candidates, two words said before."""
    angles = np.radians([0, 20, 60, 90, 150])
    h = np.stack([np.cos(angles), np.sin(angles)], 1)
    cosines = penalties.degeneration(h, h[[0, 3]])
    shown = [f"({x:.2f}, {y:.2f})" for x, y in h]
    return f"after {say([0, 3])}\n\n" + table({"h": shown, "max cos": cosines})


OTHER = np.array([0.5, 0.15, 0.05, 0.1, 0.2])  # the other reading's probabilities
THIRD = np.array([0.3, 0.3, 0.2, 0.1, 0.1])


def _readings(how: str, names: tuple[str, ...], y: np.ndarray) -> str:
    given = dict(zip(names, (P, OTHER, THIRD), strict=False))
    return f"{how}\n\n" + table(given | {"after": probabilities(y)})


GUIDANCE: dict[str, Callable[[], str]] = {
    "classifier-free guidance": lambda: _readings(
        "guidance_scale=1.5", ("prompt", "negative"),
        formulas.classifier_free(Z, np.log(OTHER), 1.5)),
    "context-aware decoding": lambda: _readings(
        "context_aware_alpha=0.5", ("context", "without"),
        formulas.context_aware(Z, np.log(OTHER), 0.5)),
    "contrastive decoding": lambda: _readings(
        "contrastive_alpha=0.3, amateur_temperature=1.0", ("expert", "amateur"),
        formulas.contrastive(Z, np.log(OTHER), 0.3, 1.0)),
    "improved contrastive decoding": lambda: _readings(
        "contrastive_beta=0.5, contrastive_alpha=0.3", ("expert", "amateur"),
        formulas.improved_contrastive(Z, np.log(OTHER), 0.3, 0.5)),
    "DExperts": lambda: _readings(
        "dexperts_alpha=1.0", ("model", "expert", "anti"),
        formulas.dexperts(Z, np.log(OTHER), np.log(THIRD), 1.0)),
    "ensemble": lambda: _readings(
        "ensemble='product', ensemble_weights=[0.5, 0.5]", ("first", "second"),
        formulas.product(np.stack([Z, np.log(OTHER)]), [0.5, 0.5])),
    "anti-LM": lambda: _readings(
        "anti_lm_weight=0.5", ("prompt", "without"),
        formulas.anti_lm(Z, np.log(OTHER), 0.5)),
}  # fmt: skip


def dola() -> str:
    """F5."""
    early = np.log(np.stack([OTHER, THIRD]))
    apart = [formulas.jensen_shannon(Z, layer) for layer in early]
    y = formulas.dola(Z, early, alpha=0.3)
    head = f"JS(last, layer 2) = {apart[0]:.3f}, JS(last, layer 4) = {apart[1]:.3f}: "
    columns = {"last": P, "layer 2": OTHER, "layer 4": THIRD, "after": probabilities(y)}
    return head + f"layer {2 if apart[0] >= apart[1] else 4}\n\n" + table(columns)


SELECTORS: dict[str, Callable[[], str]] = {
    "greedy search": greedy, "ancestral sampling": ancestral, "Gumbel-max": gumbel_max,
    "inverse CDF": inverse_cdf, "arithmetic sampling": arithmetic,
    "sampling without replacement": without_replacement,
    "feedback selectors": feedback_selectors, "teacher forcing": forced,
    "adaptive-p": adaptive_p, "Gumbel watermark": gumbel_watermark,
    "repetition detection": repetition_detection, "Hamming diversity": hamming,
    "degeneration penalty": degeneration, "DoLa": dola, **GUIDANCE,
}  # fmt: skip
