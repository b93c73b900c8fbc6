"""How varied texts are: distinct-n, self-BLEU, repetition, the slope of Zipf's law.

Pure functions over tokens: ids, words, whatever can be counted. A text with too few
tokens for a measure gives NaN. Nothing here says whether a text is any good: noise is
the most varied of all. How probable a text is stands in npgpt.evaluation.score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

import numpy as np

from npgpt.shapes import Float

Tokens = Sequence[Hashable]


def ngrams(tokens: Tokens, n: int) -> Counter:
    """The n-grams of a text with how often each occurs.

    >>> ngrams("abab", 2)
    Counter({('a', 'b'): 2, ('b', 'a'): 1})
    """
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def distinct_n(texts: Sequence[Tokens], n: int) -> float:
    """Different n-grams over all n-grams, the texts taken together; 1: none twice.

    |set of n-grams| / number of n-grams. It falls as texts get longer or more, so
    compare equal numbers of equal lengths. Source: Li et al., "A Diversity-Promoting
    Objective Function for Neural Conversation Models" (2016).

    >>> distinct_n(["abab", "abc"], 2)  # ab ba bc, of 5
    0.6
    """
    counts: Counter = Counter()
    for tokens in texts:
        counts += ngrams(tokens, n)
    return len(counts) / counts.total() if counts else math.nan


def repetition(tokens: Tokens, n: int) -> float:
    """seq-rep-n: the share of a text's n-grams that it had said before; 0: none.

    1 - |set of n-grams| / number of n-grams. Source: Welleck et al., "Neural Text
    Generation with Unlikelihood Training" (2019).

    >>> repetition("abcabc", 2)  # ab bc ca, of 5
    0.4
    """
    return 1 - distinct_n([tokens], n)


def recent_repetition(tokens: Tokens, window: int) -> float:
    """rep/l: the share of tokens that are among the `window` tokens before them.

    Source: Welleck et al. (2019), on the generated text itself.

    >>> recent_repetition("abcbd", 2), recent_repetition("abcbd", 1)
    (0.2, 0.0)
    """
    if not len(tokens):
        return math.nan
    again = [x in tokens[max(0, i - window) : i] for i, x in enumerate(tokens)]
    return sum(again) / len(tokens)


def zipf_slope(tokens: Tokens) -> float:
    """Slope s of frequency ~ rank^-s: least squares of log frequency on log rank.

    Near 1 in long human texts; a text that repeats few words has a larger one, noise a
    smaller one. Short texts have a smaller one too: compare equal lengths. Sources:
    Zipf (1949); Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).

    >>> round(zipf_slope("a" * 12 + "b" * 6 + "c" * 4 + "d" * 3), 6)
    1.0
    """
    counts = sorted(Counter(tokens).values(), reverse=True)
    if len(counts) < 2:
        return math.nan
    x, y = np.log(np.arange(1, len(counts) + 1)), np.log(counts)
    return float(-((x - x.mean()) @ (y - y.mean())) / ((x - x.mean()) ** 2).sum())


def bleu(candidate: Tokens, references: Sequence[Tokens], max_n: int = 4) -> float:
    """BLEU: the geometric mean of n-gram precisions, n = 1..max_n, times brevity.

    p_n = sum_g min(count(g), max_r count_r(g)) / sum_g count(g), where 0 matches count
    as 0.1 (Chen and Cherry's method 1); brevity = min(1, exp(1 - r / c)) with c tokens
    and r those of the reference nearest in length. Sources: Papineni et al., "BLEU"
    (2002); Chen and Cherry (2014). It equals nltk's sentence_bleu.

    >>> round(bleu("abc", ["abd"], max_n=2) ** 2, 4)  # 2/3 of a b c, 1/2 of ab bc
    0.3333
    """
    return float(_bleus([candidate, *references], max_n, rows=1)[0, 0])


def self_bleu(texts: Sequence[Tokens], max_n: int = 4) -> float:
    """Mean BLEU of each text against all the others; 1: all the same.

    It rises with the number of texts, so compare equal numbers. Source: Zhu et al.,
    "Texygen" (2018).

    >>> self_bleu(["abcde", "abcde"]), round(self_bleu(["abcde", "fghij"]), 4)
    (1.0, 0.0302)
    """
    if len(texts) < 2:
        return math.nan
    return float(_bleus(texts, max_n).diagonal().mean())


def leave_one_out_self_bleu(
    texts: Sequence[Tokens], max_n: int = 4
) -> Float[np.ndarray, " N"]:
    """self_bleu of the texts without the first, without the second, and so on.

    >>> leave_one_out_self_bleu(["abcde", "abcde", "fghij"]).round(4)
    array([0.0302, 0.0302, 1.    ])
    """
    n = len(texts)
    if n < 3:
        return np.full(n, math.nan)
    table = _bleus(texts, max_n)
    np.fill_diagonal(table, 0)
    return table.sum(axis=0) / (n - 1)


def _bleus(
    texts: Sequence[Tokens], max_n: int, rows: int | None = None
) -> Float[np.ndarray, "R N"]:
    """BLEU of text i against all others but text j; where i = j, against all others.

    Without j the largest count of an n-gram is the second largest where j had it alone.
    """
    N, R = len(texts), len(texts) if rows is None else rows
    sizes = np.array([len(tokens) for tokens in texts])
    if N < 2 or not sizes[:R].all():
        return np.full((R, N), math.nan)
    log_bleu = np.empty((R, N))
    for i in range(R):
        nearest = np.array([_nearest(sizes, i, j) for j in range(N)])
        log_bleu[i] = np.minimum(0, 1 - nearest / sizes[i])
    for n in range(1, max_n + 1):
        found = [ngrams(tokens, n) for tokens in texts]
        column = {g: at for at, g in enumerate(dict.fromkeys(chain(*found)))}
        counts = np.zeros((N, len(column)), np.int32)
        for row, grams in zip(counts, found, strict=True):
            row[[column[g] for g in grams]] = list(grams.values())
        for i in range(R):
            own = counts[i] > 0
            others = counts[:, own]
            mine = others[i].copy()
            others[i] = 0
            second, first = np.sort(others, axis=0)[-2:]
            alone = (others == first) & (first > second)
            matches = np.minimum(mine, np.where(alone, second, first)).sum(axis=1)
            precision = np.where(matches > 0, matches, 0.1) / max(1, mine.sum())
            log_bleu[i] += np.log(precision) / max_n
    return np.exp(log_bleu)


def _nearest(sizes: np.ndarray, i: int, j: int) -> int:
    """Of the texts but i and j the length nearest to i's, the shorter of equals."""
    left = np.delete(sizes, [i, j])
    if not len(left):
        return int(sizes[i])
    return int(min(left, key=lambda size: (abs(size - sizes[i]), size)))
