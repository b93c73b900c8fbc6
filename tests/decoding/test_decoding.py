"""Laws of the rules, the selectors and the random numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding import Context, randomness, selectors
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.rules import bias, reshaping, truncation
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.stopping import StopStrings

logits = hnp.arrays(
    np.float32,
    st.integers(1, 30),
    elements=st.one_of(
        st.floats(-50, 50, width=32, allow_subnormal=False), st.just(-np.inf)
    ),
).filter(lambda z: np.isfinite(z).any())
fractions = st.floats(0, 1)


@given(logits, st.integers(1, 40))
def test_top_k_keeps_the_k_largest_and_their_ties(z, k):
    kept = truncation.top_k(z, k) > -np.inf
    largest = np.sort(z)[::-1][:k]
    assert (kept == ((z >= largest[-1]) & (z > -np.inf))).all()


@given(logits, fractions)
def test_nucleus_is_smallest_set_reaching_p(z, p):
    kept = truncation.top_p(z, p) > -np.inf
    mass = probabilities(z)
    smallest = mass[kept].min()
    # every kept token is at least as probable as every removed one
    assert kept.any()
    assert (mass[~kept] <= smallest).all()
    # the set reaches p (float64 sums of at most 30 numbers)
    assert mass[kept].sum() >= p - 1e-9
    # and without its least probable tokens (ties go together) it would not
    if p > 0:
        assert mass[kept & (z > z[kept].min())].sum() < p + 1e-9


@given(logits, fractions)
def test_truncations_change_no_kept_logit(z, p):
    for cut in (truncation.top_p(z, p), truncation.top_k(z, 1 + int(10 * p))):
        assert cut.dtype == z.dtype
        assert ((cut == z) | (cut == -np.inf)).all()
        assert cut[z.argmax()] == z.max()


@given(logits, st.floats(0.01, 100))
def test_temperature_keeps_the_order(z, T):
    y = reshaping.temperature(z, T)
    assert y.dtype == z.dtype
    assert (y == -np.inf).tolist() == (z == -np.inf).tolist()
    order = np.argsort(z, kind="stable")
    assert (np.diff(y[order][y[order] > -np.inf]) >= 0).all()


@given(logits, st.sampled_from([1e-45, 1e-300, 1e300, np.inf]))
def test_extreme_temperatures_are_greedy_or_uniform(z, T):
    p = probabilities(reshaping.temperature(z, T))
    if T > 1:
        assert p[z > -np.inf] == pytest.approx(1 / (z > -np.inf).sum())
    elif T < 1e-44:
        assert (p > 0).tolist() == (z == z.max()).tolist()


@given(logits, st.integers(1, 10), st.floats(0.1, 10))
def test_temperature_commutes_with_top_k(z, k, T):
    one = truncation.top_k(reshaping.temperature(z, T), k)
    other = reshaping.temperature(truncation.top_k(z, k), T)
    # dividing may round two neighbours to a tie, which top-k then keeps
    if len(np.unique(z)) == len(np.unique(reshaping.temperature(z, T))):
        assert (one == other).all()


@given(logits)
def test_greedy_takes_the_first_of_the_largest(z):
    assert selectors.greedy(z) == z.tolist().index(z.max())


@given(logits, st.floats(0, 1, exclude_max=True))
def test_inverse_cdf_takes_the_slice_that_holds_u(z, u):
    i = selectors.inverse_cdf(z, u)
    p = probabilities(z)
    assert p[i] > 0
    assert p[:i].sum() <= u + 1e-12
    assert u <= p[: i + 1].sum() + 1e-12


def chi_square(counts, p):
    expected = p * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_inverse_cdf_draws_from_softmax():
    z = np.log(np.array([0.05, 0.4, 0.25, 0.3]))
    u = np.random.default_rng(1).random(20_000)
    counts = np.bincount([selectors.inverse_cdf(z, x) for x in u], minlength=4)
    assert chi_square(counts, probabilities(z)) < 21.1  # 3 degrees, p = 1e-4


@pytest.mark.parametrize("axis", ["seed", "row", "position", "purpose"])
def test_draws_are_uniform_and_independent_along_every_name(axis):
    base = dict(seed=5, row=0, position=0, purpose=0)
    u = np.array([randomness.uniform(**{**base, axis: i}) for i in range(4000)])
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.bincount((u * 10).astype(int), minlength=10)
    assert chi_square(counts, np.full(10, 0.1)) < 33.7  # 9 degrees, p = 1e-4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(len(u))


@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(0, 1000))
def test_draws_depend_on_their_name_alone(seed, row, position):
    name = (seed, row, position, randomness.TOKEN)
    assert randomness.uniform(*name) == randomness.uniform(*name)
    assert randomness.uniforms(*name, 3)[0] == randomness.uniform(*name)


@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        ([np.nan, 0.0], "hold NaN"),
        ([0.0, np.inf], r"\+inf"),
        ([-np.inf, -np.inf], "every token has been removed"),
    ],
)
def test_no_token_can_be_chosen(z, sentence):
    z = np.array(z, np.float32)
    for choose in (selectors.greedy, lambda z: selectors.inverse_cdf(z, 0.5)):
        with pytest.raises(DecodingError, match=sentence):
            choose(z)


def test_min_new_tokens_bans_the_end_until_then():
    z = np.zeros(4, np.float32)
    for step in range(5):
        y = bias.min_new_tokens(z, Context(7, step), [1, 2], 3)
        assert (y[[1, 2]] == -np.inf).tolist() == [step < 3] * 2
        assert (y[[0, 3]] == 0).all()
    assert (z == 0).all()


def test_chain_is_in_the_documented_order_and_prints():
    def shout(ids, z, context):
        return z

    options = GenerationConfig(
        do_sample=True,
        temperature=0.5,
        top_k=9,
        top_p=0.9,
        min_new_tokens=2,
        logits_processor=[shout],
    )
    chain = build_chain(options, [0])
    assert " ".join(map(str, chain)) == (
        "min_new_tokens(2) shout() temperature(0.5) top_k(9) top_p(0.9)"
    )
    z = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    y = run_chain(chain, [], z, Context(0, step=5))
    expected = truncation.top_p(reshaping.temperature(z, 0.5), 0.9)
    assert (y == expected).all()


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4)))
def test_stop_strings_cut_at_the_first_to_be_complete(text, stops):
    """Wherever the pieces of text break."""
    ends = [
        (text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text
    ]
    for size in (1, 2, 5):
        watch, shown = StopStrings(stops), ""
        for i in range(0, len(text), size):
            if not watch.found:
                shown += watch.push(text[i : i + size])
        assert watch.found == bool(ends)
        if not watch.found:
            shown += watch.flush()
        assert shown == (text[: min(ends)[1]] if ends else text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            dict(max_new_tokens=-1),
            "max_new_tokens must be a whole number of at least 0",
        ),
        (dict(max_new_tokens=2.0), "max_new_tokens"),
        (dict(max_new_tokens=True), "max_new_tokens"),
        (dict(min_new_tokens=30), "min_new_tokens 30 is more than max_new_tokens 20"),
        (dict(temperature=0.5), "temperature changes nothing without do_sample=True"),
        (dict(top_k=5), "top_k changes nothing"),
        (dict(top_p=0.5), "top_p changes nothing"),
        (dict(do_sample=True, temperature=-1), "temperature must be at least 0"),
        (dict(do_sample=True, temperature="hot"), "temperature must be a number"),
        (dict(do_sample=True, temperature=float("nan")), "temperature must be"),
        (dict(do_sample=True, top_k=-1), "top_k must be a whole number of at least 0"),
        (dict(do_sample=True, top_p=1.5), r"top_p must be in \[0, 1\]"),
        (dict(do_sample=1), "do_sample must be True or False"),
        (dict(num_return_sequences=2), "num_return_sequences above 1 needs do_sample"),
        (dict(num_return_sequences=0), "num_return_sequences"),
        (dict(seed=-1), "seed"),
        (dict(seed=2**64), "seed"),
        (dict(overflow="shift"), "overflow must be one of error, stop, slide"),
        (dict(stop_strings=[""]), "stop_strings must be non-empty"),
        (dict(stop_strings=[3]), "stop_strings"),
        (dict(logits_processor=[3]), "logits_processor"),
        (dict(top_logprobs=-1), "top_logprobs"),
        (dict(beams=3), "unknown option 'beams'"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(DecodingError, match=sentence):
        GenerationConfig.of(options)
