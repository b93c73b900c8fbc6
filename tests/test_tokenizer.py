"""Text to ids and back, whole and piece by piece."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tokenizer, TokenizerError
from npgpt.storage.hub import resolve

TALES = Tokenizer.from_folder(resolve("tales"))

NASTY = [
    "",
    " ",
    "\t\n\r\n  \n",
    "Once upon a time",
    "don't won't I'll",
    "naïve café Ångström",
    "👋 world 🌍🏳️‍🌈",
    "漢字かな交じり文 한국어",
    "a\u0301 \u200d \ufeff \u0000 \ufffd",
    "<|endoftext|>",
    "before<|endoftext|>after <|endoftext|",
    "0123456789" * 20,
    "    def f(x):\n        return x\n",
]


@pytest.mark.parametrize("text", NASTY)
def test_decode_undoes_encode(text):
    assert TALES.decode(TALES.encode(text)) == text


@given(st.text())
def test_decode_undoes_encode_on_any_text(text):
    assert TALES.decode(TALES.encode(text)) == text


@given(st.lists(st.integers(0, TALES.vocab_size - 1), max_size=30))
def test_streamed_pieces_join_to_the_whole(ids):
    stream = TALES.stream()
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.flush() == TALES.decode(ids)


@pytest.mark.parametrize("text", NASTY)
def test_streaming_never_shows_half_a_character(text):
    stream, shown = TALES.stream(), ""
    for id in TALES.encode(text):
        shown += stream.push(id)
        assert text.startswith(shown)
    assert shown + stream.flush() == text


@given(st.lists(st.integers(0, TALES.vocab_size - 1), max_size=30))
def test_token_bytes_are_the_text(ids):
    data = b"".join(TALES.token_bytes(id) for id in ids)
    assert data.decode("utf-8", "replace") == TALES.decode(ids)


def test_every_byte_is_a_token():
    assert {TALES.token_bytes(id) for id in range(TALES.vocab_size)} >= {
        bytes([byte]) for byte in range(256)
    }


def test_batch_equals_single():
    assert TALES.encode_batch(NASTY) == [TALES.encode(text) for text in NASTY]


def test_special_tokens_are_one_id_and_can_be_left_out():
    ids = TALES.encode("a<|endoftext|>b")
    assert ids.count(TALES.token_id("<|endoftext|>")) == 1
    assert TALES.decode(ids, skip_special_tokens=True) == "ab"
    assert TALES.decode(ids) == "a<|endoftext|>b"


def test_an_id_without_a_token_is_no_text():
    beyond = TALES.vocab_size + 3
    ids = [*TALES.encode("a"), beyond, *TALES.encode("b")]
    stream = TALES.stream()
    assert "".join(map(stream.push, ids)) == TALES.decode(ids) == "ab"
    with pytest.raises(TokenizerError, match=f"token id {beyond} is not in"):
        TALES.token(beyond)


@pytest.mark.parametrize("id", [-1, 2**32, 0.5, "a", None, True])
def test_what_is_no_id_is_refused(id):
    for use in (lambda: TALES.decode([id]), lambda: TALES.token(id)):
        with pytest.raises(TokenizerError, match="is not a token id"):
            use()


def test_numpy_ids_are_ids():
    assert TALES.decode(np.array(TALES.encode("tale"))) == "tale"


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["list"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(TokenizerError, match="expected a text"):
        TALES.encode(text)


def test_half_a_surrogate_is_refused():
    with pytest.raises(TokenizerError, match="half a character"):
        TALES.encode("a\ud800")


def test_save_and_load_is_the_same(tmp_path):
    TALES.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    for text in NASTY:
        assert again.encode(text) == TALES.encode(text)


@pytest.mark.parametrize(
    "names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")]
)
def test_a_pair_of_files_is_the_same_tokenizer(tmp_path, names):
    model = json.loads((resolve("tales") / "tokenizer.json").read_text())["model"]
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / names[1]).write_text(f"#version: 0.2\n{merges}\n")
    pair = Tokenizer.from_folder(tmp_path)
    for text in NASTY:
        assert pair.encode(text) == TALES.encode(text)
        assert pair.decode(pair.encode(text)) == text


def test_a_folder_without_tokenizer_files_has_none(tmp_path):
    assert Tokenizer.from_folder(tmp_path) is None
    (tmp_path / "vocab.json").write_text("{}")
    assert Tokenizer.from_folder(tmp_path) is None


@pytest.mark.parametrize(
    "damage", ["", "{", "{}", "[1, 2]", '{"model": 3}', "\x00\xff"]
)
def test_damaged_files_are_one_sentence(tmp_path, damage):
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer file"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(damage)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(TokenizerError, match=r"vocab\.json and merges\.txt"):
        Tokenizer.from_folder(tmp_path)


def test_a_file_that_makes_the_library_panic_is_one_sentence(tmp_path):
    data = json.loads((resolve("tales") / "tokenizer.json").read_text())
    data["model"]["continuing_subword_prefix"] = "longer than tokens"
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=r"not a tokenizer file"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("id", [2**31, 2**32 - 1])
def test_an_id_that_would_fill_memory_is_refused(tmp_path, id):
    path = resolve("tales") / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"]["lying"] = id
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=f"4097 tokens, but an id of {id}"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_that_is_not_byte_level_streams_too(tmp_path):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {"[UNK]": 0, "once": 1, "up": 2, "##on": 3, "a": 4}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(backend)
    ids, stream = tokenizer.encode("once upon a"), tokenizer.stream()
    assert ids == [1, 2, 3, 4]
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)


# The real GPT-2 files, with golden tokenisations of several projects


@pytest.fixture(scope="module")
def gpt2_tokenizer(shared):
    return Tokenizer.from_folder(shared / "gpt2-tokenizer")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        (" ", [220]),
        ("\t", [197]),
        ("This is some text", [1212, 318, 617, 2420]),
        ("indivisible", [521, 452, 12843]),
        ("hello 👋 world 🌍", [31373, 50169, 233, 995, 12520, 234, 235]),
        (
            "toString constructor hasOwnProperty valueOf",
            [1462, 10100, 23772, 468, 23858, 21746, 1988, 5189],
        ),
        ("<|endoftext|>Hello world!", [50256, 15496, 995, 0]),
    ],
)
def test_gpt2_golden_tokens(gpt2_tokenizer, text, ids):
    assert gpt2_tokenizer.encode(text) == ids
    assert gpt2_tokenizer.decode(ids) == text


def test_gpt2_golden_files(gpt2_tokenizer, shared):
    golden = json.loads(
        (shared / "gpt2-tokenizer/test_encoded_tokens.json").read_text()
    )
    assert gpt2_tokenizer.encode(golden["text"]) == golden["token_ids"]
    cases = json.loads((shared / "gpt2-golden" / "generations.json").read_text())
    for case in cases:
        if "prompt_ids" in case and isinstance(case["prompt"], str):
            assert gpt2_tokenizer.encode(case["prompt"]) == case["prompt_ids"]
    text = (shared / "tinyshakespeare" / "input.txt").read_text()
    assert len(gpt2_tokenizer.encode(text)) == 338_025
    cut = int(len(text) * 0.9)
    assert len(gpt2_tokenizer.encode(text[:cut])) == 301_966
    assert len(gpt2_tokenizer.encode(text[cut:])) == 36_059
