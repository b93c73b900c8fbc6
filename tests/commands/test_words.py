"""What is typed wrongly is met with what was meant, in the shell's own words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.cli import with_flags

NPGPT = str(Path(sys.executable).parent / "npgpt")


def run(*args, status=0, **variables):
    done = subprocess.run(
        [NPGPT, *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "80", **variables},
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_help_shows_fifteen_options_and_help_all_the_rest():
    short, every = run("generate", "--help"), run("generate", "--help-all")
    assert run("generate", "-h") == short
    shown = [line for line in short.splitlines() if line.startswith("  -")]
    assert len(shown) == 15 + 2  # --help and --help-all
    for flag in ("--min-p", "--num-beams", "--repetition-penalty", "--help-all"):
        assert flag in short
    for flag in ("--overflow", "--chain", "--mirostat", "--threads"):
        assert flag not in short
        assert flag in every
    assert "Choosing one token:" in every
    assert "--num-beams" not in run("sample", "--help")
    assert "Verbs:" in run("-h")
    assert "Usage: npgpt plot mask" in run("plot", "mask", "-h")


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        ("generat x", 2, "Did you mean generate?"),
        ("strategy", 2, "Did you mean strategies?"),
        ("zzz", 2, "No such command 'zzz'."),
        ("generate x -m tale", 1, "did you mean tales?"),
        ("info gtp2", 1, "did you mean gpt2?"),
        ("strategies minp", 1, "did you mean min-p?"),
        ("strategies top-kk", 1, "did you mean top-k?"),
        ("generate x --chain llamacpp", 1, "did you mean llama.cpp?"),
        ("generate x --chain top_kk;temperature", 1, "did you mean top_k? presets"),
        ("train x --out y --preset tinny", 2, "Did you mean tiny?"),
        ("generate x --backend numbaa", 2, "Did you mean numba?"),
        ("generate Once upon a time", 2, 'in quotes: npgpt generate "Once upon a time'),
        ("sample Once upon", 2, 'put the text in quotes: npgpt sample "Once upon'),
        ("plot attention the king", 2, "put the text in quotes: npgpt plot attention"),
    ],
)
def test_what_was_meant_is_named(words, status, hint):
    assert hint in run(*words.split(), status=status)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("generate x --max-new-tokens 2000", "or use --overflow stop or slide"),
        ("generate x --patience 4", "--patience changes nothing without --num-beams"),
        ("generate x --greedy --mirostat 2",
         "--mirostat changes nothing without sampling"),
        ("generate x -n 3 --greedy", "--num-return-sequences above 1 needs sampling"),
        ("generate x --chain top_kk", "no_repeat_ngram, "),
        ("generate x --stop ''", "--stop"),
        ("generate x --top-k -1", "--top-k must be"),
    ],
)  # fmt: skip
def test_an_error_names_the_shells_options(words, sentence):
    assert sentence in run(*words.replace("''", "").split(" "), status=1)


def test_other_words_stay_as_they_are():
    known = {"top_k": "--top-k", "seed": "--seed", "do_sample": "--do-sample"}
    for sentence in (
        "the folder 'top_k' and a/top_k.json hold no top_kk",
        "the seed of a tree",
        "no rule of a chain is called 'x'; rules top_k",
        "x=None",
    ):
        assert with_flags(sentence, known) == sentence
    said = with_flags("top_k=3 needs do_sample=True, not do_sample=False", known)
    assert said == "--top-k 3 needs sampling, not --greedy"


def completed(words):
    count = len(words.split(" ")) - 1
    answer = run(_NPGPT_COMPLETE="bash_complete", COMP_WORDS=words,
                 COMP_CWORD=str(count))  # fmt: skip
    return answer.split()


def test_models_strategies_and_verbs_are_completed():
    assert completed("npgpt ge") == ["plain,generate"]
    assert completed("npgpt generate --model ta") == ["plain,tales", "plain,tales-mini"]
    assert "plain,gpt2-xl" in completed("npgpt info gpt")
    assert "plain,min-p" in completed("npgpt strategies min")
    assert "plain,--min-p" in completed("npgpt generate --min")
    assert completed("npgpt generate x --chain ll") == ["plain,llama.cpp"]
    assert completed("npgpt generate --model ./f") == ["dir,./f"]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
def test_a_real_bash_completes(tmp_path):
    """As docs/generating.md says it, in bash itself."""
    script = (
        f'PATH="{Path(NPGPT).parent}:$PATH"\n'
        'eval "$(_NPGPT_COMPLETE=bash_source npgpt)"\n'
        "COMP_WORDS=(npgpt generate --model tales-m) COMP_CWORD=3\n"
        "_npgpt_completion npgpt\n"
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["tales-mini"], done.stderr


@pytest.mark.parametrize("n", ["-2", "0", "many"])
def test_so_few_tokens_cannot_be_shown(n):
    answer = run("sample", "The king", "--tokens", n, "-m", "nowhere", status=2)
    assert "Invalid value for '--tokens'" in answer


@pytest.mark.parametrize(
    "engine", ["nope", "numpy", "numba:float16", "numpy:int8", ":"]
)
def test_no_engine_is_refused_before_others_are_timed(engine, tmp_path):
    pytest.importorskip("numba")
    words = ("bench", "--engine", "numpy:float32", "--engine", engine)
    answer = run(*words, "--out", str(tmp_path / "out.json"), status=2)
    assert f"--engine {engine!r} is no engine" in answer
    assert not (tmp_path / "out.json").exists()


def test_the_glossary_explains_the_words_that_help_names():
    text = (Path(__file__).parent.parent.parent / "docs" / "glossary.md").read_text()
    help = " ".join(run("--help").split())
    named = help.partition("explains the words (")[2].partition(", ...)")[0]
    words = [line.split("|")[1].strip() for line in text.splitlines() if "|" in line]
    assert len(named.split(", ")) > 5
    assert set(named.split(", ")) <= set(words)
    assert sorted(words[2:], key=str.casefold) == words[2:]
