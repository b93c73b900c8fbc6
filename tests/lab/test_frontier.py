"""Intervals cover what they promise; the frontier is what no other setting beats."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.lab.diversity import distinct_n
from npgpt.lab.frontier import find_frontier, pareto
from npgpt.lab.intervals import Interval, interval, jackknife, student_t
from npgpt.lab.measures import Measures, measure
from npgpt.lab.plan import Text

whole = st.integers(0, 6).map(float)  # few values, so that ties are frequent


@given(st.lists(st.tuples(whole, whole), min_size=1, max_size=12))
def test_frontier_is_undominated_and_dominates_all_others(points):
    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    on = pareto(points)
    assert on
    for i, point in enumerate(points):
        assert any(beats(points[j], point) for j in on) == (i not in on)


def test_a_point_without_a_figure_is_on_no_frontier():
    assert pareto([(math.nan, 1.0), (0.5, 2.0), (0.7, math.nan)]) == [1]


# scipy 1.17.1: scipy.stats.t.ppf(0.975, df)
T = {1: 12.7062, 1.5: 6.0326, 2: 4.3027, 4: 2.7764, 7: 2.3646, 12: 2.1788, 45: 2.0141,
     500: 1.9647}  # fmt: skip


@pytest.mark.parametrize(("df", "expected"), T.items())
def test_students_quantile_matches_reference_and_is_never_too_small(df, expected):
    assert expected - 1e-3 <= student_t(df) <= expected * (1.02 if df >= 2 else 1.25)


def test_jackknife_of_a_mean_is_its_textbook_interval():
    x = [3.0, 5.0, 4.0, 8.0, 1.0]
    half = 2.7764 * np.std(x, ddof=1) / math.sqrt(5)
    found = interval([jackknife(np.mean, x)])
    assert found == pytest.approx((4.2, 4.2 - half, 4.2 + half), rel=1e-4)
    assert interval([jackknife(np.mean, x)], 2.0, 6.0)[1:] == (2.0, 6.0)


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("measure_of", ["mean", "distinct"])
def test_intervals_of_five_draws_cover_the_truth(measure_of, prompts):
    """95 % of them would; a percentile bootstrap of the mean reaches about 83 %."""
    rng = np.random.default_rng(1)
    rounds, seeds = 1000, 5

    def draw():
        if measure_of == "mean":
            return rng.normal(size=seeds).tolist()
        return [tuple(rng.zipf(1.6, 20).tolist()) for _ in range(seeds)]

    def statistic(row):
        return float(np.mean(row)) if measure_of == "mean" else distinct_n(row, 1)

    rows = [[draw() for _ in range(prompts)] for _ in range(rounds)]
    found = [interval([jackknife(statistic, row) for row in group]) for group in rows]
    truth = np.mean([x.value for x in found])  # of 1000: its own error is a thirtieth
    covered = np.mean([x.low <= truth <= x.high for x in found])
    # three standard errors of a share of 1000 at 95 %: 0.021
    assert covered > 0.95 - 0.021


def text(setting, seed, ids, logprob=-10.0, prompt=0):
    return Text(setting, prompt, seed, "", ids, "length", logprob)


def test_one_text_again_and_again_has_no_diversity():
    same = [text("greedy", k, [1, 2, 3, 4, 5, 6]) for k in range(5)]
    other = [text("noise", k, list(range(10 * k, 10 * k + 6))) for k in range(5)]
    greedy, noise = measure(same + other)
    assert greedy.diversity == greedy.unique == (0, 0, 0)
    assert noise.unique.value == 1
    assert noise.diversity.value > 0.9
    assert greedy.distinct_1.value == 1 / 5
    assert noise.distinct_1.value == 1
    assert greedy.perplexity.value == pytest.approx(math.exp(10 / 6))
    assert greedy.judge_perplexity is None


def test_figures_average_over_prompts_and_pool_within():
    rows = [
        text("a", 0, [1, 2, 3, 4], -4.0),
        text("a", 1, [1, 2, 3, 4, 5, 6], -11.0),
        text("a", 10_000, [1, 2, 3, 9], -2.0, 1),
        text("a", 10_001, [1, 2, 3, 9], -2.0, 1),
    ]
    (found,) = measure(rows)
    assert found.perplexity.value == pytest.approx(math.exp((15 / 10 + 4 / 8) / 2))
    assert found.unique.value == 0.5
    assert found.tokens.value == 4.5
    assert math.isnan(found.diversity.low)  # without one of two texts none is left


def setting(name, x, y, width=0.0):
    zero = Interval(0, 0, 0)
    figures = dict.fromkeys(Measures.__annotations__, zero) | {
        "name": name,
        "judge_perplexity": None,
        "diversity": Interval(x, x - width, x + width),
        "perplexity": Interval(y, y - width, y + width),
    }
    return Measures(**figures)


def test_the_sentence_names_every_setting_once():
    settings = [
        setting("varied", 0.9, 30),
        setting("sure", 0.1, 3),
        setting("worse", 0.05, 40),
        setting("close", 0.85, 30.05, 0.1),
    ]
    found = find_frontier(settings)
    assert (found.on, found.near, found.behind) == (
        ["sure", "varied"],
        ["close"],
        ["worse"],
    )
    assert found.sentence == (
        "On the frontier of diversity against perplexity, from the most probable to "
        "the most diverse: sure, varied; behind it by no more than the intervals: "
        "close; clearly behind: worse."
    )


def test_the_figure_has_ticks_and_leads_to_labels_that_stand_away():
    from npgpt.lab.figure import plot_frontier

    crowd = [setting(f"number {i}", 0.9 + 0.001 * i, 5 + 0.02 * i) for i in range(6)]
    settings = [setting("sure", 0.1, 3), *crowd, setting("varied", 0.99, 30)]
    (axes,) = plot_frontier(settings, find_frontier(settings)).axes
    low, high = axes.get_ylim()
    ticks = [y for y in axes.get_yticks() if low <= y <= high]
    assert {5.0, 10.0, 20.0} <= set(ticks)
    assert sum(text.get_text() != "" for text in axes.texts) == len(settings)
    leaders = [text for text in axes.texts if text.get_text() == ""]
    assert leaders
    assert all(text.arrow_patch is not None for text in leaders)
