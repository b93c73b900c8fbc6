"""Scores against transformers, against their definition, and through the command."""

import io
import json
import math
import os
import pty
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers import FIXTURES, TINY, tiny_params, token_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt import GPT2, ContextOverflowError, DecodingError, Tokenizer, TokenizerError
from npgpt.evaluation.score import score_file, token_logprobs
from npgpt.ops import log_softmax
from npgpt.storage.hub import resolve
from npgpt.texts import can_be_cut, encode_pieces, read_text, split_documents

NPGPT = str(Path(sys.executable).parent / "npgpt")
RECORDED = json.loads((FIXTURES / "scores.json").read_text(encoding="utf-8"))
TEXT = RECORDED["text"]
SEPARATOR = "\n\n<|endoftext|>\n\n"
# Sums of a few hundred float32 products before a softmax; float64 leaves rounding.
FLOAT32, FLOAT64 = 2e-4, 1e-9


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


# The figures


def test_matches_reference(backend):
    for dtype, tolerance in (("float32", FLOAT32), ("float64", FLOAT64)):
        if dtype not in backend.dtypes:
            continue
        model = GPT2.from_pretrained("tales-mini", backend=backend, dtype=dtype)
        score = model.score(TEXT)
        assert score.ids == RECORDED["ids"]
        np.testing.assert_allclose(score.logprobs, RECORDED["logprobs"], atol=tolerance)
        # transformers takes its loss in float32 whatever the model's dtype
        assert score.loss == pytest.approx(RECORDED["loss"], abs=max(tolerance, 1e-6))


def test_windows_match_the_recipe_of_transformers():
    model = GPT2.from_pretrained("tales-mini", dtype="float64")
    score = model.score(TEXT, window=RECORDED["window"], stride=RECORDED["stride"])
    assert -score.logprob == pytest.approx(RECORDED["strided_nll"], abs=1e-7)


@pytest.mark.peers
def test_loss_is_that_of_transformers_now(mini, shared):
    import torch
    import transformers

    theirs = transformers.GPT2LMHeadModel.from_pretrained(resolve("tales-mini"))
    theirs = theirs.float().eval()  # by default it computes in the file's float16
    text = (shared / "tales-model" / "heldout.txt").read_text(encoding="utf-8")
    for start in range(0, 20000, 4000):
        ids = mini.tokenizer.encode(text[start : start + 1200])
        x = torch.tensor([[0, *ids]])
        with torch.no_grad():
            loss = theirs(x, labels=x).loss.item()
        assert mini.score(ids).loss == pytest.approx(loss, abs=FLOAT32)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "bits", "nats"),
    [("tales-mini", 1.6110, 4.0374), ("tales", 1.4115, 3.5375)],
)
def test_heldout_text_costs_what_its_source_says(shared, name, bits, nats):
    folder = shared / ("tales-model" if name == "tales" else name)
    path = shared / "tales-model" / "heldout.txt"
    score = score_file(GPT2.from_pretrained(folder), path, separator=SEPARATOR)
    assert (score.num_tokens, score.num_bytes) == (183_639, 663_974)
    assert round(score.bits_per_byte, 4) == bits
    assert round(score.loss, 4) == nats


@pytest.mark.full
@pytest.mark.parametrize(("name", "old"), [("tales-mini", 1.6110), ("tales", 1.4115)])
def test_heldout_text_costs_what_the_models_card_says(shared, name, old):
    path = shared / "tales-model" / "heldout.txt"
    score = score_file(GPT2.from_pretrained(name), path, separator=SEPARATOR)
    card = (resolve(name) / "README.md").read_text(encoding="utf-8")
    assert f"**{score.bits_per_byte:.4f} bits per byte**" in card
    assert score.bits_per_byte < old  # of a model that was trained with torch


def test_figures_follow_from_the_log_probabilities(mini):
    score = mini.score(TEXT)
    assert score.logprob == pytest.approx(sum(score.logprobs))
    assert score.num_tokens == len(score.ids)
    assert score.num_bytes == len(TEXT.encode())
    assert score.loss == pytest.approx(-np.mean(score.logprobs))
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    bits = -np.sum(score.logprobs) / math.log(2)
    assert score.bits_per_byte == pytest.approx(bits / len(TEXT.encode()))


def test_tokens_joined_are_the_text(mini):
    text = TEXT + " 👋🏽 žluťoučký ﷽\r\n\t"
    assert "".join(mini.score(text).tokens) == text


def test_probabilities_of_all_continuations_sum_to_one(mini):
    vocabulary = range(mini.config.vocab_size)
    logprobs = token_logprobs(
        np.repeat(mini.logits([0, 300])[0, -1:], len(vocabulary), axis=0),
        np.array(vocabulary),
    )
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-5)
    some = [mini.score([300, id]).logprobs[1] for id in (5, 300, 4000)]
    np.testing.assert_allclose(some, logprobs[[5, 300, 4000]], atol=FLOAT32)


def test_without_bos_the_first_token_is_left_out(mini):
    ids = mini.tokenizer.encode(TEXT)[:20]
    score = mini.score(ids, bos=False)
    assert math.isnan(score.logprobs[0])
    expected = log_softmax(mini.logits(ids)[0, :-1])[range(19), ids[1:]]
    np.testing.assert_allclose(score.logprobs[1:], expected, atol=FLOAT32)
    assert score.num_tokens == 19
    assert score.num_bytes == len(mini.tokenizer.decode(ids[1:]).encode())


# Windows


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(
    ("window", "stride"), [(24, 24), (5, 5), (5, 2), (5, 1), (1, 1), (24, 7), (7, 6)]
)
def test_windows_give_each_token_its_context_once(window, stride, bos):
    model = GPT2(tiny_params(), dtype="float64")
    ids = token_ids(TINY, 1, 31)[0].tolist()
    x = [TINY.bos_token_id, *ids] if bos else ids
    score = model.score(ids, bos=bos, window=window, stride=stride)
    assert score.ids == ids
    logprobs = score.logprobs if bos else score.logprobs[1:]
    for target, logprob in enumerate(logprobs, start=1):
        start = max(0, math.ceil((target - window) / stride)) * stride
        z = model.logits(x[start:target])[0, -1]
        assert logprob == pytest.approx(log_softmax(z)[x[target]], abs=FLOAT64)


@pytest.mark.parametrize(
    ("text", "options", "error", "sentence"),
    [
        ("", {}, DecodingError, "the text is empty"),
        ([], {}, DecodingError, "the text is empty"),
        ([7], {"bos": False}, DecodingError, "nothing before it"),
        ("a", {"window": 513}, ContextOverflowError, "512 positions"),
        ("a", {"window": 0}, DecodingError, "1 <= stride <= window"),
        ("a", {"window": 5, "stride": 6}, DecodingError, "not 6 and 5"),
        ([4096], {}, DecodingError, "not in the vocabulary"),
        ([3, 4096], {"bos": False}, DecodingError, "not in the vocabulary"),
    ],
)
def test_what_cannot_be_scored_is_refused(mini, text, options, error, sentence):
    with pytest.raises(error, match=sentence):
        mini.score(text, **options)


def test_a_model_without_bos_says_what_to_do():
    model = GPT2(tiny_params(TINY.__class__(**{**vars(TINY), "bos_token_id": None})))
    with pytest.raises(DecodingError, match="bos=False"):
        model.score([1, 2])
    assert model.score([1, 2], bos=False).num_tokens == 1
    assert model.score([1, 2], bos=False).bits_per_byte is None
    with pytest.raises(TokenizerError, match="no tokenizer"):
        score_file(model, io.BytesIO(b"a"), bos=False)


# Files


def test_a_file_scores_as_its_documents_do(mini, tmp_path):
    documents = [TEXT, "One.", "", TEXT[40:]]
    path = tmp_path / "texts"
    path.write_text(SEPARATOR.join(documents), encoding="utf-8", newline="")
    seen, read = [], []
    options = {"window": 40, "stride": 20}
    score = score_file(
        mini,
        path,
        separator=SEPARATOR,
        progress=read.append,
        on_token=seen.append,
        **options,
    )
    parts = [mini.score(document, **options) for document in documents if document]
    assert score.logprob == pytest.approx(sum(part.logprob for part in parts))
    assert score.num_tokens == sum(part.num_tokens for part in parts)
    assert score.num_bytes == sum(len(document.encode()) for document in documents)
    assert "".join(token.text for token in seen) == "".join(documents)
    assert sum(read) == path.stat().st_size


@given(st.text("ab-"), st.integers(1, 5), st.sampled_from(["-", "--", "-a-", "ab"]))
def test_documents_are_those_of_split(text, size, separator):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    documents = ["".join(d) for d in split_documents(pieces, separator)]
    assert documents == text.split(separator)
    assert ["".join(d) for d in split_documents(pieces, None)] == [text]


NASTY = st.lists(
    st.sampled_from(
        [
            *"ab'srt.,-1 \n\t\r",
            "  ",
            "\n\n",
            "\u00a0",
            "\u3000",
            "\x1c",
            "\u2028",
            "é",
            "e\u0301",
            "漢",
            "👋",
            "\ufeff",
            "<|endoftext|>",
            "'ll",
            "\u200b",
            "\x85",
        ]
    ),
    max_size=60,
).map("".join)


def same_in_pieces(tokenizer, text, block):
    pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
    blocks = list(encode_pieces(tokenizer, pieces, block))
    assert [id for ids in blocks for id in ids] == tokenizer.encode(text)
    return len(blocks)


@settings(max_examples=400)
@given(NASTY, st.integers(1, 20))
def test_encoding_in_pieces_is_encoding_whole(tales, text, block):
    assert can_be_cut(tales.tokenizer)
    same_in_pieces(tales.tokenizer, text, block)


def test_text_is_encoded_in_many_pieces(tales):
    assert same_in_pieces(tales.tokenizer, TEXT * 20, 100) > 50


@pytest.fixture(scope="module")
def gpt2_tokenizer(shared):
    return Tokenizer.from_folder(shared / "gpt2-tokenizer")


@settings(max_examples=200)
@given(text=NASTY, block=st.integers(1, 20))
def test_encoding_in_pieces_with_the_tokenizer_of_gpt2(gpt2_tokenizer, text, block):
    assert can_be_cut(gpt2_tokenizer)
    same_in_pieces(gpt2_tokenizer, text, block)


@pytest.mark.parametrize("change", ["prefix", "rstrip", "normalizer", "metaspace"])
def test_tokenizers_that_look_across_are_not_cut(tales, change):
    backend = tokenizers.Tokenizer.from_str(tales.tokenizer.backend.to_str())
    if change == "prefix":
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(True)
    elif change == "rstrip":
        token = tokenizers.AddedToken("<b>", rstrip=True, normalized=False)
        backend.add_special_tokens([token])
    elif change == "normalizer":
        backend.normalizer = tokenizers.normalizers.Replace(" a", "aa")
    else:
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(backend)
    assert not can_be_cut(tokenizer)
    assert same_in_pieces(tokenizer, "a a\na <b> a a", 3) == 1


def test_memory_does_not_grow_with_the_file(tales, tmp_path):
    def peak(copies):
        path = tmp_path / "long"
        path.write_text((TEXT + "\n") * copies, encoding="utf-8")
        tracemalloc.start()
        n = sum(map(len, encode_pieces(tales.tokenizer, read_text(path))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n > 50 * copies
        return peak

    assert peak(4000) < 1.2 * peak(1000)  # 1.3 MB of text and 0.3 MB


def test_a_long_file_without_white_space_is_read_too(tales):
    text = "漢" * 70_000
    blocks = encode_pieces(tales.tokenizer, read_text(io.BytesIO(text.encode())))
    assert tales.tokenizer.decode([id for block in blocks for id in block]) == text


def test_what_is_no_utf8_is_found_where_it_stands():
    data = "é".encode() * 40_000 + b"\xff"  # beyond the first block, which cuts an é
    with pytest.raises(TokenizerError, match="byte 80000 is not UTF-8"):
        list(read_text(io.BytesIO(data)))
    with pytest.raises(TokenizerError, match="byte 1 is not UTF-8"):
        list(read_text(io.BytesIO(b"a\xc3")))


# The command


def run(*arguments, stdin=b"", status=0):
    done = subprocess.run(
        [NPGPT, "score", *arguments], input=stdin, capture_output=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


def test_command_prints_the_figures(tmp_path, tales):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    score = tales.score(TEXT)
    lines = dict(line.split(None, 1) for line in run(str(path)).splitlines())
    printed = float(lines["perplexity"].replace(",", ""))
    assert printed == pytest.approx(score.perplexity, rel=1e-5)
    assert lines["tokens"] == str(score.num_tokens)
    value = json.loads(run("-", "--json", "--show", stdin=TEXT.encode()))
    assert value["tokens"] == score.tokens
    assert value["bits_per_byte"] == pytest.approx(score.bits_per_byte, abs=1e-5)
    assert "ids" not in json.loads(run("-", "--json", stdin=TEXT.encode()))


def test_command_takes_documents_windows_and_backslashes(mini):
    text = SEPARATOR.join([TEXT, TEXT])
    value = json.loads(
        run(
            "-",
            "--json",
            "-m",
            "tales-mini",
            "--separator",
            r"\n\n<|endoftext|>\n\n",
            "--window",
            "32",
            "--stride",
            "8",
            "--no-bos",
            stdin=text.encode(),
        )
    )
    expected = mini.score(TEXT, window=32, stride=8, bos=False)
    assert value["num_tokens"] == 2 * expected.num_tokens
    assert value["loss"] == pytest.approx(expected.loss, abs=1e-5)


def test_command_writes_tokens_as_rows_where_it_is_piped(mini):
    rows = run("-", "--show", "-m", "tales-mini", stdin=TEXT.encode()).split("\n\n")
    rows = [line.split("\t") for line in rows[0].splitlines()]
    assert [int(id) for _, id, _ in rows] == RECORDED["ids"]
    assert "".join(json.loads(text) for *_, text in rows) == TEXT


def test_command_colours_tokens_on_a_terminal():
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(
        [NPGPT, "score", "-"],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=env,
    ) as done:
        done.stdin.write(b"Once upon a time\nqua")
        done.stdin.close()
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # the other end has closed
                break
            if not block:
                break
            shown += block
    os.close(ours)
    assert b"\x1b[30;48;5;" in shown
    assert b"perplexity" in shown


@pytest.mark.parametrize(
    ("arguments", "stdin", "sentence"),
    [
        (["nothing.txt"], b"", "nothing.txt: cannot be read"),
        (["-"], b"a\xff", "byte 1 is not UTF-8"),
        (["-"], b"", "the text is empty"),
        (["-", "--stride", "0"], b"a", "1 <= stride"),
    ],
)
def test_command_fails_in_one_sentence(arguments, stdin, sentence):
    done = subprocess.run(
        [NPGPT, "score", *arguments], input=stdin, capture_output=True, timeout=120
    )
    assert done.returncode == 1
    assert sentence in done.stderr.decode().splitlines()[-1]
