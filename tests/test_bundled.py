"""The stories as training text, and the tool that makes the bundled models."""

import json
import math
import re
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT2, GPT2Config
from npgpt.training.loop import TrainConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import stories
import train_bundled

PROSE = (
    "There was once a miller who had three sons, and when he came to die he left " * 3
)
WORDS = [f"w{i}" for i in range(40)]


def paragraphs(*parts):
    """A book's paragraphs; prose is long enough to stand under a title."""
    return [PROSE + part if part.islower() else part for part in parts]


# tales


def clean(parts, style, before=0, after=0):
    return stories.clean(parts, "book", before, after, style)


def test_titles_in_capitals_part_a_book():
    book = clean(
        paragraphs("THE CAT", "a", "b", "THE DOG", "OR, THE BONE", "c"), "caps"
    )
    tales = stories.tales_of(book)
    assert [tale[0] for tale in tales] == ["THE CAT", "THE DOG"]
    assert [*chain(*tales)] == book.paragraphs  # nothing is lost, nothing twice


@pytest.mark.parametrize(
    "heading", ["CHAPTER II.", "IV.", "MORAL.", "PART ONE", "THE END", "SECOND STORY"]
)
def test_a_heading_within_a_tale_does_not_part_it(heading):
    book = clean(paragraphs("THE CAT", "a", heading, "b"), "caps")
    assert len(stories.tales_of(book)) == 1


def test_a_tale_told_within_a_tale_does_not_part_it():
    told = [PROSE, "The dervish bowed and began:", "THE STORY OF THE DERVISH", PROSE]
    assert clean(told, "caps").titles == []


def test_the_contents_list_says_what_a_title_is():
    parts = paragraphs(
        "The Cat\nThe Dog", "The Cat", "a", "Good Night", "b", "The Dog", "c"
    )
    listed = clean(parts, "list", before=1)
    assert [listed.paragraphs[i] for i in listed.titles] == ["The Cat", "The Dog"]
    assert clean(parts, "none", before=1).titles == []


def test_what_stands_around_the_tales_goes():
    parts = paragraphs(
        "Preface.",
        "THE CAT",
        "(1) Chambers, Traditions.",
        "a (1)",
        "* * *",
        "[From the German.]",
        "b",
        "{Picture: p12.jpg}",
        "Hyphenation was made consistent.",
    )
    book = clean(parts, "caps", before=1, after=1)
    assert book.paragraphs == ["THE CAT", PROSE + "a", "* * *", PROSE + "b"]
    assert len(book.dropped) == 5


def test_wrapped_lines_become_paragraphs_and_verse_stays():
    wrapped = "It was a cold winter's night when the old king sent for his sons\n" * 2
    verse = "Mirror, mirror on the wall,\nWho is fairest of us all?"
    long_lines = f"{PROSE}one\n{PROSE}two"
    text = f"{wrapped}he said.\n\n{verse}\n\n{long_lines}"
    joined, *rest = stories.unwrapped(text)
    assert joined == " ".join([*wrapped.split(), "he", "said."])
    assert rest == [verse, *(" ".join(x.split()) for x in long_lines.split("\n"))]


# what is held out


@given(
    st.lists(st.sampled_from(WORDS[:9]), max_size=40),
    st.lists(st.sampled_from(WORDS[:9]), max_size=40),
)
def test_marks_are_the_words_of_shared_runs(held, text):
    shingles = stories.Shingles([" ".join(held)])
    runs = {tuple(held[i : i + 13]) for i in range(len(held) - 12)}
    expected = np.zeros(len(text), bool)
    for i in range(len(text) - 12):
        if tuple(text[i : i + 13]) in runs:
            expected[i : i + 13] = True
    np.testing.assert_array_equal(shingles.marks(" ".join(text)), expected)


def test_a_shared_run_is_found_behind_case_and_punctuation():
    held = stories.Shingles([" ".join(WORDS[:20])])
    disguised = "; ".join(word.upper() for word in WORDS[3:17]) + "!"
    assert held.marks(disguised).all()
    assert not held.marks(" ".join(WORDS[:12])).any()  # one word too short


def test_no_shared_run_is_left_and_the_tale_is_parted_there():
    held = stories.Shingles([" ".join(WORDS)])
    far = [f"x{i} " * 50 for i in range(6)]
    # The run goes over the edge of two paragraphs: both go.
    tale = [far[0], far[1], "a b c " + " ".join(WORDS[:8]), " ".join(WORDS[8:20]),
            far[2], "too short", " ".join(WORDS[20:]), "short too"]  # fmt: skip
    parts, words = stories.without(tale, held)
    assert parts == [far[:2], [far[2], "too short"]]
    assert words == 11 + 12 + 20 + 2
    assert not any(held.marks("\n\n".join(part)).any() for part in parts)


@given(
    st.lists(st.sampled_from(WORDS[:3]), max_size=30),
    st.lists(st.sampled_from(WORDS[:3]), max_size=30),
)
def test_longest_runs_are_the_longest_common_runs(sample, text):
    (found,) = stories.longest_runs([" ".join(sample)], " ".join(text), least=2)
    joined = " ".join(["", *text, ""])
    longest = max(
        (
            j - i
            for i in range(len(sample))
            for j in range(i + 1, len(sample) + 1)
            if " ".join(["", *sample[i:j], ""]) in joined
        ),
        default=0,
    )
    assert len(found) == (longest if longest >= 2 else 0)
    assert " ".join(["", *found, ""]) in joined or not found


# the tool


@pytest.fixture(scope="module")
def shape():
    """A model and a training small enough for a test."""
    config = GPT2Config(
        vocab_size=300,
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    recipe = TrainConfig(
        steps=6, batch_size=2, context=32, warmup_steps=2, eval_every=3, save_every=3
    )
    return config, recipe


@pytest.fixture
def text(tmp_path):
    """Cleaned text as the first step leaves it."""
    (tmp_path / "text").mkdir()
    rng = np.random.Generator(np.random.Philox(1))
    for name in ("tales", "novels", "fairytaleqa"):
        tales = [" ".join(rng.choice(WORDS, 60)) for _ in range(600)]
        (tmp_path / "text" / f"{name}.txt").write_text(
            train_bundled.SEPARATOR.join(tales), "utf-8"
        )
    return tmp_path


def test_all_steps_make_a_model_with_its_card(text, shape, monkeypatch):
    monkeypatch.setattr(train_bundled, "VOCABULARY", 300)
    monkeypatch.setattr(train_bundled, "SAMPLES", 3)
    config, recipe = shape
    folder = text / "tales-mini"
    data = train_bundled.load_corpus(text)
    train_bundled.train_model(folder, data, config, recipe, "numpy")
    again = train_bundled.load_corpus(text)  # with the vocabulary that is there now
    np.testing.assert_array_equal(again.train, data.train)
    model = GPT2.from_pretrained(folder)
    assert model.config == config
    assert (folder / "model.safetensors").stat().st_size < 2.2 * 9000 + 4000  # float16
    passages = ["w1 w2 w3 w4 w5", "w7 w8 " * 50]
    found = train_bundled.measure(folder, passages, "w1 w2", "numpy")
    assert found["num_bytes"] == sum(map(len, passages))
    scores = [model.score(passage) for passage in passages]
    bits = -sum(score.logprob for score in scores) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / found["num_bytes"])
    train_bundled.write_json(folder / "measure.json", found)
    part = {"words_dropped_as_held_out": 10, "words": 3_600, "documents": 60}
    cleaned = {"heldout_passages": 2, "tales": part, "novels": part,
               "fairytaleqa": part}  # fmt: skip
    card = train_bundled.card(folder, recipe, cleaned)
    assert f"**{found['bits_per_byte']:.4f} bits per byte**" in card
    assert "180 documents" in card
    assert "30 words" in card
    curve = (folder / "run" / "loss.jsonl").read_text().splitlines()
    checks = [json.loads(x) for x in curve if "validation_loss" in x]
    for check in checks:
        assert f"| {check['step']} | {check['validation_loss']:.4f} |" in card
    assert not re.search(r"\{\w", card)


def test_the_shapes_are_of_the_sizes_that_are_wanted():
    from npgpt.scaling.sizes import describe

    sizes = {n: describe(c).parameters for n, (c, _) in train_bundled.MODELS.items()}
    assert 3e6 <= sizes["tales"] <= 6e6
    assert 0.5e6 <= sizes["tales-mini"] <= 0.8e6
    assert 2 * sizes["tales"] < 14e6  # bytes in float16


def test_every_book_of_the_manifest_is_in_the_table(shared):
    rows = (shared / "stories" / "MANIFEST.tsv").read_text("utf-8").splitlines()[1:]
    blobs = {row.split("\t")[2][:12] for row in rows}
    assert blobs == set(stories.read_table())


@pytest.mark.full
def test_cleaned_stories_share_nothing_with_what_is_held_out(shared, tmp_path):
    report = train_bundled.clean(shared.parent, tmp_path)
    held = stories.Shingles(train_bundled.read_passages(shared.parent))
    for name in ("tales", "novels", "fairytaleqa"):
        text = (tmp_path / "text" / f"{name}.txt").read_text("utf-8")
        documents = text.split(train_bundled.SEPARATOR)
        assert len(documents) == report[name]["documents"]
        assert not any(held.marks(document).any() for document in documents)
        assert not re.search(r"(?i)typographic|\be-?text|8vo|frontispiece:", text)
