"""What takes the token: searches with a way of their own refuse another's, forced
tokens cost a beam nothing, and what rules draw is drawn once for divided sequences.
"""

import pytest
from toy import Toy, random_table

from npgpt import DecodingError

SELECTORS = {
    "mirostat=2": dict(mirostat=2),
    "adaptive_target": dict(adaptive_target=0.3),
    "selector=inverse_cdf": dict(selector="inverse_cdf"),
    "selector=arithmetic": dict(selector="arithmetic"),
    "watermark=gumbel": dict(watermark="gumbel"),
    "trace_decode_token_ids": dict(trace_decode_token_ids=[1, 1]),
}
SEARCHES = {
    "a beam search": dict(num_beams=2),
    "power sampling": dict(power_alpha=2.0),
    "exact_constraint": dict(exact_constraint="rejection", choice=[[1]]),
    "prompt_lookup_num_tokens": dict(prompt_lookup_num_tokens=2),
    "contrastive search": dict(penalty_alpha=0.5, top_k=2),
    "cot_branches": dict(cot_branches=2),
}


@pytest.fixture(scope="module")
def toy():
    return Toy(random_table(0, n=5))


PAIRS = [  # in greedy searches the options refuse what draws
    (search, selector, search not in ("contrastive search", "cot_branches"))
    for search in SEARCHES
    for selector in SELECTORS
]


@pytest.mark.parametrize(
    ("search", "selector", "draws"),
    [pair for pair in PAIRS if pair[2] or pair[1] == "trace_decode_token_ids"],
)
def test_a_search_with_a_way_of_its_own_refuses_a_selector(
    tales, search, selector, draws
):
    options = {**SEARCHES[search], **SELECTORS[selector], "do_sample": draws}
    with pytest.raises(DecodingError, match=f"{search} does not go with {selector}: "):
        tales.generate([5], **options)


def test_best_of_and_banned_phrases_draw_by_any_selector(tales):
    for more in (dict(best_of=2), dict(banned_strings=["zebra"])):
        for options in SELECTORS.values():
            given = dict(do_sample=True, max_new_tokens=2, **more, **options)
            assert len(tales.generate([5], **given).ids) == 2


def test_tokens_to_write_are_tokens_of_the_vocabulary(toy):
    with pytest.raises(DecodingError, match="trace_decode_token_ids: 5 is not in"):
        toy.generate([0], trace_decode_token_ids=[1, 5])


@pytest.mark.parametrize("more", [{}, dict(do_sample=True), dict(num_beam_groups=3)])
def test_a_forced_token_costs_a_beam_nothing(toy, more):
    if "num_beam_groups" in more:
        more = {**more, "diversity_penalty": 0.1}
    given = dict(num_beams=3, max_new_tokens=4, length_penalty=0.0, **more)
    text = toy.generate([0], forced_bos_token_id=2, forced_eos_token_id=4, **given)
    assert (text.ids[0], text.ids[-1]) == (2, 4)
    assert text.processed_logprobs[0] == text.processed_logprobs[-1] == 0.0
    assert text.logprobs[0] < 0
    assert text.score == pytest.approx(sum(text.processed_logprobs), abs=0.2)


def test_of_several_forced_tokens_the_model_prefers(toy):
    z = toy.table[0]
    for ends in ([1, 2, 3], [2, 3]):
        text = toy.generate([0], max_new_tokens=1, forced_eos_token_id=ends)
        assert text.ids == [max(ends, key=lambda id: z[id])]


@pytest.mark.parametrize("selector", ["without_replacement", "arithmetic"])
def test_a_rule_that_draws_draws_once_for_divided_sequences(selector):
    toy = Toy([[2.0, 1.9, 1.8, 0.0, -0.5]] * 5)
    draws = dict(xtc_probability=0.5, xtc_threshold=0.1)
    changed = set()
    for seed in range(60):
        given = dict(do_sample=True, selector=selector, max_new_tokens=1, seed=seed)
        texts = toy.generate([0], num_return_sequences=3, **given, **draws)
        first = [text.ids[0] for text in texts]
        # all three from one distribution: the removed are removed for all
        removed = [text.processed_logprobs[0] != text.logprobs[0] for text in texts]
        assert len(set(removed)) == 1
        if selector == "without_replacement":
            assert len(set(first)) == 3
        changed |= set(removed)
    assert changed == {False, True}
