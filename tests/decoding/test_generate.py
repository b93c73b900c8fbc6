"""Laws of generation: what a user may rely on whatever the options."""

import numpy as np
import pytest
from helpers import CASES, TINY, same_tokens, tiny_params, token_ids

import npgpt
from npgpt import GPT2, ContextOverflowError, DecodingError, TokenizerError
from npgpt.decoding.rules import reshaping, truncation

PROMPTS = [
    "Once upon a time",
    "The king",
    "“Who is there?” asked the little old woman, and",
]


@pytest.fixture(scope="module")
def tiny(backend):
    return GPT2(tiny_params(), backend=backend)


def gaps(model, prompt, ids):
    """Top-2 distance of the logits at every generated position."""
    z = np.sort(model.logits([*prompt, *ids])[0, len(prompt) - 1 : -1], axis=-1)
    return (z[:, -1] - z[:, -2]).tolist()


@pytest.mark.parametrize("case", CASES)
def test_greedy_matches_reference(backend, case, tiny_reference):
    config = CASES[case]
    model = GPT2(tiny_params(config), backend=backend)
    prompts = token_ids(config, 2, 7)
    results = model.generate(prompts, max_new_tokens=12)
    for row in range(2):
        expected = tiny_reference[f"{case}/greedy"][row, 7:].tolist()
        prompt = prompts[row].tolist()
        assert same_tokens(results[row].ids, expected, gaps(model, prompt, expected))


@pytest.mark.parametrize("case", CASES)
def test_ragged_greedy_matches_reference(backend, case, tiny_reference):
    config = CASES[case]
    model = GPT2(tiny_params(config), backend=backend)
    ids = token_ids(config, 2, 7)
    prompts = [ids[0, 4:].tolist(), ids[1].tolist()]
    results = model.generate(prompts, max_new_tokens=12)
    for row, prompt in enumerate(prompts):
        expected = tiny_reference[f"{case}/ragged"][row, 7:].tolist()
        assert same_tokens(results[row].ids, expected, gaps(model, prompt, expected))


SAMPLING = dict(do_sample=True, temperature=0.9, top_p=0.9, max_new_tokens=12, seed=3)


@pytest.mark.parametrize("options", [dict(max_new_tokens=12), SAMPLING])
def test_a_row_equals_its_unbatched_run(tales, options):
    together = tales.generate(PROMPTS, **options)
    for prompt, row in zip(PROMPTS, together, strict=True):
        alone = tales.generate(prompt, **options)
        assert row.text == alone.text
        assert row.ids == alone.ids
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-3)


def test_stream_joined_is_generate(tales):
    steps = list(tales.stream(PROMPTS[0], **SAMPLING))
    whole = tales.generate(PROMPTS[0], **SAMPLING)
    assert "".join(step.text for step in steps) == whole.text
    assert [step.token_id for step in steps] == whole.ids
    assert steps[-1].finish_reason == whole.finish_reason
    assert all(step.finish_reason is None for step in steps[:-1])


def test_same_seed_same_text_other_seed_other_text(tales):
    texts = [
        tales.generate(PROMPTS[0], **{**SAMPLING, "seed": s}).text for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_sequences_of_one_prompt_have_their_own_streams(tales):
    three = tales.generate(PROMPTS[0], num_return_sequences=3, **SAMPLING)
    assert len({row.text for row in three}) == 3
    assert three[0].text == tales.generate(PROMPTS[0], **SAMPLING).text
    both = tales.generate(PROMPTS[:2], num_return_sequences=2, **SAMPLING)
    assert [row.text for row in both[:2]] == [row.text for row in three[:2]]


def test_temperature_zero_is_greedy(tales):
    greedy = tales.generate(PROMPTS[0], max_new_tokens=12)
    frozen = tales.generate(
        PROMPTS[0], max_new_tokens=12, do_sample=True, temperature=0, top_p=0.5
    )
    assert frozen == greedy


def test_top_k_one_is_greedy(tales):
    greedy = tales.generate(PROMPTS[0], max_new_tokens=12)
    one = tales.generate(PROMPTS[0], max_new_tokens=12, do_sample=True, top_k=1, seed=9)
    assert one.ids == greedy.ids
    assert one.processed_logprobs == [0.0] * 12


def test_sampling_draws_from_the_processed_distribution(tiny):
    prompt, n = token_ids(TINY, 1, 4)[0].tolist(), 4000
    results = tiny.generate(
        prompt,
        num_return_sequences=n,
        do_sample=True,
        temperature=8.0,
        top_k=5,
        max_new_tokens=1,
    )
    z = tiny.logits(prompt)[0, -1]
    z = truncation.top_k(reshaping.temperature(z, 8.0), 5).astype(np.float64)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    counts = np.bincount([row.ids[0] for row in results], minlength=len(p))
    assert counts[p == 0].sum() == 0
    expected = p[p > 0] * n
    # 4 degrees of freedom, p = 1e-4
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 23.5


def test_logprobs_are_those_of_one_pass_over_the_text(tales):
    result = tales.generate(PROMPTS[0], top_logprobs=3, **SAMPLING)
    ids = result.prompt_ids + result.ids
    z = tales.logits(ids)[0, len(result.prompt_ids) - 1 : -1].astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    for i, id in enumerate(result.ids):
        assert result.logprobs[i] == pytest.approx(log_p[i, id], abs=1e-3)
        assert result.ranks[i] == 1 + (z[i] > z[i, id]).sum()
        best = [token for token, _ in result.top_logprobs[i]]
        assert best == np.argsort(-z[i])[:3].tolist()


def test_processed_logprobs_are_under_the_chain(tales):
    result = tales.generate(PROMPTS[0], **{**SAMPLING, "top_p": None})
    ids = result.prompt_ids + result.ids
    z = tales.logits(ids)[0, len(result.prompt_ids) - 1 : -1].astype(np.float64) / 0.9
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    expected = [log_p[i, id] for i, id in enumerate(result.ids)]
    np.testing.assert_allclose(result.processed_logprobs, expected, atol=1e-3)


def test_eos_ends_a_row_and_shows_no_text(tales):
    free = tales.generate(PROMPTS[0], max_new_tokens=9)
    at = next(i for i, id in enumerate(free.ids) if i > 2 and id not in free.ids[:i])
    eos = free.ids[at]
    ended = tales.generate(PROMPTS[0], max_new_tokens=9, eos_token_id=eos)
    assert ended.ids == free.ids[: at + 1]
    assert ended.finish_reason == "eos"
    assert ended.text == tales.tokenizer.decode(free.ids[:at])
    both = tales.generate(PROMPTS[:2], max_new_tokens=9, eos_token_id=[eos, 1])
    assert both[0].ids == ended.ids
    assert both[1].ids == tales.generate(PROMPTS[1], max_new_tokens=9).ids


def test_no_eos_never_ends(tales):
    result = tales.generate("", max_new_tokens=5, eos_token_id=())
    assert result.finish_reason == "length"


def test_min_new_tokens_forbids_the_end(tales):
    free = tales.generate(PROMPTS[0], max_new_tokens=9)
    eos = free.ids[0]
    for minimum in (0, 1, 5):
        row = tales.generate(
            PROMPTS[0], max_new_tokens=9, eos_token_id=eos, min_new_tokens=minimum
        )
        assert eos not in row.ids[:minimum]
        assert len(row.ids) >= min(minimum + 1, 9) or minimum == 0


def test_stop_strings_cut_across_token_borders(tales):
    text = tales.generate(PROMPTS[0], max_new_tokens=30).text
    for stop in (text[7:12], text[9:11], text[20:28]):
        cut = text[: text.find(stop)]
        for include in (False, True):
            row = tales.generate(
                PROMPTS[0],
                max_new_tokens=30,
                stop_strings=[stop, "never this"],
                include_stop_str_in_output=include,
            )
            assert row.text == (cut + stop if include else cut)
            assert row.finish_reason == "stop"


def test_a_stop_string_that_does_not_come_loses_nothing(tales):
    text = tales.generate(PROMPTS[0], max_new_tokens=30).text
    row = tales.generate(PROMPTS[0], max_new_tokens=30, stop_strings=text[-4:] + "#")
    assert row.text == text


def test_zero_new_tokens_is_the_prompt(tales):
    row = tales.generate(PROMPTS[0], max_new_tokens=0)
    assert (row.text, row.ids, row.finish_reason) == ("", [], "length")


def test_empty_prompt_is_the_end_of_text_token(tales):
    assert tales.generate("").ids == tales.generate([0]).ids
    assert tales.generate(["", [0]])[1].prompt_ids == [0]


def test_one_prompt_gives_one_result_and_a_list_a_list(tales):
    assert isinstance(tales.generate("a", max_new_tokens=1), npgpt.Generation)
    assert isinstance(tales.generate([5, 6], max_new_tokens=1), npgpt.Generation)
    assert isinstance(tales.generate(np.array([5]), max_new_tokens=1), npgpt.Generation)
    assert len(tales.generate(["a"], max_new_tokens=1)) == 1
    assert len(tales.generate([[5], "b"], max_new_tokens=1)) == 2
    assert len(tales.generate(np.array([[5], [6]]), max_new_tokens=1)) == 2


def test_a_user_function_takes_part(tales):
    seen = []

    def only_seven(ids, z, context):
        seen.append((len(ids), context.prompt_length, context.step))
        return np.where(np.arange(len(z)) == 7, z, -np.inf).astype(z.dtype)

    row = tales.generate([5, 6], max_new_tokens=3, logits_processor=[only_seven])
    assert row.ids == [7, 7, 7]
    assert seen == [(2, 2, 0), (3, 2, 1), (4, 2, 2)]


# Context overflow


def test_overflow_error_comes_before_any_work(tiny):
    prompt = token_ids(TINY, 1, 20)[0].tolist()
    assert len(tiny.generate(prompt, max_new_tokens=5).ids) == 5  # fills every position
    with pytest.raises(ContextOverflowError, match="the prompt has 20 tokens"):
        tiny.stream(prompt, max_new_tokens=6)
    with pytest.raises(ContextOverflowError, match="prompt 1 of 2"):
        tiny.stream([prompt[:3], prompt], max_new_tokens=6)


def test_overflow_stop_ends_at_the_last_position(tiny):
    prompts = [token_ids(TINY, 1, 20)[0].tolist(), [1, 2]]
    rows = tiny.generate(prompts, max_new_tokens=30, overflow="stop")
    for prompt, row in zip(prompts, rows, strict=True):
        assert len(prompt) + len(row.ids) == TINY.n_positions + 1
        assert row.finish_reason == "length"
    with pytest.raises(ContextOverflowError, match="the model reads 24"):
        tiny.generate([1] * 25, overflow="stop")


def test_overflow_slide_is_a_fresh_run_on_the_last_half(tiny):
    prompts = [token_ids(TINY, 1, 20)[0].tolist(), [1, 2], [3] * 40]
    rows = tiny.generate(prompts, max_new_tokens=40, overflow="slide")
    assert [len(row.ids) for row in rows] == [40] * 3
    for prompt, row in zip(prompts, rows, strict=True):
        context = prompt if len(prompt) <= 24 else prompt[-12:]
        for i, id in enumerate(row.ids):
            if len(context) > 24:
                context = context[-12:]
            z = tiny.logits(context)[0, -1]
            assert z[id] >= z.max() - 1e-3 * np.abs(z).max(), i
            context = [*context, id]


# A cache across calls


def test_a_reused_cache_changes_nothing(tiny):
    cache = tiny.new_cache()
    ids = token_ids(TINY, 1, 12)[0].tolist()
    for prompt in (ids[:8], ids, ids[:5] + ids[:3], ids, [7]):
        fresh = tiny.generate(prompt, max_new_tokens=6)
        again = tiny.generate(prompt, cache=cache, max_new_tokens=6)
        assert again.ids == fresh.ids
        assert cache.ids[0][: len(prompt)] == prompt


def test_a_reused_cache_reads_only_what_is_new(tiny):
    cache, ids = tiny.new_cache(), token_ids(TINY, 1, 12)[0].tolist()
    tiny.generate(ids[:8], cache=cache, max_new_tokens=1)
    cache.k[:, :, :, :8] = 0  # a forgery that only a reader of the cache can notice
    forged = tiny.generate(ids, cache=cache, max_new_tokens=1)
    assert forged.logprobs != tiny.generate(ids, max_new_tokens=1).logprobs


def test_a_cache_that_does_not_fit_is_refused(tiny):
    with pytest.raises(DecodingError, match="a cache of 2 rows for 1 prompts"):
        tiny.generate([1], cache=tiny.new_cache(2))
    with pytest.raises(DecodingError, match="needs all 24"):
        tiny.generate([1], cache=tiny.new_cache(1, n_positions=5))


# Input that cannot work


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], "no prompts"),
        ([40], "token id 40 is not in the vocabulary"),
        ([[-1]], "token id -1"),
        ([[0.5]], "flat list of whole-number token ids"),
        ([[[1]]], "flat list"),
        ([[]], "names no bos_token_id"),
        (3, "a prompt must be"),
        (None, "a prompt must be"),
        ([None], "a prompt must be"),
    ],
)
def test_bad_prompts_are_refused(prompt, sentence):
    from dataclasses import replace

    config = replace(TINY, bos_token_id=None)
    with pytest.raises(DecodingError, match=sentence):
        GPT2(tiny_params(config)).generate(prompt)


def test_text_needs_a_tokenizer(tiny):
    with pytest.raises(TokenizerError, match="no tokenizer files"):
        tiny.generate("text")
    with pytest.raises(DecodingError, match="stop_strings need a tokenizer"):
        tiny.generate([1], stop_strings="x")
    assert tiny.generate([1]).text == ""


def test_damaged_weights_are_noticed(tiny):
    params = tiny_params()
    params.ln_f.bias[3] = np.nan
    with pytest.raises(DecodingError, match="the logits hold NaN"):
        GPT2(params).generate([1])


def test_backends_and_dtypes_that_do_not_exist_are_refused():
    with pytest.raises(npgpt.BackendError, match="backend 'torch' is not one of numpy"):
        GPT2(tiny_params(), backend="torch")
    with pytest.raises(npgpt.BackendError, match="does not compute in 'int4'"):
        GPT2(tiny_params(), dtype="int4")
    with pytest.raises(npgpt.CheckpointError, match="'nowhere' is not a folder"):
        GPT2.from_pretrained("nowhere")
