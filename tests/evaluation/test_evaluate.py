"""Zero-shot tests on hand-written items in the published formats."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from npgpt import GPT2, DataError
from npgpt.cli import main
from npgpt.evaluation import formats, zero_shot
from npgpt.ops import log_softmax
from npgpt.storage.hub import resolve

NPGPT = str(Path(sys.executable).parent / "npgpt")
TEXTS = [
    "Once upon a time there was a poor woodcutter who lived with his wife",
    "The king loved his daughter so much that he gave her whatever she asked",
    "The fox said to the wolf that he was very hungry, and the wolf said to the fox",
    "There was once a king who had a beautiful daughter. The king was old, and he "
    "loved only his gramophone",
]
HELLASWAG = [
    {
        "ind": 1,
        "activity_label": "Sewing",
        "ctx_a": "A tailor sits at the table.",
        "ctx_b": "he",
        "ctx": "A tailor sits at the table. he",
        "split": "val",
        "endings": [
            "takes up a needle and sews.",
            "is a colour [title] of five.",
            "not whereas the upon.",
            "flies into an equation and the sea.",
        ],
        "label": 0,
    },
    {
        "ind": 2,
        "activity_label": "Cooking",
        "ctx_a": "[header] How to cook soup [title] Take a pot.",
        "ctx_b": "",
        "ctx": "[header] How to cook soup [title] Take a pot.",
        "endings": [
            "xylophones xylophones.",
            "Put the pot on the fire.",
            "Zwq.",
            "Of.",
        ],
        "label": "1",
    },
    {
        "ind": 3,
        "activity_label": "Walking",
        "ctx_a": "The old woman went into the wood.",
        "ctx_b": "she",
        "ctx": "The old woman went into the wood. she",
        "endings": [
            "came to a little house.",
            "came to a little house, and the door was "
            "open, and she went in and sat down by the fire.",
            "Qx.",
            "of of of.",
        ],
        "label": 1,
    },
]
CLOZE = """1 There was once a king who had three sons .
2 The youngest son was called Hans .
3 The king said to his sons : `` Go into the world . ''
4 So the sons went out , and XXXXX came to a wood .\tHans\t\tHans|king|wood|ghost

1 The wolf knocked at the door .
2 `` Who is there ? '' said the XXXXX .\twolf\t\tHans|wolf|grandmother|door
"""


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini", dtype="float64")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "lambada.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    )
    (tmp_path / "lambada.txt").write_text("\n\n".join(TEXTS) + "\n")
    (tmp_path / "hellaswag.jsonl").write_text(
        "".join(json.dumps(item) + "\n" for item in HELLASWAG)
    )
    (tmp_path / "cbt.txt").write_text(CLOZE)
    return tmp_path


def continuation(model, context, ending):
    """Log-probabilities and greedy hits of an ending, in one pass over everything."""
    before, after = model.encode(context), model.encode(ending)
    z = model.logits(before + after)[0, len(before) - 1 : -1]
    logprobs = log_softmax(z)[range(len(after)), after]
    return logprobs, z.argmax(-1) == np.array(after)


# LAMBADA


@pytest.mark.parametrize("name", ["lambada.jsonl", "lambada.txt"])
def test_lambada_is_its_definition(mini, files, name):
    texts = formats.read_lambada(files / name)
    assert texts == TEXTS
    result = zero_shot.lambada(mini, texts)
    pairs = [text.rsplit(" ", 1) for text in TEXTS]
    parts = [continuation(mini, context, f" {word}") for context, word in pairs]
    assert result.items == 4
    assert result.acc == np.mean([hits.all() for _, hits in parts])
    assert result.acc_last_token == np.mean([hits[-1] for _, hits in parts])
    nll = -np.mean([logprobs.sum() for logprobs, _ in parts])
    assert result.perplexity == pytest.approx(math.exp(nll))
    assert any(len(hits) > 1 for _, hits in parts)


def test_lambada_sees_right_and_wrong_words(mini):
    text = "Once upon a time there lived a poor woodcutter and his"
    greedy = mini.generate(text, max_new_tokens=1).text
    right = zero_shot.lambada(mini, [text + greedy])
    wrong = zero_shot.lambada(mini, [text + " gramophone"])
    assert (right.acc, wrong.acc) == (1.0, 0.0)
    assert right.perplexity < 10 < wrong.perplexity
    half = zero_shot.lambada(mini, [text + greedy, text + " gramophone"])
    assert half.acc == 0.5
    assert half.perplexity == pytest.approx(
        math.sqrt(right.perplexity * wrong.perplexity)
    )


def test_a_word_half_right_is_wrong(mini):
    text = "Once upon a time there lived a poor woodcutter and his wifezzz"
    context, word = text.rsplit(" ", 1)
    _, hits = continuation(mini, context, f" {word}")
    assert hits[0]
    assert not hits.all()
    assert zero_shot.lambada(mini, [text]).acc == 0


def test_a_long_context_keeps_its_end(mini):
    words = [f"{word} and" for word in TEXTS] * 20
    text = " ".join(words) + " gramophone"
    context, word = text.rsplit(" ", 1)
    ending = mini.encode(f" {word}")
    kept = mini.encode(context)[-(512 - len(ending) + 1) :]
    z = mini.logits(kept + ending[:-1])[0, -len(ending) :]
    expected = -log_softmax(z)[range(len(ending)), ending].sum()
    result = zero_shot.lambada(mini, [text])
    assert math.log(result.perplexity) == pytest.approx(expected)


# HellaSwag


@pytest.mark.parametrize("style", formats.STYLES)
def test_hellaswag_is_its_definition(mini, files, style):
    questions = formats.read_hellaswag(files / "hellaswag.jsonl", style=style)
    norm = "tokens" if style == "llm.c" else "characters"
    result = zero_shot.multiple_choice(mini, questions, norm)
    right = right_norm = 0
    for question, item in zip(questions, HELLASWAG, strict=True):
        parts = [
            continuation(mini, question.context, f" {e}")[0] for e in question.endings
        ]
        sums = np.array([part.sum() for part in parts])
        lengths = [len(p) for p in parts]
        if norm == "characters":
            lengths = [len(e) for e in question.endings]
        right += sums.argmax() == int(item["label"])
        right_norm += (sums / lengths).argmax() == int(item["label"])
    assert result.acc == right / 3
    assert result.acc_norm == right_norm / 3
    assert result.norm == norm
    assert result.chance == 0.25


def test_length_counts_in_acc_and_not_in_acc_norm(mini, files):
    """The third item's right ending is the longest: its sum is low, its mean high."""
    question = formats.read_hellaswag(files / "hellaswag.jsonl")[2:]
    result = zero_shot.multiple_choice(mini, question)
    assert (result.acc, result.acc_norm) == (0.0, 1.0)


def test_hellaswag_text_is_that_of_llm_c_or_of_the_harness(files):
    path = files / "hellaswag.jsonl"
    plain, harness = (
        formats.read_hellaswag(path, style=style)[1] for style in formats.STYLES
    )
    assert plain.context == "[header] How to cook soup [title] Take a pot."
    assert harness.context == "Cooking: How to cook soup. Take a pot."
    assert plain.label == harness.label == 1
    first = formats.read_hellaswag(path, limit=1, style="lm-eval")
    assert len(first) == 1
    assert first[0].context == "Sewing: A tailor sits at the table. He"
    assert first[0].endings[1] == "is a colour. of five."


# Cloze


def test_cloze_is_read_as_published(files):
    one, two = formats.read_cloze(files / "cbt.txt")
    assert one.context.startswith(
        "There was once a king who had three sons . The young"
    )
    assert one.context.endswith("So the sons went out , and")
    assert one.endings[0] == "Hans came to a wood ."
    assert [one.endings[one.label], two.endings[two.label]] == [
        "Hans came to a wood .",
        "wolf .",
    ]
    assert formats.read_cloze(files / "cbt.txt", limit=1) == [one]


def test_cloze_scores_the_rest_of_the_sentence_too(mini, files):
    questions = formats.read_cloze(files / "cbt.txt")
    result = zero_shot.multiple_choice(mini, questions)
    right = 0
    for question in questions:
        sums = [
            continuation(mini, question.context, f" {ending}")[0].sum()
            for ending in question.endings
        ]
        right += np.argmax(sums) == question.label
    assert result.acc == right / 2
    assert result.items == 2


def test_progress_hears_every_item(mini, files):
    heard = []
    zero_shot.multiple_choice(
        mini, formats.read_cloze(files / "cbt.txt"), progress=heard.append
    )
    assert heard == [1, 1]


@pytest.mark.peers
def test_sums_are_those_of_transformers(mini, files):
    import torch
    import transformers

    theirs = transformers.GPT2LMHeadModel.from_pretrained(resolve("tales-mini"))
    theirs = theirs.double().eval()
    for question in formats.read_hellaswag(files / "hellaswag.jsonl"):
        answers = zero_shot._answers(
            mini, question.context, [f" {e}" for e in question.endings]
        )
        for ending, answer in zip(question.endings, answers, strict=True):
            context, target = mini.encode(question.context), mini.encode(f" {ending}")
            with torch.no_grad():
                z = theirs(torch.tensor([context + target])).logits[0]
            z = z[len(context) - 1 : -1].log_softmax(-1)
            expected = z[range(len(target)), target].tolist()
            assert answer.logprobs == pytest.approx(expected, abs=1e-9)


# Files that are not what they should be


@pytest.mark.parametrize(
    ("reader", "content", "sentence"),
    [
        ("lambada", "a b\n{not json\n", "line 2: not JSON"),
        ("lambada", '{"txt": "a b"}\n', "line 1: text is missing"),
        ("lambada", "a b\n\nalone\n", "line 3: one word alone"),
        ("lambada", "\n\n", "nothing in it"),
        ("hellaswag", "[]\n", "line 1: not a JSON object"),
        ("hellaswag", '{"endings": "a"}', "endings is missing or not a list"),
        ("hellaswag", '{"endings": ["a"]}', "two texts or more"),
        ("hellaswag", '{"endings": ["a", "b"], "ctx": "c"}', "label must be 0 to 1"),
        ("hellaswag", '{"endings": ["a", "b"], "label": 2}', "label must be 0 to 1"),
        ("hellaswag", '{"endings": ["a", "b"], "label": 1}', "ctx is missing"),
        ("cloze", "1 A.\n3 B.\n", "line 2: expected a line that begins with '2 '"),
        ("cloze", "1 A.\n2 B.\n", "ends without its question"),
        ("cloze", "1 A.\n2 B.\ta\t\ta|b\n", "line 2: a question needs XXXXX"),
        ("cloze", "1 A.\n2 XXXXX.\tc\t\ta|b\n", "the answer among them"),
    ],
)
def test_bad_lines_are_named(tmp_path, reader, content, sentence):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(DataError, match=sentence) as error:
        getattr(formats, f"read_{reader}")(path)
    assert str(path) in str(error.value)


# The command


def run(*arguments, status=0):
    done = subprocess.run(
        [NPGPT, "eval", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("test", "file", "keys"),
    [
        ("lambada", "lambada.txt", ["acc", "acc_last_token", "perplexity"]),
        ("hellaswag", "hellaswag.jsonl", ["acc", "acc_norm", "norm", "chance"]),
        ("cloze", "cbt.txt", ["acc", "acc_norm", "norm", "chance"]),
    ],
)
def test_command_prints_what_the_function_returns(files, test, file, keys):
    done = run(test, files / file, "-m", "tales-mini", "--json", "--limit", "2")
    value = json.loads(done.stdout)
    assert value["items"] == 2
    model = GPT2.from_pretrained("tales-mini")
    items = getattr(formats, f"read_{test}")(files / file, 2)
    function = zero_shot.lambada if test == "lambada" else zero_shot.multiple_choice
    result = function(model, items)
    for key in keys:
        expected = getattr(result, key)
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=1e-5)
        assert value[key] == expected
    assert "2 items in" in done.stderr


def test_command_prints_a_table(files):
    done = run(
        "hellaswag", files / "hellaswag.jsonl", "-m", "tales-mini", "--style", "lm-eval"
    )
    rows = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert rows["items"] == "3"
    assert rows["norm"] == "characters"
    assert rows["chance"] == "0.2500"


def test_command_fails_in_one_sentence(files):
    done = run("lambada", files / "nothing", status=1)
    assert "cannot be read" in done.stderr
    done = run("hellaswag", files / "lambada.txt", status=1)
    assert "lambada.txt, line 1: not JSON" in done.stderr
    assert run("lambada", files / "lambada.txt", "--limit", "0", status=2)


def test_the_room_has_a_face():
    import npgpt.evaluation as room
    from npgpt.evaluation import score_file

    assert all(hasattr(room, name) for name in room.__all__)
    assert score_file is room.score.score_file  # the module keeps its name
    assert room.lambada is zero_shot.lambada


@pytest.mark.parametrize("kind", ["lambada", "hellaswag", "cloze"])
def test_every_test_has_a_sample_and_a_file_of_that_name_comes_first(
    kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["eval", kind, "sample", "--model", "tales-mini", "--limit", "2"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["items"] == 2
    assert "no measure of a model" in done.stderr
    (tmp_path / "sample").write_text("nothing")
    assert CliRunner().invoke(main, command).exit_code == 1
