"""Speculative decoding: the target's law, the greedy text, the drafters, the limits."""

import functools

import numpy as np
import pytest
from helpers import CASES, TINY, shapes_unchecked, tiny_params
from toy import Toy, assert_follows, law, random_table

from npgpt import GPT2, DecodingError
from npgpt.cache import KVCache
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.rules.penalties import repetition
from npgpt.decoding.speculative.acceptance import (
    draw,
    residual,
    typical,
    typical_threshold,
)
from npgpt.decoding.speculative.assistants import Pace

# Rows as different as they can be with drafts that stand half the time: a p or q of the
# wrong position, or a wrong residual, moves the law by more than chance does.
TARGET = Toy(
    np.log([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.25, 0.6, 0.15]]),
    early=np.log([[0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]]),
)
DRAFTER = Toy(np.log([[0.25, 0.4, 0.35], [0.45, 0.15, 0.4], [0.5, 0.2, 0.3]]))
FAR = Toy(np.log([[0.04, 0.16, 0.8], [0.8, 0.16, 0.04], [0.04, 0.16, 0.8]]))
N = 1500

KINDS = {
    "plain sampling": {},
    "speculative sampling": {"assistant_model": DRAFTER, "num_assistant_tokens": 2},
    "a drafter far off": {
        "assistant_model": FAR,
        "assistant_confidence_threshold": 0.0,
    },
    "dynamic length": {
        "assistant_model": DRAFTER,
        "num_assistant_tokens": 3,
        "num_assistant_tokens_schedule": "heuristic",
        "assistant_confidence_threshold": 0.42,
    },
    "sample and match": {"assistant_model": DRAFTER, "verification": "match"},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "n-gram cache": {"ngram_cache_num_tokens": 3},
    "early exit": {"assistant_early_exit": 1, "assistant_confidence_threshold": 0.2},
    "jacobi": {"jacobi_num_tokens": 3},
    "lookahead": {"lookahead_window": 2, "lookahead_ngram": 2},
    "token tree": {"assistant_model": DRAFTER, "assistant_tree": (2, 2)},
    "tree, matched": {
        "assistant_model": DRAFTER,
        "assistant_tree": (2, 1),
        "verification": "match",
    },
}

# These draw what plain sampling draws, number for number: its law is theirs.
MATCHED = ("sample and match", "prompt lookup", "n-gram cache", "jacobi", "lookahead",
           "tree, matched")  # fmt: skip
# A tree's second level and the window of lookahead need some tokens still to come.
LENGTHS = {"lookahead": 5, "token tree": 4, "tree, matched": 4}
RULES = {"temperature": 0.8, "frequency_penalty": 0.6, "top_p": 0.95, "eos_token_id": 2}


def texts(model, n, prompt=(0, 1, 0, 1), length=3, **options):
    with shapes_unchecked():
        found = model.generate(
            list(prompt),
            max_new_tokens=length,
            num_return_sequences=n,
            do_sample=True,
            **options,
        )
    return [tuple(text.ids) for text in found]


@functools.cache
def plain_texts(n, **how):
    """What TARGET writes without drafts."""
    return texts(TARGET, n, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_speculative_preserves_the_distribution(kind):
    n, how = 300 if kind in MATCHED else N, {"length": LENGTHS.get(kind, 3), "seed": 7}
    found = texts(TARGET, n, **how, **KINDS[kind])
    assert_follows(found, law(TARGET, [1], how["length"]))
    if kind in MATCHED:
        assert found == plain_texts(n, **how)


@pytest.mark.parametrize("kind", KINDS)
def test_processors_see_the_history_up_to_each_position(kind):
    n = 300 if kind in MATCHED else 1000
    how = {"length": LENGTHS.get(kind, 3), "seed": 8, **RULES}
    found = texts(TARGET, n, **how, **KINDS[kind])
    length = how.pop("length")
    expected = law(TARGET, (0, 1, 0, 1), length, do_sample=True, **how)
    assert_follows(found, expected)
    if kind in MATCHED:
        assert found == plain_texts(n, length=length, **how)


def test_acceptance_rate_is_the_common_mass():
    """One drafted token stands with probability sum min(p, q)."""
    p, q = probabilities(TARGET.table[1]), probabilities(DRAFTER.table[1])
    options = {
        "assistant_model": DRAFTER,
        "num_assistant_tokens": 1,
        "assistant_confidence_threshold": 0.0,
    }
    accepted, n = 0, 1000
    with shapes_unchecked():
        for seed in range(n):
            before = TARGET.readings
            TARGET.generate([1], max_new_tokens=2, do_sample=True, seed=seed, **options)
            accepted += TARGET.readings - before == 1  # both tokens of one reading
    rate = np.minimum(p, q).sum()
    # five standard deviations of a binomial count
    assert abs(accepted / n - rate) < 5 * np.sqrt(rate * (1 - rate) / n)


def mixture(w):
    """A toy whose law is w times the target's and 1 - w times the drafter's."""
    p, q = (np.exp(model.table) for model in (TARGET, DRAFTER))
    return Toy(np.log(w * p + (1 - w) * q))


def test_ensemble_verification_draws_from_the_mixture():
    found = texts(
        TARGET,
        N,
        (1,),
        3,
        seed=9,
        assistant_model=DRAFTER,
        num_assistant_tokens=2,
        assistant_ensemble_weight=0.8,
        assistant_confidence_threshold=0.0,
    )
    assert_follows(found, law(mixture(0.8), [1], 3))


@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_greedy_ensemble_is_the_argmax_of_the_mixture(tokens):
    prompts, differ = [[0], [1], [2]], 0
    for w in (0.2, 0.5, 0.8):
        found = TARGET.generate(
            prompts,
            max_new_tokens=7,
            assistant_model=DRAFTER,
            num_assistant_tokens=tokens,
            assistant_ensemble_weight=w,
            repetition_penalty=1.1,
        )
        for prompt, text in zip(prompts, found, strict=True):
            ids = list(prompt)
            for _ in range(7):  # the chain acts on each model, then they are mixed
                p, q = (
                    probabilities(repetition(model.table[ids[-1]], ids, 1.1))
                    for model in (TARGET, DRAFTER)
                )
                ids.append(int(np.argmax(w * p + (1 - w) * q)))
            assert text.ids == ids[1:]
            alone = TARGET.generate(prompt, max_new_tokens=7, repetition_penalty=1.1)
            differ += text.ids != alone.ids
    assert differ  # or the target alone would pass


def test_typical_acceptance_is_its_formula():
    p = np.array([0.7, 0.2, 0.1])
    entropy = -(p * np.log(p)).sum()
    assert typical_threshold(p, 0.9, 0.3) == pytest.approx(0.3 * np.exp(-entropy))
    assert typical_threshold(p, 0.05, 0.3) == 0.05
    rule = typical(0.15, 1.0)
    assert rule(p, None, 1, Context(0, 0)) == 1  # 0.2 > 0.15
    equal = {typical(0.2, 1.0)(p, None, 1, Context(0, step)) for step in range(50)}
    assert equal == {0, 1, 2}  # 0.2 is not: draws
    drawn = [rule(p, None, 2, Context(0, step)) for step in range(2000)]
    assert_follows(drawn, dict(enumerate(p)))  # 0.1 is not: a draw from p
    some = texts(TARGET, 200, assistant_model=DRAFTER, typical_acceptance=0.3)
    assert len(set(some)) > 5


def test_residual_of_equal_laws_is_the_law():
    p = np.array([0.3, 0.7])
    assert residual(p, p).tolist() == p.tolist()
    assert residual(p, None, 0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-53])
def test_a_draw_takes_no_token_of_probability_0(u, monkeypatch):
    us = lambda self, n, purpose=0: np.full(n, u)  # noqa: E731
    monkeypatch.setattr(Context, "uniforms", us)
    some = np.array([0.0, 0.0, 0.3, 0.0, 0.0])
    assert draw(some, Context(1, 0)) == 2
    assert draw(np.array([0.4, 0.6]), Context(1, 0)) == 1


@pytest.fixture(scope="module")
def pair():
    """A tiny target and a drafter, in float64 so that two float paths hardly part."""
    return [GPT2(tiny_params(TINY, seed), dtype="float64") for seed in (0, 5)]


GREEDY = {
    "assistant": {"assistant_model": None},
    "no threshold": {"assistant_model": None, "assistant_confidence_threshold": 0.0},
    "heuristic": {
        "assistant_model": None,
        "num_assistant_tokens": 3,
        "num_assistant_tokens_schedule": "heuristic",
    },
    "lookup": {"prompt_lookup_num_tokens": 4},
    "ngrams": {"ngram_cache_num_tokens": 4},
    "exit": {"assistant_early_exit": 1},
    "jacobi": {"jacobi_num_tokens": 4},
    "lookahead": {"lookahead_window": 3, "lookahead_ngram": 3},
    "tree": {"assistant_model": None, "assistant_tree": (3, 2)},
}
PROMPTS = [[5, 9, 5, 9, 5], [1], [3, 4, 5, 6, 7, 8, 3, 4]]


@pytest.fixture(scope="module")
def plain(pair):
    """What the target writes without drafts: (options, the texts of PROMPTS)."""
    with shapes_unchecked():
        return [
            (more, pair[0].generate(PROMPTS, max_new_tokens=16, **more))
            for more in ({}, {"repetition_penalty": 1.3}, {"eos_token_id": [3, 4, 9]})
        ]


def options_of(kind, drafter):
    """The options of a kind in GREEDY, with this drafter where it needs one."""
    options = dict(GREEDY[kind])
    if "assistant_model" in options:
        options["assistant_model"] = drafter
    return options


@pytest.mark.parametrize("kind", GREEDY)
def test_speculative_greedy_is_greedy(pair, plain, kind):
    target, options = pair[0], options_of(kind, pair[1])
    for more, expected in plain:
        with shapes_unchecked():
            found = target.generate(PROMPTS, max_new_tokens=16, **more, **options)
        for a, b, prompt in zip(expected, found, PROMPTS, strict=True):
            # float64: a top-2 gap below 1e-9 would be needed for the paths to part
            assert a.ids == b.ids, (kind, more)
            assert a.finish_reason == b.finish_reason
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-9)
            np.testing.assert_allclose(
                a.processed_logprobs, b.processed_logprobs, atol=1e-9
            )
            with shapes_unchecked():
                alone = target.generate(prompt, max_new_tokens=16, **more, **options)
            assert alone.ids == b.ids


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 3.0}])
def test_early_exit_reads_every_token_once_with_every_layer(sampling, monkeypatch):
    read, write = [0, 0, 0], KVCache.write

    def counted(cache, layer, k, v):
        read[layer] += k.shape[2]
        return write(cache, layer, k, v)

    monkeypatch.setattr(KVCache, "write", counted)
    target = GPT2(tiny_params(CASES["inverse_layer"], 2))  # three layers
    found = target.generate(
        PROMPTS[0],
        max_new_tokens=12,
        assistant_early_exit=2,
        num_assistant_tokens=4,
        assistant_confidence_threshold=0.0,
        **sampling,
    )
    assert len(found.ids) == 12
    assert read == [read[0]] * 3
    assert read[0] >= len(PROMPTS[0]) + 11


@pytest.mark.parametrize("kind", ["lookup", "ngrams", "jacobi", "lookahead"])
def test_drafts_without_q_change_no_sample(pair, kind):
    """Sample and match draws the numbers that plain sampling draws."""
    target = pair[0]
    sampling = {"do_sample": True, "seed": 4, "temperature": 2.0, "max_new_tokens": 14}
    two = {"num_return_sequences": 2, **sampling}
    with shapes_unchecked():
        plain = target.generate(PROMPTS, **two)
        found = target.generate(PROMPTS, **two, **GREEDY[kind])
    assert [text.ids for text in plain] == [text.ids for text in found]


@pytest.mark.parametrize("kind", MATCHED)
def test_matching_changes_no_sample(kind):
    """The same with a toy, whose drafts stand half the time, and with longer texts."""
    how = {"length": 9, "seed": 5, "frequency_penalty": 0.3}
    assert texts(TARGET, 200, **how, **KINDS[kind]) == plain_texts(200, **how)


@pytest.mark.parametrize("kind", GREEDY)
def test_batch_equals_single_when_sampling(pair, kind):
    """Here with checked shapes; the other tests of these kinds go without."""
    options = options_of(kind, pair[1])
    sampling = {"do_sample": True, "seed": 4, "temperature": 2.0, "max_new_tokens": 14}
    together = pair[0].generate(PROMPTS, **sampling, **options)
    with shapes_unchecked():
        alone = [pair[0].generate(prompt, **sampling, **options) for prompt in PROMPTS]
    assert [text.ids for text in together] == [text.ids for text in alone]


def test_a_good_draft_saves_readings():
    target = Toy(random_table(1))
    target.readings = 0
    target.generate([0], max_new_tokens=40, prompt_lookup_num_tokens=10)
    assert target.readings < 15  # a Markov chain's greedy text soon goes in circles


def test_jacobi_needs_no_more_readings_than_tokens():
    target = Toy(random_table(5, n=8))
    target.generate([0], max_new_tokens=12, jacobi_num_tokens=4)
    assert target.readings <= 12


def test_the_whole_context_can_be_used(pair):
    room, prompt = TINY.n_positions, [5, 9, 5]
    with shapes_unchecked():
        plain = pair[0].generate(prompt, max_new_tokens=room - 2)
        for kind in GREEDY:
            options = options_of(kind, pair[1])
            for how in (
                {"max_new_tokens": room - 2},
                {"max_new_tokens": 99, "overflow": "stop"},
            ):
                found = pair[0].generate(prompt, **how, **options)
                assert found.ids == plain.ids, (kind, how)


def test_pace_grows_and_shrinks():
    pace = Pace(4, "heuristic")
    assert pace.limits([9, 3]) == [4, 3]
    pace.observe(0, 4, 4)
    pace.observe(1, 3, 0)
    assert pace.limits([9, 9]) == [6, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"assistant_model": Toy(random_table(1, n=5))},
        {"assistant_model": DRAFTER, "prompt_lookup_num_tokens": 3},
        {"assistant_model": DRAFTER, "num_beams": 2},
        {"assistant_early_exit": 2},
        {"num_assistant_tokens": 3},
        {"prompt_lookup_num_tokens": 3, "overflow": "slide"},
        {"prompt_lookup_num_tokens": 3, "do_sample": True, "mirostat": 2},
        {"prompt_lookup_num_tokens": 3, "do_sample": True,
         "assistant_ensemble_weight": 0.5},
        {"assistant_model": DRAFTER, "typical_acceptance": 0.3},
        {"prompt_lookup_num_tokens": 3, "assistant_ensemble_weight": 0.5},
        {"assistant_model": "tales-mini"},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(options):
    with pytest.raises(DecodingError):
        TARGET.generate([0], **options)
