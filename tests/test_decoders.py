"""Text in pieces and the bytes of tokens, for every kind of decoder.

Expected is what the `tokenizers` library makes of all the ids at once.
"""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders as d
from tokenizers import models, normalizers, pre_tokenizers

from npgpt import Tokenizer, TokenizerError
from npgpt.storage.hub import resolve

BYTES = [f"<0x{i:02X}>" for i in range(256)]
LETTERS = ["a", "b", "c", "the", "cat", "é", "中", ".", "'", "\ufffd"]
WORDS = [*LETTERS, *(f"##{x}" for x in LETTERS), *(f"▁{x}" for x in LETTERS), "▁", "▁▁",
         *(f"{x}</w>" for x in LETTERS), "n't", "|", "x", "y", "[PAD]",
         "<pad>"]  # fmt: skip


def tokenizer(decoder, words=WORDS):
    """Ids of single words and bytes; what counts is how they are decoded."""
    vocab = {word: i for i, word in enumerate([*words, *BYTES])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="a"))
    backend.add_special_tokens(["<end>"])
    if decoder is not None:
        backend.decoder = decoder
    return Tokenizer(backend)


def byte_level_in_a_sequence():
    backend = tokenizers.Tokenizer.from_str(
        Tokenizer.from_folder(resolve("tales")).backend.to_str()
    )
    backend.decoder = d.Sequence([d.ByteLevel(), d.Fuse()])
    return Tokenizer(backend)


LLAMA = [d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]
TOKENWISE = {
    "ByteLevel": Tokenizer.from_folder(resolve("tales")),
    "ByteLevel in a Sequence": byte_level_in_a_sequence(),
    "none": tokenizer(None),
    "Fuse": tokenizer(d.Fuse()),
    "ByteFallback": tokenizer(d.ByteFallback()),
    "Llama": tokenizer(d.Sequence(LLAMA)),
    "Gemma": tokenizer(d.Sequence(LLAMA[:3])),
    "Metaspace": tokenizer(d.Metaspace()),
    "Metaspace, never": tokenizer(d.Metaspace(prepend_scheme="never")),
    "bytes and Metaspace": tokenizer(d.Sequence([d.ByteFallback(), d.Metaspace()])),
    "WordPiece": tokenizer(d.WordPiece()),
    "WordPiece as it is": tokenizer(d.WordPiece(cleanup=False)),
    "BPEDecoder": tokenizer(d.BPEDecoder()),
    "Replace": tokenizer(d.Sequence([d.Replace("##", "-"), d.Fuse()])),
    "Strip": tokenizer(d.Sequence([d.Fuse(), d.Strip("a", 2, 0)])),
}
WHOLE = {  # what comes later changes what came before
    "CTC": tokenizer(d.CTC()),
    "Replace in a text": tokenizer(d.Sequence([d.Fuse(), d.Replace("ca", "x")])),
    "Replace by pattern": tokenizer(
        d.Sequence([d.Replace(tokenizers.Regex("a."), "x"), d.Fuse()])
    ),
    "ByteLevel of a text": tokenizer(d.Sequence([d.Fuse(), d.ByteLevel()])),
    "two that space": tokenizer(d.Sequence([d.BPEDecoder(), d.WordPiece()])),
    "bytes between words": tokenizer(d.Sequence([d.WordPiece(), d.ByteFallback()])),
    "Metaspace of a text": tokenizer(d.Sequence([d.Fuse(), d.Metaspace()])),
}
EVERY = TOKENWISE | WHOLE
ids_of = st.lists(st.integers(0, 330), max_size=60)  # beyond the last there is no token


def pieces(tokenizer, ids, after=()):
    stream = tokenizer.stream(after)
    return [*(stream.push(id) for id in ids), stream.flush()]


@pytest.mark.parametrize("kind", EVERY)
@given(ids=ids_of)
def test_pieces_join_to_the_whole(kind, ids):
    assert "".join(pieces(EVERY[kind], ids)) == EVERY[kind].decode(ids)


@pytest.mark.parametrize("kind", TOKENWISE)
@given(ids=ids_of)
def test_a_piece_once_shown_stays(kind, ids):
    shown, whole = "", TOKENWISE[kind].decode(ids)
    for piece in pieces(TOKENWISE[kind], ids):
        shown += piece
        assert whole.startswith(shown)


@pytest.mark.parametrize("kind", TOKENWISE)
@given(before=ids_of, ids=ids_of)
def test_pieces_after_a_prompt_go_on_from_it(kind, before, ids):
    stream = TOKENWISE[kind].stream()
    shown = "".join(stream.push(id) for id in before)
    whole = TOKENWISE[kind].decode([*before, *ids])
    assert shown + "".join(pieces(TOKENWISE[kind], ids, before)) == whole


@pytest.mark.parametrize("kind", set(TOKENWISE) - {"Strip"})
@given(ids=st.lists(st.integers(0, 315), min_size=1, max_size=40))
def test_bytes_join_to_the_text(kind, ids):
    tokenizer = TOKENWISE[kind]
    ids = [id for id in ids if tokenizer.backend.id_to_token(id) is not None]
    last = len(ids) - 1
    data = b"".join(
        tokenizer.token_bytes(id, first=i == 0, last=i == last)
        for i, id in enumerate(ids)
    )
    text = tokenizer.decode(ids)
    if "ByteLevel" in kind:
        assert data.decode(errors="replace") == text
        return
    try:
        data.decode()
    except UnicodeDecodeError:
        assert "\ufffd" in text  # how many stand for broken bytes is the library's way
    else:
        assert data == text.encode()


@given(text=st.text())
def test_text_survives_bytes_by_number(text):
    """Llama's way: any text as words, and as bytes where there is no word."""
    vocab = {word: i for i, word in enumerate([*LETTERS, "▁", *BYTES])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = d.Sequence(LLAMA)
    llama = Tokenizer(backend)
    ids = llama.encode(text)
    data = b"".join(llama.token_bytes(id, first=i == 0) for i, id in enumerate(ids))
    assert data.decode() == llama.decode(ids) == "".join(pieces(llama, ids))
    if "▁" not in text:
        assert llama.decode(ids) == text


def test_a_character_of_several_bytes_comes_whole():
    llama = TOKENWISE["Llama"]
    names = ["▁cat", "▁", "<0xE4>", "<0xB8>", "<0xAD>", "▁cat"]
    ids = [llama.token_id(name) for name in names]
    assert pieces(llama, ids) == ["cat", " ", "", "", "", "中 cat", ""]
    assert [llama.token_bytes(id) for id in ids] == [
        b" cat", b" ", b"\xe4", b"\xb8", b"\xad", b" cat"
    ]  # fmt: skip
    assert llama.token_bytes(ids[0], first=True) == b"cat"


def test_unigram_with_metaspace():
    vocab = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -1.0), ("cat", -1.0), ("s", -2.0)]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = d.Metaspace()
    unigram = Tokenizer(backend)
    ids = unigram.encode("the cats the")
    assert pieces(unigram, ids) == ["the", " ", "cat", "s", " the", ""]
    assert b"".join(map(unigram.token_bytes, ids)) == b" the cats the"


@pytest.mark.parametrize("kind", WHOLE)
def test_a_token_without_bytes_of_its_own_is_refused(kind):
    with pytest.raises(TokenizerError, match="no token has bytes of its own"):
        WHOLE[kind].token_bytes(1)


def test_a_long_text_is_decoded_in_short_windows():
    llama = TOKENWISE["Llama"]
    names = ["▁cat", "▁", "<0xE4>", "<0xB8>", "<0xAD>", "a", "▁▁", "<end>"]
    ids = 500 * [llama.token_id(name) for name in names]
    stream = llama.stream()
    shown = "".join(map(stream.push, ids)) + stream.flush()
    assert shown == llama.decode(ids)
    assert len(stream._ids) < 50
