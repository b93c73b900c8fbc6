"""A user's functions are told the right row, given copies, and what they return is
checked by one sentence that names them.
"""

import numpy as np
import pytest
from toy import Toy, random_table

from npgpt import DecodingError
from npgpt.decoding.job import Job
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.searches.reranking import minimum_bayes_risk, self_consistency
from npgpt.decoding.speculative.loop import Draft, Drafter, speculate

PROMPTS = [[0, 1], [1, 2], [2, 0]]
WAYS = {
    "sampling": dict(do_sample=True),
    "greedy": {},
    "sequences": dict(do_sample=True, num_return_sequences=2),
    "beams": dict(num_beams=2),
    "two beams": dict(num_beams=2, num_return_sequences=2),
    "beam sampling": dict(num_beams=2, do_sample=True),
    "groups": dict(num_beams=2, num_beam_groups=2, diversity_penalty=1.0),
    "stochastic": dict(num_beams=2, stochastic_beams=True, do_sample=True),
    "lookup": dict(prompt_lookup_num_tokens=2),
    "power": dict(do_sample=True, power_alpha=2.0),
    "best of two": dict(best_of=2, do_sample=True),
}


@pytest.fixture(scope="module")
def toy():
    return Toy(random_table(0, n=5))


@pytest.mark.parametrize("way", WAYS)
def test_a_prefix_function_is_told_its_own_row(toy, way):
    options = WAYS[way]
    n = options.get("num_return_sequences", 1) if "num_beams" not in options else 1
    n = options.get("best_of", n)

    def allowed(row, ids):
        assert list(ids[:2]) == PROMPTS[row // n]
        return [row // n, 3]

    texts = toy.generate(
        PROMPTS, max_new_tokens=4, prefix_allowed_tokens_fn=allowed, **options
    )
    each = len(texts) // len(PROMPTS)
    for i, text in enumerate(texts):
        assert set(text.ids) <= {i // each, 3}


def test_a_processor_is_told_its_own_row(toy):
    seen = set()

    def look(ids, z, context):
        seen.add((context.index, tuple(ids[:2])))
        return z

    toy.generate(
        PROMPTS,
        max_new_tokens=2,
        do_sample=True,
        num_return_sequences=2,
        logits_processor=[look],
    )
    assert seen == {(i, tuple(PROMPTS[i // 2])) for i in range(6)}


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda z: None, "NoneType"),
        (lambda z: list(z), "list"),
        (lambda z: z[:3], r"an array \(3,\) of float64"),
        (lambda z: z[None], r"an array \(1, 5\) of float64"),
        (lambda z: np.zeros(5, int), r"an array \(5,\) of int64"),
        (lambda z: z * np.nan, "NaN or"),
        (lambda z: z + np.inf, "NaN or"),
        (lambda z: z - np.inf, "no token at all"),
    ],
)
def test_what_a_processor_returns_is_checked(toy, made, what):
    def mine(ids, z, context):
        return made(z)

    with pytest.raises(DecodingError, match=f"logits_processor mine returned {what}"):
        toy.generate([0], logits_processor=[mine])


@pytest.mark.parametrize("way", ["greedy", "beams", "lookup", "sampling"])
def test_a_processor_may_write_into_what_it_is_given(toy, way):
    def returned(ids, z, context):
        return np.where(np.arange(5) == 2, -np.inf, z)

    kept = []

    def written(ids, z, context):
        ids.append(7)
        z[2] = -np.inf
        kept.append(z)
        for old in kept[:-1]:
            old[:] = 0  # the function uses its arrays again
        return z

    given = dict(max_new_tokens=6, top_logprobs=3, **WAYS[way])
    a = toy.generate(PROMPTS, logits_processor=[returned], **given)
    b = toy.generate(PROMPTS, logits_processor=[written], **given)
    assert a == b


@pytest.mark.parametrize(
    "made", [None, 3, [1.5], ["a"], [True], [5], [-1], [], np.array([0.5])]
)
def test_what_a_prefix_function_returns_is_checked(toy, made):
    def mine(row, ids):
        return made

    with pytest.raises(DecodingError, match="prefix_allowed_tokens_fn mine must"):
        toy.generate([0], prefix_allowed_tokens_fn=mine)


def test_a_prefix_function_may_return_any_list_of_whole_numbers(toy):
    for made in ([1], (1,), {1}, np.array([1]), np.array([1.0]), iter([1, 1, 1])):
        text = toy.generate(
            [0], max_new_tokens=1, prefix_allowed_tokens_fn=lambda row, ids, m=made: m
        )
        assert text.ids == [1]


@pytest.mark.parametrize("tokens", [[5], [-1], [0] * 50])
def test_what_a_drafter_proposes_is_checked(toy, tokens):
    class Mine(Drafter):
        def guess(self, row, limit):
            return tokens

    options = GenerationConfig(max_new_tokens=8)
    with pytest.raises(DecodingError, match="the drafter Mine proposed"):
        list(speculate(Job(toy, [[0]], options), Mine()))
    assert Draft([]).tokens == []


@pytest.mark.parametrize("made", [None, "much", float("nan")])
def test_what_a_score_returns_is_checked(made):
    def mine(a, b):
        return made

    with pytest.raises(DecodingError, match=r"mine returned .*, not a number"):
        minimum_bayes_risk(["a", "b"], mine)


def test_answers_that_cannot_be_counted_are_refused():
    def mine(text):
        return ["an", "answer"]

    with pytest.raises(DecodingError, match="mine returned answers that cannot"):
        self_consistency(["a", "b"], mine)


def test_what_a_tap_returns_is_checked(tales):
    def mine(name, array):
        return array.astype(np.float64)

    with pytest.raises(DecodingError, match=r"tap mine returned an array .* float64"):
        tales.logits([1, 2], mine)
    with pytest.raises(DecodingError, match="tap must be a function"):
        tales.logits([1, 2], 3)
