"""Files to documents, halves, a vocabulary and ids: what holds for every corpus."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import DataError, Tokenizer, TokenizerError, texts
from npgpt.tokenizer import END_OF_TEXT
from npgpt.training import corpus

WORDS = ["the", "king", "had", "a", "daughter", "who", "was", "so", "beautiful", "sun"]


def tale(seed, n=60):
    """A paragraph or two of n words."""
    words = np.random.Generator(np.random.Philox(seed)).choice(WORDS, n)
    return " ".join(words[: n // 2]) + ".\n\n" + " ".join(words[n // 2 :]) + "."


@pytest.fixture
def tales(tmp_path):
    """Two files: thirty tales and one."""
    texts = [tale(i, 20 + 7 * i) for i in range(30)]
    (tmp_path / "many.txt").write_text(f"\n{END_OF_TEXT}\n".join(texts), "utf-8")
    (tmp_path / "one.txt").write_text(tale(99) + "\n", "utf-8")
    return tmp_path, [*texts, tale(99)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A vocabulary of 300 tokens."""
    path = tmp_path_factory.mktemp("vocabulary") / "a.txt"
    path.write_text("\n\n".join(tale(i) for i in range(20)), "utf-8")
    return corpus.train_tokenizer(corpus.find_documents([path]), 300)


def texts_of(documents):
    return [document.text() for document in documents]


# documents


def test_files_are_parted_at_the_end_of_a_text(tales):
    folder, texts = tales
    files = [folder / "many.txt", folder / "one.txt"]
    assert texts_of(corpus.find_documents(files)) == texts
    assert texts_of(corpus.find_documents([folder])) == texts


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["", " \n", "a", "é\n\nb", "\n 漢 ", "𝔸" * 9, "a"])))
def test_documents_are_the_trimmed_unequal_parts(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("parts") / "x.txt"
    path.write_text(END_OF_TEXT.join(parts), "utf-8", newline="")
    expected = list(dict.fromkeys(p.strip() for p in parts if p.strip()))
    if expected:
        found = corpus.find_documents([path])
        assert texts_of(found) == expected
        assert [d.num_bytes for d in found] == [len(t.encode()) for t in expected]
    else:
        with pytest.raises(DataError, match="no text"):
            corpus.find_documents([path])


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOnce")
    assert texts_of(corpus.find_documents([tmp_path])) == ["Once"]


def test_a_name_that_no_file_can_have_is_one_sentence():
    with pytest.raises(DataError, match="cannot be read"):
        corpus.find_documents(["a" * 400])


def test_a_document_longer_than_a_block_is_whole(tmp_path):
    text = "é漢" * 50_000 + "\n\nend"
    (tmp_path / "a.txt").write_text(text, "utf-8")
    (document,) = corpus.find_documents([tmp_path])
    assert document.text() == text
    assert max(map(len, document.pieces())) <= texts.BLOCK
    heard = []
    list(document.pieces(heard.append))
    assert sum(heard) == document.num_bytes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"fine so far \xff\xfe", "byte 12 is not UTF-8"),
        ("Once".encode("utf-16"), "is not UTF-8"),
        (b"", "no text"),
        (b" \n\n ", "no text"),
        (f"{END_OF_TEXT}\n{END_OF_TEXT}".encode(), "no text"),
        (None, "No such file"),
    ],
)
def test_a_file_without_text_is_one_sentence(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        corpus.find_documents([tmp_path / "a.txt"])
    assert "\n" not in str(caught.value)
    assert "a.txt" in str(caught.value)


def test_a_folder_without_texts_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"without \.txt files"):
        corpus.find_documents([tmp_path])


# the two halves


@given(st.integers(0, 2**40), st.floats(0.01, 0.6))
@settings(max_examples=60)
def test_no_document_is_in_both_halves_and_none_is_lost(seed, fraction):
    rng = np.random.Generator(np.random.Philox(seed % 1000))
    edges = np.concatenate([[0], np.cumsum(rng.integers(1, 900, 40))]).tolist()
    documents = [corpus.Document("x", a, b) for a, b in pairwise(edges)]
    train, held = corpus.split(documents, fraction, seed)
    assert not set(train) & set(held)
    assert Counter(train) + Counter(held) == Counter(documents)
    assert train == [d for d in documents if d in set(train)]  # in their order
    size = sum(d.num_bytes for d in held)
    assert 0 < size <= fraction * edges[-1] < size + 900
    assert corpus.split(documents, fraction, seed) == (train, held)


def test_the_seed_decides(tales):
    documents = corpus.find_documents([tales[0]])
    halves = {tuple(corpus.split(documents, 0.2, seed)[1]) for seed in range(8)}
    assert len(halves) > 4


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("aaaa aaaa\n\nbbbb\n\ncc", "cc"),  # at a blank line
        ("aaaa aaaa\naaaa\nbbb", "bbb"),  # at a line
        ("é" * 10, "éé"),  # at a character
        ("a" + "漢" * 10, "漢漢"),
    ],
)
def test_a_single_document_gives_its_end(tmp_path, text, tail):
    (tmp_path / "a.txt").write_text(text, "utf-8")
    train, held = corpus.split(corpus.find_documents([tmp_path]), 0.25)
    assert texts_of(held) == [tail]
    assert texts_of(train) == [text[: -len(tail)].rstrip()]


def test_the_longest_document_is_cut_where_none_fits(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\nthree", "utf-8")
    (tmp_path / "b.txt").write_text("one two three\n\nfour five six\n\nseven", "utf-8")
    train, held = corpus.split(corpus.find_documents([tmp_path]), 0.2)
    assert texts_of(held) == ["seven"]
    assert texts_of(train) == ["one two\n\nthree", "one two three\n\nfour five six"]


@pytest.mark.parametrize("text", ["a", "é", "𝔸"])
def test_what_cannot_be_split_is_one_sentence(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, "utf-8")
    with pytest.raises(DataError, match="too few"):
        corpus.split(corpus.find_documents([tmp_path]), 0.1)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, math.nan])
def test_a_fraction_that_cannot_be_is_one_sentence(fraction):
    with pytest.raises(DataError, match="validation must be"):
        corpus.split([corpus.Document("x", 0, 9)], fraction)


# the vocabulary


def test_reserved_tokens_come_first_then_the_bytes(trained):
    assert [trained.token(i) for i in range(5)] == list(corpus.SPECIAL)
    assert trained.special_ids() == set(range(5))
    assert {trained.token_bytes(i) for i in range(5, 261)} == {
        bytes([b]) for b in range(256)
    }
    assert trained.vocab_size == 300


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_every_text_comes_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    joined = b"".join(trained.token_bytes(i) for i in ids)
    assert joined == text.encode()
    assert all(0 <= i < trained.vocab_size for i in ids)


def test_merges_are_the_most_frequent_pairs(tmp_path):
    (tmp_path / "a.txt").write_text("abab abab abab xyxy zz", "utf-8")
    documents = corpus.find_documents([tmp_path])
    merged = corpus.train_tokenizer(documents, corpus.LEAST_VOCABULARY + 3)
    new = {merged.token_bytes(261 + i).decode() for i in range(3)}
    assert {"ab", "abab"} < new


def test_training_twice_gives_the_same_vocabulary(tales):
    documents = corpus.find_documents([tales[0]])
    a, b = (corpus.train_tokenizer(documents, 320).backend.to_str() for _ in range(2))
    assert a == b


def test_blocks_do_not_show_in_the_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(map(tale, range(600))), "utf-8")
    (document,) = corpus.find_documents([tmp_path])
    assert document.num_bytes > 2 * texts.BLOCK

    class Whole(corpus.Document):
        def pieces(self, progress=None):
            yield "".join(super().pieces(progress))

    whole = Whole(document.path, document.start, document.stop)
    a, b = (corpus.train_tokenizer([d], 320) for d in (document, whole))
    assert a.backend.to_str() == b.backend.to_str()


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tales):
    with pytest.raises(TokenizerError, match="at least 261"):
        corpus.train_tokenizer(corpus.find_documents([tales[0]]), 260)


def test_a_short_text_gives_a_smaller_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("abcd", "utf-8")
    trained = corpus.train_tokenizer(corpus.find_documents([tmp_path]), 4096)
    assert trained.vocab_size == 261 + 3


def test_the_saved_file_loads_again(trained, tmp_path):
    trained.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.encode("the king's [MASK] daughter 漢") == trained.encode(
        "the king's [MASK] daughter 漢"
    )


@pytest.mark.peers
def test_transformers_loads_it(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    trained.save(tmp_path)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json")
    )
    text = "the king's daughter\n\n shone é漢"
    assert fast(text)["input_ids"] == trained.encode(text)
    assert fast.decode(fast(text)["input_ids"]) == text


# ids


def test_ids_are_the_documents_between_marks(tales, trained):
    folder, texts = tales
    ids = corpus.encode(corpus.find_documents([folder]), trained)
    assert ids.dtype == np.uint16
    expected = [0]
    for text in texts:
        expected += [*trained.encode(text), 0]
    assert ids.tolist() == expected


def test_a_file_of_ids_is_the_same_ids(tales, trained):
    folder, _ = tales
    documents = corpus.find_documents([folder])
    mapped = corpus.encode(documents, trained, folder / "ids" / "train.bin")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, corpus.encode(documents, trained))


def test_a_large_vocabulary_needs_wider_ids(tales, trained):
    wide = Tokenizer(trained.backend)
    wide.backend = type(trained.backend).from_str(trained.backend.to_str())
    wide.backend.add_tokens([f"w{i}" for i in range(2**16)])
    documents = corpus.find_documents([tales[0]])
    assert corpus.encode(documents, wide).dtype == np.uint32


def test_a_tokenizer_without_an_end_is_refused(tales):
    import tokenizers

    bare = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()))
    with pytest.raises(TokenizerError, match="endoftext"):
        corpus.encode(corpus.find_documents([tales[0]]), bare)


def test_prepare_is_its_parts(tales, tmp_path):
    folder, _ = tales
    heard = []
    result = corpus.prepare(
        [folder],
        320,
        validation=0.2,
        seed=3,
        folder=tmp_path / "ids",
        progress=lambda *message: heard.append(message),
    )
    documents = corpus.find_documents([folder])
    train, held = corpus.split(documents, 0.2, 3)
    assert (result.train_documents, result.validation_documents) == (train, held)
    same = corpus.train_tokenizer(train, 320)  # not on what is held out
    assert result.tokenizer.backend.to_str() == same.backend.to_str()
    np.testing.assert_array_equal(result.train, corpus.encode(train, same))
    np.testing.assert_array_equal(result.validation, corpus.encode(held, same))
    done = Counter()
    for what, size, _ in heard:
        done[what] += size
    totals = {what: total for what, _, total in heard}
    assert done == totals
    assert list(totals) == ["vocabulary", "train", "validation"]


def test_bits_per_byte_of_a_uniform_guess(tales):
    result = corpus.prepare([tales[0]], 300, validation=0.2)
    size = sum(len(t.encode()) for t in texts_of(result.validation_documents))
    bits = math.log2(300) * (len(result.validation) - 1)
    assert result.bits_per_byte(math.log(300)) == pytest.approx(bits / size)


def test_too_little_text_is_one_sentence(tales):
    with pytest.raises(DataError, match=r"tokens for validation, fewer than the 2,049"):
        corpus.prepare([tales[0]], 300, window=2048)
