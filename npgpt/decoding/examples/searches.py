"""Worked examples of searches: what they write, beside greedy search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from npgpt.decoding.examples.five import (
    ENDING,
    ENDING_TABLE,
    FiveWords,
    say,
    table,
)
from npgpt.decoding.rules.base import Context
from npgpt.decoding.rules.penalties import degeneration
from npgpt.decoding.searches import reranking
from npgpt.decoding.searches.beam import best_candidates, drawn_candidates, length_norm
from npgpt.decoding.searches.contrastive_search import choose


def ending() -> FiveWords:
    """The model whose texts can end."""
    return FiveWords(ENDING_TABLE, ENDING_TABLE, ENDING)


def compared(name: str, model: FiveWords | None = None, n: int = 3, **options: Any):
    """Greedy search and another: their texts and log-probabilities."""
    model = model or FiveWords()
    shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
    lines = [f"{shown}, {n} words after 'the'", ""]
    for who, how in (("greedy search", {}), (name, options)):
        found = model.generate("the", max_new_tokens=n, **how)
        for text in found if isinstance(found, list) else [found]:
            lines.append(
                f"  {who:<26} {say(text.ids, model.tokenizer.words):<24} "
                f"log p {sum(text.logprobs):.3f}"
            )
    return "\n".join(lines)


def multinomial() -> str:
    """G2: the candidates of one step."""
    lp, scores = FiveWords().z[[2, 3]], [-0.9, -1.05]  # two beams: ... cat, ... old
    drawn = drawn_candidates(lp, scores, 4, Context(1, 1, 3))
    best = best_candidates(lp, scores, 4)
    lines = ["num_beams=2, do_sample=True; beams 'cat' (-0.90) and 'old' (-1.05)", ""]
    for what, found in (("the 4 best", best), ("4 drawn, in order", drawn)):
        pairs = ", ".join(f"{say([[2, 3][b], v])} {s:.2f}" for s, b, v in found)
        lines.append(f"  {what:<18} {pairs}")
    return "\n".join(lines)


def contrastive() -> str:
    """G5: the candidates of one step."""
    model, alpha, k = FiveWords(), 0.6, 3
    p, seen = np.exp(model.z[0]), np.exp(model.z[[2, 0]])  # after 'cat the'
    best = np.argsort(-p, kind="stable")[:k]
    h = np.exp(model.z[best])
    cosines = degeneration(h, seen)
    taken = choose(p[best], h, seen, alpha)
    columns = {
        "p": p[best], "max cos": cosines,
        "score": (1 - alpha) * p[best] - alpha * cosines,
        "": ["<- taken" if i == taken else "" for i in range(k)],
    }  # fmt: skip
    words = [model.tokenizer.words[v] for v in best]
    return f"penalty_alpha={alpha}, top_k={k}, after 'cat the'\n\n" + table(
        columns, words
    )


def normalisation() -> str:
    """G6: one sum at five lengths."""
    lengths, total = [1, 2, 4, 8, 16], -4.0
    columns: dict[str, Any] = {}
    for kind, alpha in (("hf", 0.0), ("hf", 1.0), ("gnmt", 1.0)):
        columns[f"{kind}, alpha {alpha:g}"] = [
            total / length_norm(n, alpha, kind) for n in lengths
        ]
    return f"a text with sum log p = {total}\n\n" + table(
        columns, [f"{n} long" for n in lengths]
    )


def best_of() -> str:
    """G8: samples, and the likeliest."""
    drawn = FiveWords().generate(
        "the", max_new_tokens=3, do_sample=True, seed=2, num_return_sequences=4
    )
    means = [reranking.likelihood(text.logprobs) for text in drawn]
    lines = ["best_of=4, 3 words after 'the'", ""]
    for text, mean in zip(drawn, means, strict=True):
        mark = "  <- returned" if mean == max(means) else ""
        lines.append(f"  {say(text.ids):<24} mean log p {mean:.3f}{mark}")
    return "\n".join(lines)


TEXTS = ["the old cat", "the cat", "a queen", "the old queen", "the cat"]


def self_consistency() -> str:
    """G9: the last word is the answer."""
    answer, share = reranking.self_consistency(TEXTS, lambda text: text.split()[-1])
    counts = Counter(text.split()[-1] for text in TEXTS)
    lines = [f"5 texts, of which the last word counts: {', '.join(TEXTS)}", ""]
    lines += [f"  {word:<6} {n}" for word, n in counts.items()]
    return "\n".join([*lines, "", f"  answer: {answer}, of {share:.0%} of the texts"])


def bayes_risk() -> str:
    """G10: how alike each text is to all."""
    alike = [sum(reranking.overlap(a, b) for b in TEXTS) for a in TEXTS]
    best = reranking.minimum_bayes_risk(TEXTS)
    lines = ["u: the share of words in common (F1)", ""]
    for i, (text, total) in enumerate(zip(TEXTS, alike, strict=True)):
        mark = "  <- returned" * (i == best)
        lines.append(f"  {text:<14} sum of u {total:.3f}{mark}")
    return "\n".join(lines)


def cot() -> str:
    """G11: branches and their gaps."""
    found = FiveWords().generate(
        "the", max_new_tokens=3, cot_branches=3, num_return_sequences=3
    )
    lines = ["cot_branches=3, 3 words after 'the'", ""]
    lines += [
        f"  {say(text.ids):<24} mean p_1 - p_2 {text.score:.3f}" for text in found
    ]
    return "\n".join([*lines, "", "  the surest branch comes first"])


def patience() -> str:
    """G7: who waits for more texts to end may find a better one."""
    lines = ["num_beams=2, early_stopping=True, after 'the'", ""]
    for value in (0.5, 1.0, 2.0):
        model = ending()
        text = model.generate(
            "the", max_new_tokens=5, num_beams=2, patience=value, early_stopping=True
        )
        lines.append(
            f"  patience={value:g}: stops with {round(2 * value)} texts, after "
            f"{model.readings} steps: {say(text.ids, ENDING)}, score {text.score:.3f}"
        )
    return "\n".join(lines)


def phrase_ban() -> str:
    """E17."""
    return compared("phrase ban", banned_strings=["cat the"])


def exact() -> str:
    """E19: masking distorts the law, exact sampling does not."""
    model, texts = ending(), [[1, 2, 3], [3]]  # 'cat old queen', 'queen', then the end
    law, masked = [], []
    for text in texts:
        ids, p, q = [0], 1.0, 1.0
        for step, id in enumerate([*text, 4]):
            here = np.exp(model.z[ids[-1]])
            allowed = {([*t, 4])[step] for t in texts if t[:step] == text[:step]}
            p *= here[id]
            q *= here[id] / sum(here[v] for v in allowed)
            ids.append(id)
        law.append(p)
        masked.append(q)
    found = model.generate(
        "the",
        max_new_tokens=4,
        do_sample=True,
        num_return_sequences=300,
        seed=1,
        choice=texts,
        exact_constraint="rejection",
    )
    drawn = Counter(tuple(text.ids[:-1]) for text in found)
    lines = [
        f"choice={texts}, exact_constraint='rejection', 300 texts after 'the'",
        "",
        f"  {'text':<18} {'law':>6}  {'masked':>6}  {'drawn':>6}",
    ]
    for text, p, q in zip(texts, law, masked, strict=True):
        share = drawn[tuple(text)] / 300
        lines.append(
            f"  {say(text, ENDING):<18} {p / sum(law):6.3f}  {q:6.3f}  {share:6.3f}"
        )
    return "\n".join(lines)


SEARCHES: dict[str, Callable[[], str]] = {
    "beam search": lambda: compared("beam search", num_beams=2),
    "beam-search multinomial sampling": multinomial,
    "diverse beam search": lambda: compared(
        "diverse beam search", num_beams=2, num_beam_groups=2, diversity_penalty=2.0,
        num_return_sequences=2),
    "stochastic beam search": lambda: compared(
        "stochastic beam search", num_beams=3, stochastic_beams=True,
        num_return_sequences=3),
    "contrastive search": contrastive,
    "length normalisation": normalisation,
    "patience": patience,
    "best of n": best_of,
    "self-consistency": self_consistency,
    "minimum Bayes risk": bayes_risk,
    "CoT-decoding": cot,
    "power sampling": lambda: compared(
        "power sampling", do_sample=True, power_alpha=4.0, seed=1),
    "constrained beam search": lambda: compared(
        "constrained beam search", num_beams=2, force_words_ids=[[3, 2]]),
    "phrase ban": phrase_ban,
    "exact constrained sampling": exact,
}  # fmt: skip
