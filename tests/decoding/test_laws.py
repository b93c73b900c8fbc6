"""Laws of everything that claims a distribution, by chi-square with fixed seeds."""

import itertools
import math

import numpy as np
import pytest
from helpers import shapes_unchecked
from laws import REJECT, MarkovModel, chi_square_tail, follows

from npgpt import GenerationConfig
from npgpt.decoding import decode, selectors
from npgpt.decoding.rules import reshaping, truncation
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.watermarks import synthid, watermark

P = np.array([0.05, 0.4, 0.25, 0.3])
Z = np.log(P)
RNG = np.random.default_rng
LOGITS = RNG(3).standard_normal((3, 3)) * 1.3  # the toy Markov model


def test_chi_square_tail_is_published():
    # critical values of tables: P = 0.05, 0.01, 0.001
    for df, x, p in ((1, 3.841, 0.05), (4, 13.277, 0.01), (9, 27.877, 0.001)):
        assert chi_square_tail(x, df) == pytest.approx(p, rel=1e-3)


def test_follows_sees_a_wrong_law():
    draws = RNG(0).choice(4, 5000, p=P)
    assert follows(draws.tolist(), dict(enumerate(P))) > 0.01
    assert follows(draws.tolist(), dict(enumerate([0.25] * 4))) < 1e-10
    assert follows([4], dict(enumerate(P))) == 0


def texts(model, options, runs, prompt=(0,)):
    """The texts of `runs` seeds, as tuples."""
    found = []
    with shapes_unchecked():
        for seed in range(runs):
            rows = {}
            for step in decode(model, [list(prompt)], options.but(seed=seed)):
                rows.setdefault(step.row, []).append(step.token_id)
            found += [tuple(rows[row]) for row in sorted(rows)]
    return found


@pytest.mark.parametrize("selector", ["inverse_cdf", "gumbel_max", "arithmetic"])
def test_selectors_draw_whole_texts_from_the_model(selector):
    model = MarkovModel(LOGITS, eos=2)
    options = GenerationConfig(do_sample=True, selector=selector, max_new_tokens=3)
    assert follows(texts(model, options, 1500), model.law(0, 3)) > REJECT


def test_gumbel_watermark_draws_from_the_model_over_keys():
    draws = [watermark.gumbel(Z, [2], key, 1) for key in range(4000)]
    assert follows(draws, dict(enumerate(P))) > REJECT


def test_chain_draws_from_the_law_it_states():
    model = MarkovModel(LOGITS)
    options = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=2, max_new_tokens=3
    )
    law = model.law(0, 3, lambda z: truncation.top_k(reshaping.temperature(z, 0.7), 2))
    assert follows(texts(model, options, 1500), law) > REJECT


def test_pairs_without_replacement():
    law = {
        (i, j): P[i] * P[j] / (1 - P[i]) for i, j in itertools.permutations(range(4), 2)
    }
    u = RNG(1).random((6000, 4))
    pairs = (tuple(selectors.without_replacement(Z, x, 2)) for x in u)
    assert follows(pairs, law) > REJECT


def test_sequences_begin_without_replacement():
    model = MarkovModel(np.tile(Z, (4, 1)))
    options = GenerationConfig(
        do_sample=True,
        selector="without_replacement",
        max_new_tokens=1,
        num_return_sequences=4,
    )
    for seed in range(20):
        first = list(texts(model, options.but(seed=seed), 1))
        assert len(set(first)) == 4


def test_arithmetic_sampling_shares_out_its_codes():
    """Of N codes a text of probability q takes floor(Nq) or ceil(Nq)."""
    model, N = MarkovModel(LOGITS), 64
    options = GenerationConfig(
        do_sample=True,
        selector="arithmetic",
        max_new_tokens=3,
        num_return_sequences=N,
    )
    for seed in range(5):
        seen = list(texts(model, options.but(seed=seed), 1))
        for text, q in model.law(0, 3).items():
            assert math.floor(N * q) <= seen.count(text) <= math.ceil(N * q)


@pytest.mark.parametrize("p", [P, np.full(4, 0.25)])
def test_arithmetic_codes_never_run_out_of_bits(p):
    """Far beyond the 53 bits of a code, tokens still follow the law.

    Dividing by 1/4 is exact: no rounding hides that the bits are gone.
    """
    code, draws, rng = 0.37, [], RNG(0)
    for _ in range(4000):
        id, code = selectors.arithmetic(np.log(p), code, rng.random())
        draws.append(id)
    assert follows(draws, dict(enumerate(p))) > REJECT


def test_xtc_is_the_mixture_of_its_outcomes():
    cut = probabilities(truncation.xtc(Z, 0.0, 0.5, 0.2))
    rng = RNG(2)
    draws = []
    for _ in range(6000):
        z = truncation.xtc(Z, rng.random(), 0.3, 0.2)
        draws.append(selectors.inverse_cdf(z, rng.random()))
    assert follows(draws, dict(enumerate(0.3 * cut + 0.7 * P))) > REJECT


def test_skew_draws_with_a_bent_uniform():
    s, u = 0.5, RNG(4).random(6000)
    order = np.argsort(-P)
    F = np.cumsum(P[order])
    draws = order[np.searchsorted(F, u ** math.exp(-s))].tolist()
    assert follows(draws, dict(enumerate(probabilities(reshaping.skew(Z, s))))) > REJECT


GREEN = ("lefthash", "selfhash", "unigram")


@pytest.mark.parametrize("scheme", [*GREEN, "gumbel", "synthid"])
def test_detectors_do_not_accuse_unmarked_text(scheme):
    """p-values of random texts are uniform; z is a normal number cut into deciles."""
    p_values = []
    for seed in range(150):
        ids = RNG(seed).integers(0, 500, 80).tolist()
        if scheme == "synthid":
            p_values.append(synthid.detect(ids, range(1, 31)).p_value)
        else:
            found = watermark.detect(ids, 500, scheme, hashing_key=seed)
            p_values.append(found.p_value)
    if scheme in ("gumbel", "synthid"):  # close to continuous: deciles
        cells = np.minimum((np.array(p_values) * 10).astype(int), 9).tolist()
        assert follows(cells, dict.fromkeys(range(10), 0.1)) > REJECT
    # a false accusation at p < 0.01 happens once in a hundred texts: among 150, more
    # than 9 times with a chance below 1e-4
    assert sum(p < 0.01 for p in p_values) <= 9


@pytest.mark.parametrize("scheme", GREEN)
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_green_score_is_its_formula(scheme, ratio):
    ids = RNG(1).integers(0, 50, 120).tolist()
    found = watermark.detect(ids, 50, scheme, greenlist_ratio=ratio)
    n, T = found.found, found.tokens
    z = (n - ratio * T) / math.sqrt(T * ratio * (1 - ratio))
    assert found.score == pytest.approx(z)
    # the p-value is exact: test_detectors.py::test_green_p_values_are_exact


@pytest.mark.parametrize("scheme", [*GREEN, "gumbel", "synthid"])
def test_detectors_find_the_mark(scheme):
    model = MarkovModel(RNG(0).standard_normal((500, 500)), n_positions=256)
    options = GenerationConfig(do_sample=True, watermark=scheme, max_new_tokens=150)
    (ids,) = texts(model, options, 1)
    if scheme == "synthid":
        keys = options.synthid_keys
        assert synthid.detect(ids, keys).p_value < 1e-6
        assert synthid.detect(ids, [k + 1 for k in keys]).p_value > 1e-4
    else:
        assert watermark.detect(ids, 500, scheme).p_value < 1e-6
        assert watermark.detect(ids, 500, scheme, hashing_key=7).p_value > 1e-4


def test_green_lists_have_their_size():
    for V in (1, 7, 50, 1001):
        for ratio in (0.0, 0.25, 0.5, 1.0):
            green = watermark.green_list(watermark.seed_of(5, [V]), V, ratio)
            assert green.sum() == math.floor(ratio * V)


def test_synthid_keeps_the_law_over_tables():
    """One round of a fair coin for each token leaves the expected p unchanged."""
    rng, mean = RNG(0), np.zeros(4)
    for _ in range(4000):
        table = rng.integers(0, 2, 64)
        mean += probabilities(synthid.synthid(Z, [1], (5, 9), 3, 8, 64, table))
    # the standard error of 4,000 numbers in [0, 1] is under 0.008
    np.testing.assert_allclose(mean / 4000, P, atol=0.03)
