"""Edge cases of every rule and selector: what no number may break."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding import Context
from npgpt.decoding.catalogue import strategies
from npgpt.decoding.chain import ORDERS, build_chain, preset, run_chain
from npgpt.decoding.selection import build_selector

STRATEGIES = strategies()
logits = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.integers(1, 30),
    elements=st.one_of(st.floats(-50, 50, width=32), st.just(-np.inf), st.just(2.0)),
).filter(lambda z: np.isfinite(z).any())

# A setting that turns each rule on; ids below 1 fit every vocabulary.
SETTINGS = {
    "temperature": dict(temperature=0.7),
    "dynamic temperature": dict(dynatemp_range=0.9, dynatemp_exponent=1.5),
    "EDT": dict(edt_theta=0.4),
    "quadratic smoothing": dict(smoothing_factor=0.3, smoothing_curve=1.5),
    "skew": dict(skew=0.5),
    "logit normalisation": dict(renormalize_logits=True),
    "inf and NaN removal": dict(remove_invalid_values=True),
    "top-k": dict(top_k=3),
    "top-p": dict(top_p=0.6),
    "factual nucleus": dict(top_p=0.9, top_p_decay=0.5),
    "min-p": dict(min_p=0.2),
    "locally typical": dict(typical_p=0.5),
    "epsilon": dict(epsilon_cutoff=0.1),
    "eta": dict(eta_cutoff=0.1),
    "top-a": dict(top_a=0.4),
    "tail-free": dict(tfs=0.6),
    "top-n-sigma": dict(top_n_sigma=1.0),
    "top-H": dict(top_h=0.5),
    "p-less": dict(p_less="on"),
    "XTC": dict(xtc_probability=0.9, xtc_threshold=0.05),
    "repetition penalty": dict(repetition_penalty=1.5),
    "presence penalty": dict(presence_penalty=0.5),
    "frequency penalty": dict(frequency_penalty=0.5),
    "windowed and decaying penalty": dict(
        repetition_penalty=1.5, repeat_last_n=2, penalty_decay=2
    ),
    "encoder repetition penalty": dict(encoder_repetition_penalty=1.5),
    "DRY": dict(dry_multiplier=0.8, dry_allowed_length=1),
    "penalty decoding": dict(penalty_decoding=1.3, early_end_penalty=0.5),
    "logit bias": dict(logit_bias={0: -3.0}),
    "sequence bias": dict(sequence_bias=[[[0], 1.5]]),
    "allowed tokens": dict(allowed_token_ids=[0]),
    "forced first token": dict(forced_bos_token_id=0),
    "forced last token": dict(forced_eos_token_id=0, max_new_tokens=1),
    "exponential length decay": dict(exponential_decay_length_penalty=(0, 1.5)),
    "KGW, left hash": dict(watermark="lefthash"),
    "KGW, self hash": dict(watermark="selfhash"),
    "SynthID": dict(watermark="synthid"),
    "Unigram": dict(watermark="unigram"),
}
TRUNCATIONS = [s.name for s in STRATEGIES if s.code[0] == "C" and s.kind == "rule"]
RESHAPINGS = [s.name for s in STRATEGIES if s.code[0] == "B"]
SELECTORS = {
    "greedy": dict(do_sample=False),
    "inverse_cdf": dict(selector="inverse_cdf"),
    "gumbel_max": {},
    "arithmetic": dict(selector="arithmetic"),
    "without_replacement": dict(selector="without_replacement"),
    "mirostat": dict(mirostat=1),
    "mirostat_v2": dict(mirostat=2),
    "adaptive_p": dict(adaptive_target=0.4),
    "gumbel_watermark": dict(watermark="gumbel"),
}
NOW = Context(prompt_length=1, step=0, seed=3)


def chain(name):
    return build_chain(GenerationConfig(do_sample=True, **SETTINGS[name]), [0])


@given(logits)
@pytest.mark.parametrize("name", SETTINGS)
def test_rules_keep_their_dtype_and_their_input(name, z):
    before = z.copy()
    y = run_chain(chain(name), [0], z, NOW)
    assert y.shape == z.shape
    assert y.dtype == z.dtype
    assert not np.isnan(y).any()
    np.testing.assert_array_equal(z, before)


@given(logits)
@pytest.mark.parametrize("name", TRUNCATIONS)
def test_truncations_only_remove_and_never_all(name, z):
    y = run_chain(chain(name), [0], z, NOW)
    assert ((y == z) | (y == -np.inf)).all()
    assert (y > -np.inf).any()
    # ties live or die together
    for value in np.unique(z[z > -np.inf]):
        same = y[z == value] > -np.inf
        assert same.all() or not same.any()


@given(logits)
@pytest.mark.parametrize("name", RESHAPINGS)
def test_reshapings_remove_nothing_and_keep_the_order(name, z):
    y = run_chain(chain(name), [0], z.astype(np.float64), NOW)
    if name in ("inf and NaN removal", "skew"):  # skew favours rarer tokens
        return
    if name != "EDT":  # an entropy of 0 makes it greedy search
        assert (y > -np.inf).tolist() == (z > -np.inf).tolist()
    order = np.argsort(z, kind="stable")
    finite = y[order][y[order] > -np.inf]
    # rounding of numbers up to 50, cubed, in float64
    assert (np.diff(finite) >= -1e-9 * max(1, np.abs(finite).max())).all()


@pytest.mark.parametrize("name", TRUNCATIONS)
@pytest.mark.parametrize(
    "z",
    [[0.0], [1.0] * 6, [0.0] + [-np.inf] * 5, [100.0] + [-100.0] * 5, [-1e30, -1e30]],
    ids=["V = 1", "uniform", "one left", "one-hot", "very low"],
)
def test_truncations_of_degenerate_rows(name, z):
    z = np.array(z, np.float32)
    y = run_chain(chain(name), [0], z, NOW)
    assert (y > -np.inf).any()
    if z[0] == z[-1]:  # nothing to tell the tokens apart
        np.testing.assert_array_equal(y, z)
    else:
        assert y[0] > -np.inf


@given(logits)
@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_take_only_what_is_left(name, z):
    selector = build_selector(
        GenerationConfig(**{"do_sample": True, **SELECTORS[name]})
    )
    id, state = selector.choose([0], z, NOW, selector.start(NOW))
    assert z[id] > -np.inf
    again, same = selector.choose([0], z, NOW, selector.start(NOW))
    assert (id, state) == (again, same)  # a state is a value, a draw has a name


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        ([np.nan, 0.0], "NaN"),
        ([0.0, np.inf], r"\+inf"),
        ([-np.inf, -np.inf], "every token has been removed"),
    ],
)
def test_selectors_refuse_what_has_no_law(name, z, sentence):
    selector = build_selector(
        GenerationConfig(**{"do_sample": True, **SELECTORS[name]})
    )
    with pytest.raises(DecodingError, match=sentence):
        selector.choose([0], np.array(z), NOW, selector.start(NOW))


FORCING = ("allowed tokens", "forced first token", "forced last token")


@pytest.mark.parametrize(
    "name", [n for n in SETTINGS if n not in ("inf and NaN removal", *FORCING)]
)
@pytest.mark.parametrize("z", [[np.nan, 0.0, 1.0], [-np.inf] * 3])
def test_rules_and_selector_together_refuse_it_too(name, z):
    z = np.array(z)
    selector = build_selector(GenerationConfig(do_sample=True))
    with pytest.raises(DecodingError), np.errstate(all="ignore"):
        selector.choose([0], run_chain(chain(name), [0], z, NOW), NOW, None)


@given(logits, st.sampled_from([1e-300, 1e-45, 1e-5, 1e5, 1e38, 1e300]))
def test_extreme_temperatures_stay_finite(z, T):
    for setting in (dict(temperature=T), dict(temperature=T, dynatemp_range=T)):
        options = GenerationConfig(do_sample=True, **setting)
        y = run_chain(build_chain(options), [0], z, NOW)
        assert np.isfinite(y[z.argmax()])
        assert not np.isnan(y).any()


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_has_every_rule_once(order):
    assert sorted(preset(order)) == sorted(preset("hf"))
    elements = {s.chain_name for s in STRATEGIES if s.kind == "rule"} | {"custom"}
    assert set(preset(order)) == elements


def test_everything_at_once_in_any_order():
    settings = {}
    for name, setting in SETTINGS.items():
        strategy = next(s for s in STRATEGIES if s.name == name)
        alone = ("dynamic temperature", "EDT", "allowed tokens")
        if name not in alone and strategy.code[0] not in "EI":
            settings |= setting
    z = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    for order in ("hf", "llama.cpp", "vllm", ";".join(reversed(preset("hf")))):
        options = GenerationConfig(do_sample=True, chain=order, **settings)
        rules = build_chain(options, [0])
        assert len(rules) == len({rule.name for rule in rules}) > 20
        y = run_chain(rules, [0, 1, 2, 1], z, NOW)
        assert (y > -np.inf).any()
