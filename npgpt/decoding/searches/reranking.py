"""Choosing among finished texts: best of n, majority, minimum Bayes risk, CoT-decoding.

The first three take what `generate` returned; best_of and cot_decoding are also
strategies of `generate`. What the texts answer, and how alike two of them are, is the
caller's to say: the defaults are simple.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.decoding.callbacks import named, number
from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.sampling import sample, write
from npgpt.decoding.searches.hypotheses import ranked
from npgpt.decoding.selectors import greedy
from npgpt.errors import DecodingError
from npgpt.support.arguments import shown


@strategy("G8", "best of n", kind="search", sampling=True)
@parameter("best_of", 1, "n; 1 is off.", 1)
@parameter(
    "best_of_by", ("mean", "sum"), "Log-probability a token, or of the whole text."
)
@example(best_of=4, do_sample=True, num_return_sequences=2, seed=2)
def best_of(job: Job) -> Iterator[Step]:
    """Draws n texts, returns the likeliest: argmax_i (1/t_i) sum log p, or sum log p.

    num_return_sequences of them, best first; the mean is a token's, the sum a whole
    text's, which likes short ones. Source: Nakano et al., "WebGPT" (2021,
    arXiv:2112.09332).
    """
    job.check_search("best_of")
    n, keep = job.options.best_of, job.options.num_return_sequences
    if keep > n:
        raise DecodingError(f"num_return_sequences {keep} is more than best_of {n}")
    drawn = job.options.but(best_of=None, best_of_by=None, num_return_sequences=n)
    steps = sample(job.model, job.prompts, drawn)

    def score(text: Sequence[Step]) -> float:
        return likelihood([step.logprob for step in text], job.options.best_of_by)

    return ranked(steps, score, len(job.prompts) * n, n, keep)


def likelihood(logprobs: Sequence[float], by: str = "mean") -> float:
    """Mean log-probability a token, or the sum of the text, in nats.

    >>> likelihood([-1.0, -3.0]), likelihood([-1.0, -3.0], "sum")
    (-2.0, -4.0)
    """
    total = float(sum(logprobs))
    return total if by == "sum" else total / max(1, len(logprobs))


def last_number(text: str) -> str:
    """The last number in a text, as an answer; the whole text if there is none.

    >>> last_number("3 and 4 make 7.")
    '7'
    """
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return numbers[-1] if numbers else text.strip()


@strategy("G9", "self-consistency", kind="after")
@example(extract=lambda text: text.split()[-1])
def self_consistency(
    texts: Sequence[Any], extract: Callable[[str], Any] = last_number
) -> tuple[Any, float]:
    """The answer that most of n texts give: argmax_a (number of texts that answer a).

    Returned with the share of texts that give it. Texts are strings or Generations; of
    equally frequent answers the first one wins. Source: Wang et al., "Self-Consistency
    Improves Chain of Thought Reasoning" (2022, arXiv:2203.11171).

    >>> self_consistency(["so 7", "it is 8", "7"])
    ('7', 0.6666666666666666)
    """
    if not texts:
        raise DecodingError("self_consistency needs at least one text")
    found = [extract(_text(text)) for text in texts]
    try:
        answers = Counter(found)
    except TypeError:
        raise DecodingError(
            f"{named(extract)} returned answers that cannot be counted, such as "
            f"{shown(found[0])}; a text or a number can"
        ) from None
    answer, count = answers.most_common(1)[0]
    return answer, count / len(texts)


def overlap(a: str, b: str) -> float:
    """Likeness of two texts: F1 of their words, 2 |a n b| / (|a| + |b|), in [0, 1].

    >>> overlap("a red fox", "the red fox")
    0.6666666666666666
    """
    x, y = Counter(a.split()), Counter(b.split())
    total = x.total() + y.total()
    return 2 * (x & y).total() / total if total else 1.0


@strategy("G10", "minimum Bayes risk", kind="after")
def minimum_bayes_risk(
    texts: Sequence[Any], utility: Callable[[str, str], float] = overlap
) -> int:
    """The text most like the other texts: argmax_i sum_j u(y_i, y_j).

    Returned as its index. The samples stand for the law of the model; n^2 calls of the
    utility; the first of equals. Sources: Eikema and Aziz, "Is MAP Decoding All You
    Need?" (2020); Freitag et al., 2021 (arXiv:2108.04718).

    >>> minimum_bayes_risk(["a b c", "a b", "x y"])
    0
    """
    if not texts:
        raise DecodingError("minimum_bayes_risk needs at least one text")
    words = [_text(text) for text in texts]
    return int(np.argmax([sum(number(utility, a, b) for b in words) for a in words]))


def _text(text: Any) -> str:
    return text if isinstance(text, str) else text.text


@strategy("G11", "CoT-decoding", kind="search")
@parameter("cot_branches", 0, "k first tokens; 0 is off.", 1)
@fields(deterministic=True)
@example(cot_branches=3, num_return_sequences=3)
def cot_decoding(job: Job) -> Iterator[Step]:
    """Branches at the first token, keeps the surest answer: the branch with the largest
    mean gap p_1 - p_2.

    Greedy texts from each of the cot_branches best first tokens, surest first. The
    paper takes it over the answer's tokens alone, which only a parser of answers knows;
    here it is over all new tokens. Source: Wang and Zhou, "Chain-of-Thought Reasoning
    Without Prompting" (2024, arXiv:2402.10200).
    """
    options, k = job.options, job.options.cot_branches
    job.check_search("cot_branches")
    job.check_selector("cot_branches")
    if not options.greedy:
        raise DecodingError("cot_branches excludes do_sample=True: branches are greedy")
    if k > job.config.vocab_size:
        raise DecodingError(f"cot_branches {k} is more than the vocabulary")
    if options.num_return_sequences > k:
        raise DecodingError("num_return_sequences is more than cot_branches")
    rows = job.rows(k)
    gaps: list[list[float]] = [[] for _ in rows]

    def choose(row: Row, logits: np.ndarray) -> Step:
        z = row.processed(logits)
        gaps[row.index].append(probability_gap(z))
        return record(row, greedy(z) if row.step else _nth(z, row.index % k), logits, z)

    for row in rows:
        row.sequence = 0  # branches are of one text
    steps = write(job, rows, choose)

    def score(text: Sequence[Step]) -> float:
        return float(np.mean(gaps[text[0].row]))

    return ranked(steps, score, len(rows), k, options.num_return_sequences)


def _nth(z: np.ndarray, n: int) -> int:
    order = np.argsort(-z, kind="stable")
    if z[order[n]] == -np.inf:
        raise DecodingError(f"only {n} first tokens are possible; lower cot_branches")
    return int(order[n])


def probability_gap(z: np.ndarray) -> float:
    """p_1 - p_2, of the two most probable tokens.

    >>> round(probability_gap(np.log(np.array([0.5, 0.3, 0.2]))), 6)
    0.2
    """
    if len(z) < 2:
        return 1.0
    two = np.partition(probabilities(z), -2)[-2:]
    return float(two[1] - two[0])
