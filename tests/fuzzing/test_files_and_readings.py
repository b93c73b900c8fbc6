"""Wild texts, files and readings end in one sentence or in what a plain reading gives.

The oracle is always the slow way: a text scored document by document, a row read from
its beginning, an answer scored by itself.
"""

import json
import math

import numpy as np
import pytest
from helpers import TINY, tiny_params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bytes_and_arguments import damaged, values

from npgpt import GPT2, NpgptError
from npgpt.evaluation import formats, score, zero_shot
from npgpt.inside import attention
from npgpt.support.figure import save
from npgpt.verification import checks

FEW = max(10, settings().max_examples // 10)  # where a case takes a tenth of a second
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


def tried(function):
    """Its result, or None; and None, or the sentence with which it is refused."""
    try:
        return function(), None
    except NpgptError as refusal:
        (sentence,) = str(refusal).splitlines()
        return None, sentence


# score_file


def read(text):
    """What is scored of a file with this text: what Windows adds is left out."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


SEPARATORS = ["\n\n", "|", "<|endoftext|>", "ab", " "]
texts = st.lists(
    st.sampled_from(
        [
            "Once upon a time",
            "the king",
            " ",
            "\n",
            "\r\n",
            "\t",
            "é",
            "👋",
            "漢",
            "\0",
            "\ufeff",
            "<|endoftext|>",
            "[PAD]",
            *SEPARATORS,
        ]
    ),
    max_size=12,
).map("".join)
sizes = st.one_of(st.none(), st.integers(-1, 9), st.sampled_from([512, 513, 10**30]))


@one_file
@given(
    text=texts,
    separator=st.sampled_from([None, "", *SEPARATORS]),
    bos=st.booleans(),
    window=sizes,
    stride=sizes,
)
def test_a_file_is_refused_or_scored_as_its_documents_are(
    mini, tmp_path, text, separator, bos, window, stride
):
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    size, text = len(text.encode()), read(text)
    options = dict(bos=bos, window=window, stride=stride)
    tokens, heard = [], []
    whole, refusal = tried(
        lambda: score.score_file(
            mini,
            path,
            separator=separator,
            progress=heard.append,
            on_token=tokens.append,
            **options,
        )
    )
    documents = text.split(separator) if separator else [text]
    documents = [d for d in documents if len(mini.tokenizer.encode(d)) > (not bos)]
    if refusal:
        room = 512 if window is None else window
        step = room if stride is None else stride
        assert not 1 <= step <= room <= 512 or not documents
        return
    assert sum(heard) == size
    parts = [mini.score(document, **options) for document in documents]
    assert whole.num_tokens == sum(part.num_tokens for part in parts)
    expected = sum(part.logprob for part in parts)
    assert math.isclose(whole.logprob, expected, rel_tol=1e-4, abs_tol=1e-3)
    assert whole.num_tokens <= len(tokens)


@one_file
@given(raw=st.binary(max_size=40), bos=st.booleans())
def test_bytes_are_refused_or_are_a_text(mini, tmp_path, raw, bos):
    path = tmp_path / "raw"
    path.write_bytes(raw)
    try:
        text = read(raw.decode())
    except UnicodeDecodeError:
        text = None
    found, refusal = tried(lambda: score.score_file(mini, path, bos=bos))
    if refusal:
        assert text is None or len(mini.tokenizer.encode(text)) <= (not bos)
        return
    expected = mini.score(text, bos=bos).logprob
    assert math.isclose(found.logprob, expected, rel_tol=1e-4, abs_tol=1e-3)


# evaluate

ITEMS = {
    "hellaswag": {
        "ctx": "A tailor sat.",
        "activity_label": "Sewing",
        "ctx_a": "A tailor sat.",
        "ctx_b": "he",
        "endings": ["sews a coat", "eats [the] table"],
        "label": "1",
    },
    "lambada": {"text": "Once upon a time there was a king"},
}


def answered_alone(model, question, norm):
    """Which ending has the largest sum, and which the largest mean."""
    sums, means = [], []
    for ending in question.endings:
        context, target = model.encode(question.context), model.encode(f" {ending}")
        sums.append(sum(score.last_logprobs(model, context + target, len(target))))
        means.append(sums[-1] / len(target if norm == "tokens" else ending))
    return sums, means


@one_file
@given(
    item=damaged(ITEMS["hellaswag"]),
    style=st.sampled_from(formats.STYLES),
    limit=st.one_of(st.none(), st.integers(-1, 2)),
)
def test_a_damaged_question_is_refused_or_answered(mini, tmp_path, item, style, limit):
    path = tmp_path / "hellaswag"
    path.write_text(json.dumps(item))
    norm = zero_shot.NORMS[formats.STYLES.index(style)]
    questions, _ = tried(lambda: formats.read_hellaswag(path, limit, style))
    result, _ = tried(lambda: zero_shot.multiple_choice(mini, questions, norm))
    if result is None:
        return
    (question,) = questions
    sums, means = answered_alone(mini, question, norm)
    for found, scores in ((result.acc, sums), (result.acc_norm, means)):
        best = max(scores)
        near = [i for i, x in enumerate(scores) if math.isclose(x, best, rel_tol=1e-4)]
        assert found == (near == [question.label]) or len(near) > 1
    assert result.chance == 1 / len(question.endings)


@one_file
@given(item=st.one_of(damaged(ITEMS["lambada"]), values, texts), raw=st.booleans())
def test_a_damaged_last_word_is_refused_or_scored(mini, tmp_path, item, raw):
    path = tmp_path / "lambada"
    path.write_bytes((str(item) if raw else json.dumps(item)).encode(errors="replace"))
    items, _ = tried(lambda: formats.read_lambada(path))
    result, _ = tried(lambda: zero_shot.lambada(mini, items))
    if result is None:
        return
    assert 0 <= result.acc <= result.acc_last_token <= 1
    assert result.perplexity >= 1
    assert result.items == len(items)


CLOZE = ["1 A king .", "2 He rode .", "3 The XXXXX rode .\tking\t\tking|wolf"]


@one_file
@given(
    lines=st.lists(st.one_of(st.sampled_from(CLOZE), texts), max_size=5),
    tabs=st.lists(st.text("\tX|a 1", max_size=8), max_size=3),
)
def test_a_damaged_story_is_refused_or_answered(mini, tmp_path, lines, tabs):
    path = tmp_path / "cloze"
    path.write_bytes("\n".join([*lines, *CLOZE, *tabs]).encode())
    questions, _ = tried(lambda: formats.read_cloze(path))
    result, _ = tried(lambda: zero_shot.multiple_choice(mini, questions))
    if result is None:
        return
    assert result.items == len(questions) > 0
    assert all(q.endings[q.label] for q in questions)


# forward

MODEL = GPT2(tiny_params(), dtype="float64")
HELD = [[1, 2, 3], [4]]
ids = st.lists(st.integers(-1, TINY.vocab_size), max_size=23)
number = st.integers(-1, 5)


def same(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-9)


def filled():
    cache = MODEL.new_cache(2)
    MODEL.next_logits(HELD, cache)
    return cache


@given(rows=st.lists(ids, max_size=3), keep=st.none() | st.lists(number, max_size=3))
def test_wild_readings_are_refused_or_those_of_the_whole_row(rows, keep):
    whole = [held + new for held, new in zip(HELD, rows, strict=False)]
    cache = filled()
    found, refusal = tried(lambda: MODEL.all_logits(rows, cache, keep))
    if refusal:
        fits = (
            len(rows) == 2
            and all(rows)
            and all(0 <= id < TINY.vocab_size for row in rows for id in row)
            and all(len(row) <= TINY.n_positions for row in whole)
            and (keep is None or len(keep) == 2)
        )
        kept = keep or [1, 1]
        assert not fits or any(
            not 0 <= n <= len(new) for n, new in zip(kept, rows, strict=True)
        )
        return
    assert cache.ids == whole
    for row, new, z, i in zip(whole, rows, found, range(2), strict=True):
        n = len(new) if keep is None else keep[i]
        same(z, MODEL.logits(row)[0, len(row) - n :])
        assert z.shape == (n, TINY.vocab_size)
    z, hidden = MODEL.next_hidden(rows, filled())
    for row, new, last, h in zip(whole, rows, z, hidden, strict=True):
        same(last, MODEL.logits(row)[0, -1])
        assert h.shape == (len(new), TINY.n_embd)


@given(
    nodes=st.lists(st.tuples(st.integers(-1, 40), st.integers(-2, 6)), max_size=7),
    more=st.lists(number, max_size=1),
)
def test_a_wild_tree_is_refused_or_all_its_branches(nodes, more):
    tokens = [token for token, _ in nodes]
    parents = [parent for _, parent in nodes] + more
    z, refusal = tried(lambda: MODEL.tree_logits(tokens, parents, filled()))
    if refusal:
        assert (
            not tokens
            or more
            or any(not 0 <= token < TINY.vocab_size for token in tokens)
            or any(not -1 <= p < i for i, p in enumerate(parents))
        )
        return
    for held, row in zip(HELD, z, strict=True):
        for node, logits in enumerate(row):
            branch = []
            while node >= 0:
                branch.insert(0, tokens[node])
                node = parents[node]
            same(logits, MODEL.logits(held + branch)[0, -1])


# plots

sides = st.one_of(st.none(), st.integers(-1, 12), st.integers(60, 70))


@settings(max_examples=FEW)
@given(T=sides, S=sides, window=sides)
def test_a_wild_mask_is_refused_or_drawn(T, S, window):
    figure, refusal = tried(lambda: attention.plot_mask(T, S, window))
    if refusal:
        keys = T if S is None else S
        fits = T is not None and 1 <= T <= keys <= attention.MOST_TOKENS
        assert not fits or (window is not None and window < 1)
        return
    shown = np.asarray(figure.axes[0].images[0].get_array())
    keys = T if S is None else S
    query, key = np.mgrid[keys - T : keys, 0:keys]
    assert (shown == (key <= query) & (query - key < (window or keys))).all()


@settings(max_examples=FEW, parent=one_file)
@given(
    text=texts, layer=sides, head=sides, suffix=st.sampled_from([".png", ".svg", ""])
)
def test_wild_texts_are_refused_or_drawn(mini, tmp_path, text, layer, head, suffix):
    path = tmp_path / f"figure{suffix}"
    path.unlink(missing_ok=True)
    figure, _ = tried(lambda: attention.plot_attention(mini, text, layer, head))
    _, refusal = tried(lambda: save(figure, path))
    if refusal:
        n = len(mini.encode(text))
        fits = all(
            x is None or 0 <= x < m
            for x, m in ((layer, mini.config.n_layer), (head, mini.config.n_head))
        )
        assert not fits or n > attention.MOST_TOKENS or not suffix
        assert not path.exists()
        return
    start = path.read_bytes()[:5]
    assert start in (b"\x89PNG\r", b"<?xml")


# recordings

RECORDING = dict(ids=np.array([[1, 2]]), source=np.array("us"), logits=np.ones(64))


@one_file
@given(
    cut=st.integers(0, 900),
    name=st.sampled_from([*RECORDING, None]),
    value=st.sampled_from(
        [
            np.array([[99]]),
            np.array(None),
            np.ones((2, 0)),
            np.array("x"),
            np.full(64, np.nan),
        ]
    ),
)
def test_a_damaged_recording_is_refused_or_differs(tmp_path, cut, name, value):
    path = tmp_path / "reference.npz"
    recording = dict(RECORDING) if name is None else {**RECORDING, name: value}
    np.savez(path, allow_pickle=True, **recording)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) - cut])
    found, _ = tried(lambda: list(checks.check_recorded(MODEL, path)))
    assert not any(check.ok for check in found or ())
