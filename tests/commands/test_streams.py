"""What arrives and what leaves: encodings, marks of Windows, closed streams."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from npgpt import GPT2
from npgpt.cli import main
from npgpt.commands import _streams
from npgpt.commands._streams import json_text
from npgpt.errors import DataError, TokenizerError
from npgpt.evaluation import formats, zero_shot
from npgpt.evaluation.score import score_file
from npgpt.lab.grid import read_grid
from npgpt.texts import read_text
from npgpt.training import corpus

PROMPT = "The 中 king é"
TWO = ("--greedy", "--max-new-tokens", "2")
LOCALES = {
    "a pipe of Windows": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C"},
    "C, and nothing else": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "UTF-8": {"PYTHONUTF8": "1"},
}
BOM, UTF8_BOM = "\ufeff", b"\xef\xbb\xbf"


def run(*words, input=None, status=0, closed="", **variables):
    """The command as a process, some streams closed; bytes, and no traceback."""
    words = [sys.executable, "-m", "npgpt", *words]
    if closed:
        words = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    stdin = dict(input=input) if input is not None else dict(stdin=subprocess.DEVNULL)
    done = subprocess.run(
        words, capture_output=True, env={**kept, **variables}, timeout=120, **stdin
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


# encodings


@pytest.mark.parametrize("where", LOCALES)
def test_a_prompt_on_stdin_is_utf8_and_json_is_exact(where, mini):
    done = run(
        "generate", "--json", *TWO, input=f"{PROMPT}\n".encode(), **LOCALES[where]
    )
    result = json.loads(done.stdout)
    assert result["prompt"] == PROMPT
    assert done.stdout.isascii() == (where != "UTF-8" and where != "C")
    assert json.loads(done.stdout.decode("cp1252")) == result or where in ("UTF-8", "C")


@pytest.mark.parametrize("where", ["C", "C, and nothing else", "UTF-8"])
def test_text_in_a_pipe_is_utf8(where):
    done = run("generate", *TWO, input=PROMPT.encode(), **LOCALES[where])
    assert done.stdout.decode().startswith(PROMPT)


def test_an_encoding_that_was_chosen_is_used_and_what_it_lacks_is_named():
    one = run("generate", *TWO, input="é".encode(), **LOCALES["a pipe of Windows"])
    assert one.stdout.startswith(b"\xe9")
    done = run(
        "generate",
        *TWO,
        input=PROMPT.encode(),
        status=1,
        **LOCALES["a pipe of Windows"],
    )
    assert done.stdout.startswith("The ? king é".encode("cp1252"))
    assert b"cp1252, in which a character became '?' (U+4E2D)" in done.stderr


def test_every_row_of_tokens_is_exact_too():
    done = run("score", "-", "--show", input=PROMPT.encode(), PYTHONIOENCODING="cp1252")
    rows = [line.split("\t") for line in done.stdout.decode("ascii").splitlines()]
    tokens = [json.loads(row[2]) for row in rows if len(row) == 3]
    assert "".join(tokens) == PROMPT


def test_a_terminal_keeps_its_encoding_and_what_was_lost_is_a_note():
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "npgpt", "generate", *TWO],
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
    )
    os.close(slave)
    _, errors = process.communicate(PROMPT.encode(), timeout=60)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert b"The ? king \xe9" in shown
    assert b"note: stdout is iso8859-1, in which a character" in errors
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"The \xff king", "byte 4 is not UTF-8"),
        ("é".encode() * 40_000 + b"\xe9 ", "byte 80000 is not UTF-8"),
        ("Once".encode("utf-16"), "byte 0 is not UTF-8 (it begins as UTF-16 does)"),
    ],
)
def test_a_wrong_byte_on_stdin_is_named_with_its_place(raw, sentence):
    for verb in (["generate", *TWO], ["score", "-"]):
        for variables in (LOCALES["a pipe of Windows"], LOCALES["UTF-8"]):
            done = run(*verb, input=raw, status=1, **variables)
            (line,) = done.stderr.decode().splitlines()
            assert line.startswith(f"npgpt: <stdin>: {sentence}")
            assert done.stdout == b""


def test_names_that_are_no_text_are_escaped_in_json():
    """A file's name may be any bytes, which Python holds as halves of characters."""
    for name in ("b\udcffd", "漢"):
        assert json.loads(json_text({"folder": name}).encode()) == {"folder": name}


# marks of Windows


def of_windows(text):
    return UTF8_BOM + text.replace("\n", "\r\n").encode()


TEXT = "Once upon a time\nthere was a king.\n\nHe had a daughter.\n" * 3


def test_texts_are_read_alike_in_every_way_of_writing_them(tmp_path):
    for block in (TEXT, "", "\n", "\n\n", "a" * 2**16 + "\n" + "b" * 2**16):
        (tmp_path / "text").write_bytes(of_windows(block))
        assert "".join(read_text(tmp_path / "text")) == block
    (tmp_path / "text").write_bytes(f"a\rb{BOM}\r".encode())  # not of Windows
    assert "".join(read_text(tmp_path / "text")) == f"a\rb{BOM}\r"


def test_a_score_is_that_of_the_text(mini, tmp_path):
    (tmp_path / "plain").write_bytes(TEXT.encode())
    (tmp_path / "windows").write_bytes(of_windows(TEXT))
    a, b = (score_file(mini, tmp_path / name) for name in ("plain", "windows"))
    assert a == b
    parts = [
        score_file(mini, tmp_path / name, separator="\n\n")
        for name in ("plain", "windows")
    ]
    assert parts[0] == parts[1]


def test_training_reads_the_same_text(tmp_path):
    text = f"{TEXT}<|endoftext|>He was old.\nHe had a house.\n"
    (tmp_path / "plain.txt").write_bytes(text.encode())
    (tmp_path / "windows.txt").write_bytes(of_windows(text))
    plain, windows = (
        corpus.prepare([tmp_path / f"{name}.txt"], 280, validation=0.3, window=8)
        for name in ("plain", "windows")
    )
    assert plain.tokenizer.backend.to_str() == windows.tokenizer.backend.to_str()
    assert plain.train.tolist() == windows.train.tolist()
    assert plain.validation.tolist() == windows.validation.tolist()
    assert plain.bits_per_byte(1) == windows.bits_per_byte(1)
    assert len(corpus.find_documents([tmp_path])) == 2  # of equal ones the first


def test_a_prompt_of_windows_is_the_prompt():
    done = run("generate", "--json", *TWO, input=of_windows("Once\nupon\n"))
    assert json.loads(done.stdout)["prompt"] == "Once\nupon"


LAMBADA = [{"text": "Once upon a time there was a king"}, {"text": "He had a house"}]
HELLASWAG = [
    {"ctx": "A tailor sat.", "endings": ["sews", "eats"], "label": i} for i in (0, 1)
]
CLOZE = "1 A king .\n2 He rode .\n3 The XXXXX rode .\tking\t\tking|wolf\n"


def lines_of(items):
    return "".join(json.dumps(item) + "\n" for item in items)


@pytest.mark.parametrize(
    ("read", "plain", "others"),
    [
        (
            formats.read_lambada,
            lines_of(LAMBADA),
            [
                "\n".join(item["text"] for item in LAMBADA),
                json.dumps(LAMBADA),
                json.dumps(LAMBADA, indent=2),
                json.dumps([item["text"] for item in LAMBADA]),
            ],
        ),
        (
            formats.read_hellaswag,
            lines_of(HELLASWAG),
            [json.dumps(HELLASWAG), json.dumps(HELLASWAG, indent=1)],
        ),
        (formats.read_cloze, CLOZE, []),
    ],
)
def test_questions_are_the_same_in_every_way_of_writing_them(
    read, plain, others, tmp_path
):
    path = tmp_path / "questions"
    path.write_text(plain)
    expected = read(path)
    for text in (plain, *others):
        for raw in (text.encode(), of_windows(text), UTF8_BOM + text.encode()):
            path.write_bytes(raw)
            assert read(path) == expected
            assert read(path, limit=1) == expected[:1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (json.dumps(LAMBADA)[:-1], "questions: not a JSON array"),
        (json.dumps([LAMBADA[0], 7]), "questions, item 2: not a JSON object"),
        (json.dumps([LAMBADA[0], {}]), "questions, item 2: text is missing"),
        (json.dumps(["one"]), "questions, item 1: one word alone"),
        ("[" * 100_000, "one word alone"),
        ('[{"a": ' + "[" * 100_000, "questions: not a JSON array"),
    ],
)
def test_a_damaged_array_is_refused_and_never_scored_as_text(text, sentence, tmp_path):
    (tmp_path / "questions").write_text(text)
    with pytest.raises(DataError, match=sentence):
        formats.read_lambada(tmp_path / "questions")


def test_a_text_may_begin_with_a_bracket(tmp_path, mini):
    (tmp_path / "texts").write_text("[ He laughs. ] Then he went home\n")
    texts = formats.read_lambada(tmp_path / "texts")
    assert texts == ["[ He laughs. ] Then he went home"]
    assert zero_shot.lambada(mini, texts).items == 1


def test_files_of_options_may_begin_with_the_mark(tmp_path):
    (tmp_path / "grid.yaml").write_bytes(of_windows("- top_k: 3\n  do_sample: true\n"))
    (setting,) = read_grid(tmp_path / "grid.yaml")
    assert setting.options["top_k"] == 3
    (tmp_path / "schema").write_bytes(of_windows('{"type":\n "boolean"}'))
    words = ["generate", "x", "--json-schema", f"@{tmp_path / 'schema'}", *TWO]
    pytest.importorskip("llguidance")
    result = CliRunner().invoke(main, [*words, "--model", "tales-mini"])
    assert result.exit_code == 0, result.output
    (tmp_path / "schema").write_bytes(b'{"type": "\xff"}')
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "byte 10 is not UTF-8" in result.output


# closed streams


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"]


@pytest.mark.skipif(sys.platform == "win32", reason="sh closes them")
@pytest.mark.parametrize("closed", CLOSED)
def test_a_closed_stream_is_an_empty_one(closed):
    done = run("generate", *TWO, "--model", "tales-mini", closed=closed)
    assert bool(done.stdout) == (">&-" not in closed.split())
    assert bool(done.stderr) == ("2>&-" not in closed.split())
    for words in (["--help"], ["info", "gpt2"], ["strategies", "--json"]):
        run(*words, closed=closed)
    run("score", "-", closed=closed, status=1)


@pytest.mark.skipif(sys.platform == "win32", reason="sh closes them")
def test_files_do_not_take_the_place_of_a_closed_stream(tmp_path):
    """The next file that is opened gets its number, and what is printed goes there."""
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["--preset", "tiny", "--steps", "1", "--context", "8", "--tokenizer"]
    words += ["train:280", "--sample-tokens", "0"]
    out = tmp_path / "out"
    text = str(tmp_path / "text.txt")
    run("train", text, "--out", str(out), *words, closed="<&- >&- 2>&-")
    for line in (out / "loss.jsonl").read_text().splitlines():
        assert "step" in json.loads(line)
    assert GPT2.from_pretrained(out).generate("Once", max_new_tokens=2).ids


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["info", "gpt2"]])
def test_a_full_disk_is_one_sentence(words):
    done = run(*words, status=1, closed=">/dev/full")
    assert done.stderr.startswith(b"npgpt: cannot go on: [Errno 28]")


# without a process


def test_a_second_call_knows_nothing_of_the_first(monkeypatch):
    _streams._lost.append("中")
    result = CliRunner().invoke(main, ["info", "gpt2"])
    assert result.exit_code == 0
    assert "became" not in result.output


def test_a_stream_of_text_is_refused_in_one_sentence():
    with pytest.raises(TokenizerError, match="does not give bytes"):
        list(read_text(io.StringIO("Once")))
