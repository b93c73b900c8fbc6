"""Worked examples of speculative decoding: what is drafted, what stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npgpt.decoding import GenerationConfig
from npgpt.decoding.examples.five import SMALLER, WORDS, FiveWords, say, table
from npgpt.decoding.rules.base import Context
from npgpt.decoding.speculative import acceptance
from npgpt.decoding.speculative.acceptance import residual
from npgpt.decoding.speculative.drafters import NgramCache, lookup
from npgpt.decoding.speculative.lookahead import Lookahead
from npgpt.decoding.speculative.token_tree import choose_greedy, run_trees


def laws() -> tuple[np.ndarray, np.ndarray]:
    """p of the model and q of the drafter after 'the'."""
    model = FiveWords()
    return np.exp(model.z[0]), np.exp(model.early[0])


def readings(n: int = 8, prompt: str = "the", **options: Any) -> str:
    """How many passes through the model a text takes, with drafts and without."""
    model, plain = FiveWords(), FiveWords()
    text = model.generate(prompt, max_new_tokens=n, **options)
    expected = plain.generate(prompt, max_new_tokens=n)
    same = "the same text" if text.ids == expected.ids else say(expected.ids)
    return (
        f"  greedy: {say(text.ids)}\n  {n} words in {model.readings} readings "
        f"({plain.readings} without drafts: {same})"
    )


def speculative() -> str:
    """H1."""
    p, q = laws()
    columns = {"p": p, "q": q, "min(1, p/q)": np.minimum(1, p / q),
               "else": residual(p, q)}  # fmt: skip
    head = "after 'the': a draft x ~ q stands with min(1, p/q), else a word from `else`"
    tail = (
        f"\n\n  it stands with probability sum min(p, q) = {np.minimum(p, q).sum():.3f}"
    )
    return f"{head}\n\n" + table(columns) + tail


def _argmaxes(model: FiveWords, ids: Sequence[int]) -> list[int]:
    return model.z[list(ids)].argmax(1).tolist()


def assisted_greedy() -> str:
    """H2."""
    model, draft, ids = FiveWords(), [], [0]
    for _ in range(3):
        ids.append(int(model.early[ids[-1]].argmax()))
    draft = ids[1:]
    verdict = acceptance.verify_greedy(lambda i, tokens: model.z[ids[i]], draft)
    argmax = _argmaxes(model, ids)
    return "\n".join(
        [
            "after 'the'",
            "",
            f"  drafted            {say(draft)}",
            f"  the model's argmax {say(argmax)} after each",
            f"  stands             {verdict.accepted} drafted: {say(verdict.tokens)}",
        ]
    )


def matched() -> str:
    """H3."""
    p, q = laws()
    lines = ["after 'the', draft 'cat': the model draws y ~ p, go on while y = x", ""]
    for step in range(5):
        context = Context(1, step, 3)
        y = acceptance.match(p, q, 2, context)
        stands = "the draft stands" if y == 2 else "instead of the draft"
        lines.append(f"  u = {context.uniform():.3f}  y = {WORDS[y]:<6} {stands}")
    return "\n".join(lines)


def prompt_lookup() -> str:
    """H4."""
    ids = [0, 3, 4, 0, 2, 1, 0, 3]
    draft = lookup(ids, 3, 2)
    return (
        f"prompt_lookup_num_tokens=3, after {say(ids)}\n\n"
        f"  the end       {say(ids[-2:])} stood before\n"
        f"  and then came {say(draft)}: the draft"
    )


def ngram_cache() -> str:
    """H5."""
    ids = [0, 2, 0, 3, 4, 0, 2, 1, 0]
    drafter = NgramCache(2, 2)
    row = type("Row", (), {"ids": ids})
    (draft,) = drafter.propose([row], [2], None)
    lines = [f"ngram_cache_num_tokens=2, ngram_cache_size=2, after {say(ids)}", ""]
    for context in ((1, 0), (0,), (2,), (0, 2)):
        followers = drafter.tables[0].get(context, {})
        shown = ", ".join(f"{WORDS[v]} {n}" for v, n in followers.items()) or "none yet"
        lines.append(f"  after {say(context):<9} {shown}")
    return "\n".join([*lines, "", f"  draft: {say(draft.tokens)}"])


def early_exit() -> str:
    """H6."""
    model = FiveWords()
    p, q = laws()
    columns = {"first": q, "all": p}
    how = {"assistant_early_exit": 1, "assistant_confidence_threshold": 0.0,
           "num_assistant_tokens": 3}  # fmt: skip
    head = "assistant_early_exit=1: after 'the', the first layers and all of them"
    assert model.config.n_layer == 2
    return f"{head}\n\n" + table(columns) + "\n\n" + readings(**how)


def jacobi() -> str:
    """H7: the iterations of one block."""
    model, block = FiveWords(), [0, 0, 0, 0]
    lines = ["jacobi_num_tokens=4, after 'the'", "", f"  guess      {say(block)}"]
    while True:
        new = _argmaxes(model, [0, *block[:-1]])
        if new == block:
            break
        block = new
        lines.append(f"  reading {len(lines) - 2}  {say(block)}")
    return "\n".join([*lines, "", "  nothing changes any more: the greedy text"])


def lookahead() -> str:
    """H8: the pool that it fills."""
    model, drafter = FiveWords(), Lookahead(2, 3, 2)
    options = GenerationConfig(max_new_tokens=8)
    steps = run_trees(
        model, [[0]], options, lambda chain: drafter, drafter.nodes, choose_greedy
    )
    ids = [step.token_id for step in steps]
    lines = [
        "lookahead_window=2, lookahead_ngram=3, after 'the'",
        "",
        f"  8 words in {model.readings} readings: {say(ids)}",
        "",
        "  the pool, by the first word:",
    ]
    for first, grams in sorted(drafter.pool.items()):
        said = ", ".join(say([first, *gram]) for gram in grams)
        lines.append(f"    {WORDS[first]:<6} {said}")
    return "\n".join(lines)


def token_tree() -> str:
    """H9: two children, and what p becomes after the first is rejected."""
    p, q = laws()
    after = residual(p, q)
    columns = {"p": p, "q": q, "1st stands": np.minimum(1, p / q), "p after": after,
               "2nd stands": np.minimum(1, after / q)}  # fmt: skip
    one = np.minimum(p, q).sum()
    two = one + (1 - one) * np.minimum(after, q).sum()
    tail = f"\n\n  a draft stands with {one:.3f}, one of two with {two:.3f}"
    return "assistant_tree=[2], after 'the': two children x ~ q\n\n" + (
        table(columns) + tail
    )


def typical() -> str:
    """H10."""
    p, _ = laws()
    epsilon, delta = 0.3, 0.5
    least = acceptance.typical_threshold(p, epsilon, delta)
    columns = {"p": p, "": ["stands" if x > least else "is drawn anew" for x in p]}
    return (
        f"typical_acceptance={epsilon}, typical_delta={delta}: a draft of "
        f"p > min({epsilon}, {delta} e^-H) = {least:.3f} stands\n\n" + table(columns)
    )


def ensemble() -> str:
    """H11."""
    p, q = laws()
    w = 0.5
    stands = np.minimum(1, (1 - w) + w * p / q)
    columns = {"p": p, "q": q, "stands": stands, "law": w * p + (1 - w) * q}
    return f"assistant_ensemble_weight={w}, after 'the'\n\n" + table(columns)


def dynamic_length() -> str:
    """H12: a draft ends after the first doubtful word."""
    model, ids, threshold = FiveWords(early=SMALLER), [0], 0.45
    lines = [f"assistant_confidence_threshold={threshold}, after 'the'", ""]
    while True:
        q = np.exp(model.early[ids[-1]])
        ids.append(int(q.argmax()))
        lines.append(f"  {WORDS[ids[-1]]:<6} q = {q.max():.2f}")
        if q.max() < threshold or len(ids) > 5:
            break
    return "\n".join([*lines, "", f"  the draft: {say(ids[1:])}"])


DRAFTS: dict[str, Callable[[], str]] = {
    "speculative sampling": speculative, "assisted greedy decoding": assisted_greedy,
    "sample and match": matched, "prompt lookup": prompt_lookup,
    "n-gram cache": ngram_cache, "early exit": early_exit, "Jacobi decoding": jacobi,
    "lookahead decoding": lookahead, "token tree": token_tree,
    "typical acceptance": typical, "ensemble verification": ensemble,
    "dynamic draft length": dynamic_length,
}  # fmt: skip
