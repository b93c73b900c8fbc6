"""Vocabularies that are padded, and prompts that end inside a character."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from helpers import same_tokens as same_ids
from tokenizers import decoders, models, normalizers

from npgpt import GPT2, DecodingError, GenerationConfig, Tokenizer
from npgpt.decoding import healing
from npgpt.decoding.row import Row
from npgpt.decoding.vocabulary import same_tokens, sized_as
from npgpt.storage import checkpoint, hub


def padded(name, V, scale=1.0):
    """A bundled model with V rows in its table: those without a token are zero."""
    params = checkpoint.load(hub.resolve(name))
    table = np.zeros((V, params.config.n_embd), np.float32)
    n = min(V, params.config.vocab_size)
    table[:n] = params.wte.weight[:n] * scale
    config = replace(params.config, vocab_size=V)
    tensors = {**checkpoint.named_tensors(params), "wte.weight": table}
    made = checkpoint.from_tensors(config, tensors)
    return GPT2(made, Tokenizer.from_folder(hub.resolve(name)))


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


@pytest.mark.parametrize("more", [{}, {"assistant_tree": [2, 1]}])
@pytest.mark.parametrize("sizes", [(4096, 4160), (4160, 4096), (4160, 4224)])
def test_an_assistant_that_is_only_padded_is_no_other_tokenizer(sizes, more):
    model, assistant = padded("tales", sizes[0]), padded("tales-mini", sizes[1])
    options = dict(max_new_tokens=16, **more)
    plain = model.generate("Once upon a time", max_new_tokens=16, top_logprobs=2)
    drafted = model.generate("Once upon a time", assistant_model=assistant, **options)
    gaps = [first[1] - second[1] for first, second in plain.top_logprobs]
    assert same_ids(drafted.ids, plain.ids, gaps)
    sampled = model.generate(
        "Once upon a time", assistant_model=assistant, do_sample=True, **options
    )
    assert len(sampled.ids) == 16


def test_an_assistant_reads_ids_that_it_does_not_have(mini):
    model = padded("tales", 4160)
    made = model.generate([5, 4159, 7], assistant_model=mini, max_new_tokens=6)
    plain = model.generate([5, 4159, 7], max_new_tokens=6, top_logprobs=2)
    gaps = [first[1] - second[1] for first, second in plain.top_logprobs]
    assert same_ids(made.ids, plain.ids, gaps)


def test_logits_are_cut_or_filled_up(mini):
    assert sized_as(padded("tales", 4096), mini) is mini
    for V in (4097, 4200):
        other = sized_as(padded("tales", V), mini)
        z = other.next_logits([[1, 2], [3]], other.new_cache(2))
        expected = mini.next_logits([[1, 2], [3]], mini.new_cache(2))
        assert z.shape == (2, V)
        assert (z[:, :4096] == expected).all()
        assert (z[:, 4096:] == -np.inf).all()
        many = other.all_logits([[1, 2]], other.new_cache(1))
        assert [x.shape for x in many] == [(2, V)]
    larger = padded("tales-mini", 4200)
    assert sized_as(mini, larger).next_logits([[1]], larger.new_cache(1)).shape == (
        1,
        4096,
    )


def test_another_tokenizer_is_refused(mini):
    other = padded("tales", 4160)
    data = tokenizers.Tokenizer.from_str(other.tokenizer.backend.to_str())
    data.add_tokens(["new"])
    other.tokenizer = Tokenizer(data)
    assert not same_tokens(other.tokenizer, mini.tokenizer)
    assert same_tokens(mini.tokenizer, Tokenizer.from_folder(hub.resolve("tales")))
    for tokenizer in (other.tokenizer, None):
        other.tokenizer = tokenizer
        with pytest.raises(
            DecodingError, match=r"4096 and 4160 tokens.*same tokenizer"
        ):
            mini.generate("Once", assistant_model=other)


def test_guidance_says_that_a_model_is_padded(mini):
    with pytest.raises(DecodingError, match="tokens, but are padded to 4096"):
        mini.generate("Once", amateur_model=padded("tales", 4160))


# Token healing

HEAL = GenerationConfig(token_healing=True)


def letters(tales, data):
    """One id a byte: as no text is ever encoded, and as a cut one may end."""
    of = {tales.tokenizer.token_bytes(id): id for id in range(4096)}
    return [of[bytes([byte])] for byte in data]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_prompt_that_ends_in_half_a_character_is_healed(tales, cut):
    whole = "Once 👋".encode()
    ids = [*tales.encode("Once"), *letters(tales, whole[4 : len(whole) - cut])]
    start = healing.heal(ids, tales.tokenizer, HEAL)
    assert tales.tokenizer.decode(start.ids) == "Once "
    assert start.prefix == "👋".encode()[:-cut]
    made = tales.generate(ids, token_healing=True, max_new_tokens=8, seed=3)
    data = b"".join(tales.tokenizer.token_bytes(id) for id in made.ids)
    assert data.startswith(start.prefix)
    # the character was not to be seen before, so all of it is news
    assert made.text == data.decode(errors="replace")


def test_without_healing_half_a_character_is_completed(tales):
    half = [*tales.encode("Once "), *letters(tales, "é".encode()[:1])]
    stream = tales.tokenizer.stream(half)
    assert stream.push(*letters(tales, "é".encode()[1:])) == "é"
    assert stream.push(tales.encode("a")[0]) == "a"


def test_ids_without_text_are_no_end_of_a_word():
    model = padded("tales", 4160)
    for prompt in ([*model.encode("Once upon"), 4159], [4100, 4101], [4159]):
        start = healing.heal(prompt, model.tokenizer, HEAL)
        assert start == (prompt, b"")
        made = model.generate(prompt, token_healing=True, max_new_tokens=3)
        assert len(made.ids) == 3
    for seed in range(20):  # hot enough that ids without text are drawn
        made = model.generate(
            "Once upon a ti", token_healing=True, do_sample=True, temperature=50.0,
            max_new_tokens=6, seed=seed,
        )  # fmt: skip
        text = model.tokenizer.decode(made.prompt_ids + made.ids)
        assert text.startswith("Once upon a ti")


def test_a_tokenizer_with_more_tokens_than_the_model():
    model = padded("tales", 4000)
    made = model.generate("Once upon a ti", token_healing=True, max_new_tokens=4)
    text = model.tokenizer.decode(made.prompt_ids + made.ids)
    assert text.startswith("Once upon a ti")


def test_the_new_text_goes_on_from_the_prompt():
    """Where a tokenizer drops the first space, a new word still begins with its own."""
    words = ["<unk>", "▁", "▁the", "▁cat", "s", "▁sat", "a", "t"]
    backend = tokenizers.Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>")
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Metaspace()
    model = copy.copy(padded("tales-mini", 4096))
    model.tokenizer = Tokenizer(backend)
    made = model.generate([2, 3], allowed_token_ids=[3], max_new_tokens=2)
    assert made.text == " cat cat"
    stopped = model.generate(
        [2, 3], allowed_token_ids=[3, 5], max_new_tokens=9, stop_strings=[" cat"]
    )
    assert stopped.finish_reason in ("stop", "length")
    for word, other in ((" cat", " sat"), (" sat", " cat")):
        banned = model.generate(
            [2, 3], allowed_token_ids=[3, 5], max_new_tokens=2, banned_strings=[word]
        )
        assert banned.text == 2 * other
    options = GenerationConfig(stop_strings=[" cat"])
    row = Row(0, healing.Prompt([2, 3]), 0, model.tokenizer, options, (), 9)
    assert row.end_after([3]) == "stop"
    assert row.end_after([5]) is None
