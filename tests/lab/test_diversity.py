"""Measures of diversity equal nltk's values and those that a hand computes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.lab import diversity as d

FOX, CAT, DOG = map(
    str.split,
    (
        "the quick brown fox jumps over the lazy dog and the quick brown fox sleeps",
        "the quick brown cat jumps over a lazy dog and the cat sleeps well",
        "a slow green dog sits under the busy fox",
    ),
)

# nltk 3.10.4: sentence_bleu(references, candidate,
#     smoothing_function=SmoothingFunction().method1)
NLTK = [
    (FOX, [CAT, DOG], 0.27882410979222033),
    (DOG, [FOX, CAT], 0.019457849455649996),
    (CAT, [FOX], 0.27392758081541024),
    (DOG, [CAT], 0.018107569251105026),
    (CAT, [CAT, DOG], 1.0),
    (FOX[:6], [FOX, DOG], 0.6065306597126334),  # shorter than both: brevity
]

texts = st.lists(
    st.lists(st.integers(0, 5), min_size=4, max_size=15), min_size=3, max_size=6
)


@pytest.mark.parametrize(("candidate", "references", "expected"), NLTK)
def test_bleu_matches_reference(candidate, references, expected):
    assert d.bleu(candidate, references) == pytest.approx(expected, rel=1e-12)


@given(texts)
def test_self_bleu_is_the_mean_of_bleus(rows):
    others = [rows[:i] + rows[i + 1 :] for i in range(len(rows))]
    each = [d.bleu(row, rest) for row, rest in zip(rows, others, strict=True)]
    assert d.self_bleu(rows) == pytest.approx(sum(each) / len(each), rel=1e-9)
    left_out = [d.self_bleu(rest) for rest in others]
    assert d.leave_one_out_self_bleu(rows) == pytest.approx(left_out, rel=1e-9)


@given(texts)
def test_measures_do_not_depend_on_the_order_of_texts_or_the_names_of_tokens(rows):
    renamed = [[f"<{token}>" for token in row] for row in reversed(rows)]
    assert d.self_bleu(renamed) == pytest.approx(d.self_bleu(rows), rel=1e-9)
    for n in (1, 2, 3):
        assert d.distinct_n(renamed, n) == d.distinct_n(rows, n)


@given(texts)
def test_measures_stay_in_their_range_and_copies_lower_them(rows):
    assert 0 < d.self_bleu(rows) <= 1 + 1e-12
    assert d.self_bleu([*rows, *rows]) == pytest.approx(1)
    for n in (1, 2, 3, 4):
        assert 0 < d.distinct_n(rows, n) <= 1
        assert d.distinct_n(rows + rows, n) == pytest.approx(d.distinct_n(rows, n) / 2)


def test_values_by_hand():
    # a b | b c | c a | a b | b b: four different bigrams of five
    assert d.distinct_n(["abcabb"], 2) == 4 / 5
    assert d.repetition("abcabb", 2) == pytest.approx(1 / 5)
    assert d.distinct_n(["ab", "ba"], 1) == 2 / 4
    assert d.distinct_n(["ab", "ba"], 2) == 1  # no bigram across texts
    assert d.recent_repetition("abca", 2) == 0
    assert d.recent_repetition("abca", 3) == 1 / 4
    # two ranks: the slope is log(count 1 / count 2) / log 2
    assert d.zipf_slope("aaaab") == pytest.approx(2)
    assert d.zipf_slope("abcd") == 0


def test_the_slope_of_zipfs_law_is_found():
    for s in (0.5, 1.0, 1.5):
        tokens = [r for r in range(1, 51) for _ in range(round(1e6 * r**-s))]
        assert d.zipf_slope(tokens) == pytest.approx(s, abs=1e-3)


def test_too_few_tokens_give_nan():
    for value in (
        d.distinct_n([], 1),
        d.distinct_n(["ab"], 3),
        d.repetition("a", 2),
        d.zipf_slope("aaa"),
        d.self_bleu(["abcd"]),
        d.bleu("", ["a"]),
        d.recent_repetition("", 4),
    ):
        assert math.isnan(value)
