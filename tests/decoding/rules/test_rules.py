"""Every rule against its oracle: transformers, llama.cpp's vectors, algebra."""

import math

import numpy as np
import pytest
from helpers import FIXTURES

from npgpt.decoding import Context, GenerationConfig, feedback
from npgpt.decoding.chain import build_chain
from npgpt.decoding.rules import (
    bias,
    dry,
    entropy,
    fsd,
    penalties,
    reshaping,
    truncation,
)
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.watermarks import synthid

PROMPT, EOS = 6, [3, 5]
SEQUENCES = [((7,), 1.5), ((1, 2), -2.0), ((4, 4, 9), 3.0)]
BAD = [[8], [2, 1], [0, 6, 6]]
NOW = Context(PROMPT, step=8)

# name in the fixture: the same rule here, on one row of 14 ids, of them 6 prompt
RULES = {
    "temperature": lambda z, ids: reshaping.temperature(z, 0.7),
    "top_k": lambda z, ids: truncation.top_k(z, 5),
    "top_p": lambda z, ids: truncation.top_p(z, 0.8),
    "top_h": lambda z, ids: entropy.top_h(z, 0.4),
    "min_p": lambda z, ids: truncation.min_p(z, 0.15),
    "typical": lambda z, ids: entropy.typical(z, 0.6),
    "epsilon": lambda z, ids: truncation.epsilon(z, 0.05),
    "eta": lambda z, ids: truncation.eta(z, 0.2),
    "repetition": lambda z, ids: penalties.repetition(z, ids, 1.7),
    "encoder_repetition": lambda z, ids: penalties.encoder_repetition(
        z, ids[:PROMPT], 1.7
    ),
    "no_repeat_ngram": lambda z, ids: penalties.no_repeat_ngram(z, ids, 2),
    "encoder_no_repeat_ngram": lambda z, ids: penalties.encoder_no_repeat_ngram(
        z, ids, ids[:PROMPT], 2
    ),
    "sequence_bias": lambda z, ids: bias.sequence_bias(z, ids, SEQUENCES),
    "bad_words": lambda z, ids: bias.bad_words(z, ids, BAD),
    "suppress": lambda z, ids: bias.suppress(z, [1, 4, 6]),
    "begin_suppress": lambda z, ids: bias.begin_suppress(z, NOW, [1, 4]),
    "begin_suppress_first": lambda z, ids: bias.begin_suppress(
        z, Context(PROMPT, 0), [1, 4]
    ),
    "prefix_allowed_tokens": lambda z, ids: bias.prefix_allowed_tokens(
        z, ids, NOW, lambda row, ids: [ids[-1], 2, 11]
    ),
    "min_length": lambda z, ids: bias.min_length(z, ids, EOS, 15),
    "min_new_tokens": lambda z, ids: bias.min_new_tokens(z, NOW, EOS, 9),
    "exponential_decay": lambda z, ids: bias.exponential_decay(z, NOW, EOS, (3, 1.2)),
    "normalize": lambda z, ids: reshaping.normalize(z),
    "remove_invalid": lambda z, ids: reshaping.remove_invalid(z),
}


def compare(name, z, ids, expected):
    """The same tokens removed, the same numbers kept up to float32 rounding."""
    y = RULES[name](z, ids)
    assert ((y > -np.inf) == (expected > -np.inf)).all(), name
    kept = y > -np.inf
    np.testing.assert_allclose(y[kept], expected[kept], rtol=2e-6, atol=2e-6)


@pytest.fixture(scope="module")
def recorded():
    """What transformers did, tools/record_decoding_fixtures.py."""
    with np.load(FIXTURES / "decoding.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", RULES)
def test_matches_reference(name, recorded):
    inputs = recorded["holes" if name == "remove_invalid" else "z"]
    for z, ids, expected in zip(inputs, recorded["ids"], recorded[name], strict=True):
        compare(name, z, ids.tolist(), expected)


def test_forced_eos_matches_reference(recorded):
    for z, expected in zip(recorded["z"], recorded["forced_eos"], strict=True):
        y = bias.forced_eos(z, Context(PROMPT, step=8), [5], max_new_tokens=9)
        # transformers gives the forced token the logit 0; the law is the same
        assert probabilities(y).tolist() == probabilities(expected).tolist()
        assert bias.forced_eos(z, NOW, [5], max_new_tokens=20) is z


def test_synthid_matches_reference(recorded):
    table, ids = recorded["synthid_table"], recorded["synthid_ids"].tolist()
    for t, expected in enumerate(recorded["synthid"]):
        y = synthid.synthid(
            recorded["synthid_z"][t],
            ids[PROMPT : PROMPT + t],
            (654, 400, 836),
            4,
            16,
            512,
            table,
        )
        lowest = np.finfo(np.float32).min
        assert ((y > -np.inf) == (expected > lowest)).all()
        # three rounds of products in float32 there, float64 here
        kept = y > -np.inf
        np.testing.assert_allclose(y[kept], expected[kept], atol=2e-5)


def logs(*p):
    return np.log(np.array(p))


def kept(z):
    return np.flatnonzero(z > -np.inf).tolist()


P4 = logs(0.1, 0.2, 0.3, 0.4)
FLAT5 = np.log(np.full(5, 0.2))


@pytest.mark.parametrize(
    ("rule", "z", "expected"),
    [  # llama.cpp's own vectors: what is left, renormalised
        (lambda z: reshaping.temperature(z, 1.0), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: reshaping.temperature(z, 0.0), P4, [0, 0, 0, 1]),
        (lambda z: truncation.top_k(z, 1), P4, [0, 0, 0, 1]),
        (lambda z: truncation.top_k(z, 3), P4, [0, 0.22222, 0.33333, 0.44444]),
        (lambda z: truncation.top_k(z, 0), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: truncation.top_p(z, 0.0), P4, [0, 0, 0, 1]),
        (lambda z: truncation.top_p(z, 0.7 - 1e-9), P4, [0, 0, 0.428571, 0.571429]),
        (lambda z: truncation.top_p(z, 0.8), P4, [0, 0.22222, 0.33333, 0.44444]),
        (lambda z: truncation.min_p(z, 0.24), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: truncation.min_p(z, 0.26), P4, [0, 2 / 9, 3 / 9, 4 / 9]),
        (lambda z: truncation.min_p(z, 0.49), P4, [0, 2 / 9, 3 / 9, 4 / 9]),
        (lambda z: truncation.min_p(z, 0.51), P4, [0, 0, 3 / 7, 4 / 7]),
        (lambda z: truncation.min_p(z, 0.74), P4, [0, 0, 3 / 7, 4 / 7]),
        (lambda z: truncation.min_p(z, 0.76), P4, [0, 0, 0, 1]),
        (lambda z: truncation.min_p(z, 1.0), P4, [0, 0, 0, 1]),
        (lambda z: truncation.min_p(z, 1.05), P4, [0, 0, 0, 1]),
        (lambda z: truncation.top_n_sigma(z, 1.0), P4, [0, 0, 0.428571, 0.571429]),
        (lambda z: truncation.top_n_sigma(z, 0.0), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: truncation.top_n_sigma(z, 3.0), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: truncation.xtc(z, 0.0, 0.99, 0.09), P4, [1, 0, 0, 0]),
        (lambda z: truncation.xtc(z, 0.0, 0.99, 0.19), P4, [1 / 3, 2 / 3, 0, 0]),
        (lambda z: truncation.xtc(z, 0.0, 0.99, 0.29), P4, [1 / 6, 2 / 6, 3 / 6, 0]),
        (lambda z: truncation.xtc(z, 0.0, 0.99, 0.39), P4, [0.1, 0.2, 0.3, 0.4]),
        (lambda z: entropy.typical(z, 0.5), logs(0.97, 0.01, 0.01, 0.01), [1, 0, 0, 0]),
        (lambda z: entropy.typical(z, 0.5), logs(0.4, 0.2, 0.2, 0.2),
         [0, 1 / 3, 1 / 3, 1 / 3]),
        (lambda z: penalties.repetition(z, [0], 50.0), FLAT5, [0] + [0.25] * 4),
        (lambda z: penalties.repetition(z, [0, 1, 2], 50.0), FLAT5,
         [0, 0, 0, 0.5, 0.5]),
        (lambda z: penalties.presence(penalties.frequency(z, [0], 5.0), [0], 5.0),
         FLAT5, [0.000011] + [0.249997] * 4),
        (lambda z: penalties.presence(
            penalties.frequency(z, [0, 1, 2], 5.0), [0, 1, 2], 5.0),
         FLAT5, [0.000023] * 3 + [0.499966] * 2),
        (lambda z: penalties.presence(
            penalties.frequency(z, [0, 1, 2, 0, 0], 5.0), [0, 1, 2], 5.0),
         FLAT5, [0, 0.000023, 0.000023, 0.499977, 0.499977]),
        (entropy.p_less, logs(0.1, 0.15, 0.2, 0.25, 0.3),
         [0, 0, 0, 0.454545, 0.545455]),
        (entropy.p_less, FLAT5, [0.2] * 5),
        # transformers 5.23, and Aphrodite for top-a
        (lambda z: truncation.top_k(z, 1), np.array([1.0, 3, 3, 2, 0]),
         [0, 0.5, 0.5, 0, 0]),
        (lambda z: entropy.typical(z, 0.2), logs(0.4, 0.3, 0.2, 0.1), [0, 1, 0, 0]),
        (lambda z: truncation.epsilon(z, 0.9), FLAT5, [0.2] * 5),
        (lambda z: truncation.eta(z, 0.3), logs(0.4, 0.3, 0.2, 0.1),
         [4 / 9, 3 / 9, 2 / 9, 0]),
        (lambda z: penalties.repetition(z, [0, 0, 2], 2.0),
         np.array([2.0, 4.0, -3.0, 0.0]), probabilities(np.array([1.0, 4, -6, 0]))),
        (lambda z: penalties.encoder_repetition(z, [0, 0, 2], 2.0),
         np.array([2.0, 4.0, -3.0, 0.0]), probabilities(np.array([4.0, 4, -1.5, 0]))),
        (lambda z: penalties.no_repeat_ngram(z, [1, 1], 2), np.zeros(3), [0.5, 0, 0.5]),
    ],
)  # fmt: skip
def test_matches_published_vectors(rule, z, expected):
    # 5e-6: the vectors are printed with five or six places
    np.testing.assert_allclose(probabilities(rule(z)), expected, atol=5e-6)
    np.testing.assert_allclose(
        probabilities(rule(z.astype(np.float32))), expected, atol=5e-6
    )


@pytest.mark.parametrize(
    ("ids", "settings", "expected"),
    [  # llama.cpp's: multiplier, base, allowed length, window, breakers
        ([0, 1], (1, 1.1, 2, 4), [0.25] * 4),
        ([0, 1, 2, 0, 1], (1, 1.1, 2, 5), [0.296923, 0.296923, 0.109232, 0.296923]),
        ([0, 1, 3, 4, 0, 1], (1, 1.1, 2, 6, frozenset([3])), [0.2] * 5),
        ([0, 1, 2, 0, 1], (2, 1.1, 2, 5),
         [0.241818, 0.241818, 0.032727, 0.241818, 0.241818]),
        ([0, 1, 2, 3, 4, 0, 1], (1, 1.1, 4, 7), [0.2] * 5),
    ],
)  # fmt: skip
def test_dry_matches_published_vectors(ids, settings, expected):
    y = dry.dry(
        np.zeros(len(expected)), ids, dry.DrySettings(float(settings[0]), *settings[1:])
    )
    np.testing.assert_allclose(probabilities(y), expected, atol=5e-6)


def longest_match(ids, v, breakers):
    """The definition of m(v), by trying every length at every place."""
    best = 0
    for end in range(len(ids) - 1):
        if ids[end + 1] != v:
            continue
        n = 0
        while (
            n <= end
            and n < len(ids)
            and ids[end - n] == ids[-1 - n]
            and ids[-1 - n] not in breakers
        ):
            n += 1
        best = max(best, n)
    return best


def test_dry_counts_the_longest_repeat():
    rng = np.random.default_rng(0)
    for case in range(300):
        ids = rng.integers(0, 1 + case % 5 + 1, 1 + case % 17).tolist()
        breakers = frozenset([0]) if case % 3 == 0 else frozenset()
        y = dry.dry(np.zeros(8), ids, dry.DrySettings(1.0, 2.0, 1, -1, breakers))
        for v in range(8):
            m = 0 if v in breakers else longest_match(ids, v, breakers)
            assert y[v] == (-(2.0 ** (m - 1)) if m and len(ids) > 1 else 0), (ids, v)


def test_window_without_decay_is_the_penalty_of_the_window():
    z, ids = np.linspace(-2, 2, 9), [0, 1, 2, 3, 4, 5, 4]
    for n in range(8):
        np.testing.assert_array_equal(
            penalties.windowed_repetition(z, ids, n, 0, 1.3),
            penalties.repetition(z, ids[len(ids) - n :], 1.3),
        )
    whole = penalties.windowed_repetition(z, ids, -1, 0, 1.3)
    np.testing.assert_array_equal(whole, penalties.repetition(z, ids, 1.3))


def test_penalty_fades_linearly_behind_the_window():
    z = np.ones(6)
    y = penalties.windowed_repetition(z, [0, 1, 2, 3, 4, 5], 2, 3, 5.0)
    np.testing.assert_allclose(1 / y, [1, 2, 3, 4, 5, 5])


def test_penalty_decoding_is_its_parts():
    z, text = np.linspace(-2, 2, 6), [1, 2, 2]
    y = penalties.penalty_decoding(z, text, [5], 1.4, 10, 0.5)
    expected = penalties.windowed_repetition(z, text, 10, 0, 1.4)
    expected[5] -= 0.5 * 0.7
    np.testing.assert_allclose(y, expected)


def test_fsd_penalty_is_its_definition():
    """n = 2 by hand: contexts of one token, then the frequency."""
    text = [1, 2, 1, 3, 1]  # after 1 came 2 and 3, each once of two times
    unigram = {1: 3 / 5, 2: 1 / 5, 3: 1 / 5, 0: 0}
    for v in range(4):
        seen = 0.9 * 1 / 3 + 0.1 * unigram[v] if v in (2, 3) else unigram[v]
        assert fsd.ngram_penalty(text, v, 2, 0.9) == pytest.approx(seen)
    assert fsd.ngram_penalty([1], 1, 3, 0.9) == 0  # shorter than n - 1


def test_hamming_and_degeneration_are_their_formulas():
    assert penalties.frequency(np.zeros(4), [2, 2, 1], 0.25).tolist() == [
        0,
        -0.25,
        -0.5,
        0,
    ]
    rng = np.random.default_rng(0)
    h, seen = rng.standard_normal((3, 5)), rng.standard_normal((7, 5))
    for i, similarity in enumerate(penalties.degeneration(h, seen)):
        cos = [h[i] @ s / math.sqrt(h[i] @ h[i] * (s @ s)) for s in seen]
        assert similarity == pytest.approx(max(cos))


def test_dynamic_temperature_reaches_its_ends():
    flat = np.array([1e-9, 0, 0, 0, 0, 0, 0])
    warm = reshaping.dynamic_temperature(flat, 0.5, 2.0, 1.0)
    np.testing.assert_allclose(warm, flat / 1.5)
    z = np.array([0.0, -30.0, -31.0, -np.inf])  # entropy about 0: T_lo
    y = reshaping.dynamic_temperature(z, 0.5, 1.0, 1.0)
    assert y[0] - y[1] == pytest.approx(60, rel=1e-9)
    assert y[3] == -np.inf


def test_edt_is_its_formula():
    z = logs(0.5, 0.25, 0.25)
    H = 1.5 * math.log(2)
    np.testing.assert_allclose(
        reshaping.edt(z, 0.3, 0.8, 1.2), z / (1.2 * 0.8 ** (0.3 / H))
    )
    np.testing.assert_allclose(reshaping.edt(z, 0.0, 0.8, 1.2), z / 1.2)


def test_quadratic_is_its_formula():
    z = np.array([1.0, 0.0, -2.0, -np.inf])
    y = reshaping.quadratic(z, 0.5, 2.0)
    expected = [1 - 0.5 * (0.5 * d**2 - 0.5 * d**3) for d in (0, -1, -3)]
    np.testing.assert_allclose(y[:3], expected)
    assert y[3] == -np.inf
    np.testing.assert_allclose(reshaping.quadratic(z, 1.0, 2.0)[1], 0)  # d = -1 stays


def test_skew_is_the_inverse_cdf_with_a_bent_uniform():
    z = logs(0.1, 0.45, 0.15, 0.3)
    p = probabilities(reshaping.skew(z, 0.7))
    order = [1, 3, 2, 0]
    F = np.cumsum(np.exp(z)[order])
    u = (np.arange(200_000) + 0.5) / 200_000
    drawn = np.bincount(np.searchsorted(F, u ** math.exp(-0.7)), minlength=4)
    np.testing.assert_allclose(p[order], drawn / len(u), atol=1e-5)  # the grid's step
    np.testing.assert_allclose(probabilities(reshaping.skew(z, 0.0)), np.exp(z))


def test_factual_nucleus_is_the_nucleus_of_its_step():
    z = np.log(np.arange(1.0, 9.0))
    for text, t in (([], 0), ([1, 2], 2), ([1, 9, 2], 1), ([9], 0), ([9, 9, 4, 4], 2)):
        y = truncation.factual_nucleus(z, text, 0.7, 0.3, (9,), 0.9)
        np.testing.assert_array_equal(y, truncation.top_p(z, max(0.3, 0.9 * 0.7**t)))


def test_p_less_norm_is_its_formula():
    z = logs(0.05, 0.1, 0.15, 0.3, 0.4)  # sum p^2 = 0.285
    assert kept(entropy.p_less(z, "on")) == [3, 4]
    # (V 0.285 - 1) / (V - 1): 0.106 for V = 5, 0.166 where two more ids are removed
    assert kept(entropy.p_less(z, "norm")) == [2, 3, 4]
    more = np.append(z, [-np.inf, -np.inf])
    assert kept(entropy.p_less(more, "norm")) == [3, 4]
    assert kept(entropy.p_less(FLAT5, "norm")) == [0, 1, 2, 3, 4]


def test_top_a_and_tail_free_keep_what_is_published():
    z = np.array([2.0, 1.0, 0.0, -2.0])
    assert kept(truncation.top_a(z, 0.5)) == [0, 1]
    # p = (.4, .3, .2, .1): no bend anywhere but rounding; a step has one
    p = logs(0.5, 0.3, 0.1, 0.06, 0.04)
    # second differences 0, .16, .02 -> shares 0, .89, .11
    assert kept(entropy.tail_free(p, 0.5)) == [0, 1]
    assert kept(entropy.tail_free(p, 0.95)) == [0, 1, 2]
    assert kept(entropy.tail_free(FLAT5, 0.5)) == [0, 1, 2, 3, 4]


def test_mirostat_k_is_its_formula():
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    t = [math.log((i + 2) / (i + 1)) for i in range(5)]
    b = [math.log(p[i] / p[i + 1]) for i in range(5)]
    s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
    for mu in (0.5, 1.0, 2.0, 3.0):
        k = ((s - 1) * 2**mu / (1 - 6 ** -(s - 1))) ** (1 / s)
        assert feedback.mirostat_k(p, mu, 100) == min(6, max(1, int(k)))
    # V is the vocabulary, whatever a truncation has left of it
    k = ((s - 1) * 2**2.0 / (1 - 60.0 ** -(s - 1))) ** (1 / s)
    assert feedback.mirostat_k(np.append(p, np.zeros(54)), 2.0, 100) == int(k)
    assert feedback.mirostat_k(np.full(6, 1 / 6), 2.0, 100) == 6  # s = 0
    zipf = 1 / np.arange(1.0, 9.0)  # s = 1, eps = 0
    expected = 2**2.0 / math.log(8)
    assert feedback.mirostat_k(zipf / zipf.sum(), 2.0, 100) == int(expected)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_holds_the_surprise(version):
    rng = np.random.default_rng(0)
    mu, tau, surprises = 6.0, 3.0, []
    for _ in range(3000):
        z = rng.standard_normal(200) * 2
        if version == 1:
            _, new = feedback.mirostat(z, rng.random(200), mu, tau, 0.1, 100)
        else:
            _, new = feedback.mirostat_v2(z, rng.random(200), mu, tau, 0.1)
        surprises.append((mu - new) / 0.1 + tau)
        mu = new
    # sum of (S - tau) telescopes to (mu_0 - mu_n) / eta: a few bits over 3,000 tokens
    assert np.mean(surprises) == pytest.approx(tau, abs=0.05)


def test_adaptive_p_holds_the_probability():
    rng = np.random.default_rng(0)
    state = feedback.adaptive_start(0.3, 0.9)
    taken = []
    for _ in range(3000):
        z = logs(0.45, 0.35, 0.15, 0.05) + 0.2 * rng.standard_normal(4)
        id, state = feedback.adaptive_p(z, rng.random(4), state, 0.3, 0.9)
        taken.append(probabilities(z)[id])
    # rows with tokens on both sides of the target
    assert np.mean(taken) == pytest.approx(0.3, abs=0.03)


def test_bias_is_added_and_infinity_refused():
    from npgpt import DecodingError

    z = np.zeros(3)
    assert bias.logit_bias(z, {0: 2.0, 1: -np.inf}).tolist() == [2, -np.inf, 0]
    with pytest.raises(DecodingError, match=r"\+inf"):
        bias.logit_bias(z, {0: np.inf})
    assert bias.ignore_eos(z, [1]).tolist() == [0, -np.inf, 0]
    assert bias.allow(z, [2]).tolist() == [-np.inf, -np.inf, 0]
    assert bias.forced_bos(z, Context(3, 0), 1).tolist() == [-np.inf, 0, -np.inf]
    assert bias.forced_bos(z, Context(3, 1), 1) is z


def test_published_effects_of_the_order():
    """p = (.4, .3, .2, .1) at T = 2: temperature first or last."""
    z = logs(0.4, 0.3, 0.2, 0.1)
    warm = reshaping.temperature(z, 2.0)
    assert len(kept(truncation.top_p(warm, 0.7))) == 3
    assert len(kept(reshaping.temperature(truncation.top_p(z, 0.7 - 1e-9), 2.0))) == 2
    assert len(kept(truncation.min_p(warm, 0.45))) == 4
    assert len(kept(truncation.min_p(z, 0.45))) == 3


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_can_ignore_the_prompt(name):
    """Either alone: the tokens of the prompt (0 and 1) are not counted."""
    options = GenerationConfig(**{name: 1.0, "penalties_ignore_prompt": True})
    (rule,) = build_chain(options)
    assert str(rule) == f"{name}(1.0, True)"
    y = rule.apply([0, 1, 2], np.zeros(4), Context(prompt_length=2, step=1))
    assert y.tolist() == [0, 0, -1, 0]
