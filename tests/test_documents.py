"""Every command of README.md and docs/ runs, page by page, with what it names.

Long ones are made short by options typed after them; what needs a machine to itself, or
other people's engines, is parsed and not run.
"""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from npgpt.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = {
    "train": ["--steps", "3", "--batch-size", "2", "--sample-tokens", "4"],
    "compare": ["--seeds", "2", "--max-new-tokens", "8"],
}
PARSED_ONLY = {"bench", "download"}
TALE = "The king had a daughter. The daughter had a cat, and the cat had a king.\n"
SAMPLES = {
    "lambada_test.jsonl": "lambada.jsonl",
    "hellaswag_val.jsonl": "hellaswag.jsonl",
    "cbtest_CN_test_2500ex.txt": "cloze.txt",
}


def commands(page):
    """The lines of a page's shell blocks, fenced or indented, without comments."""
    text = page.read_text()
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    ((?:npgpt|python|pip) .*)$", text, re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()] + indented
    return [re.sub(r"\s{2,}#.*", "", line) for line in lines]


def mentioned(page):
    """Commands in the midst of a sentence."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"`(npgpt [a-z][^`]*)`", text)
    return [" ".join(command.split()) for command in found]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with all that the pages name, of the smallest size."""
    for name in ("story", "shakespeare", "heldout"):
        (tmp_path / f"{name}.txt").write_text(TALE * 120)
    for name, sample in SAMPLES.items():
        shutil.copy(ROOT / "npgpt/evaluation/samples" / sample, tmp_path / name)
    tool = [sys.executable, ROOT / "tools/random_checkpoint.py", "tiny"]
    subprocess.run([*tool, tmp_path / "gpt2"], check=True, stdout=subprocess.DEVNULL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(arguments, group=main, parent=None):
    """Raise a UsageError unless these are a verb and options that it has."""
    context = group.make_context("npgpt", arguments[:1], parent=parent)
    name, verb, rest = group.resolve_command(context, arguments)
    if isinstance(verb, click.Group):
        if rest and not rest[0].startswith("-"):
            parse(rest, verb, context)
        return
    try:
        verb.make_context(name, rest, parent=context)
    except click.MissingParameter:  # a mention: "`npgpt convert --packed`"
        pass
    except click.exceptions.Exit:  # --help
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_in_order(page, desk):
    program = Path(sys.executable).parent / "npgpt"
    for line in commands(page):
        words = shlex.split(line)
        if words[0] != "npgpt":
            check_other(words)
            continue
        if words[1] in PARSED_ONLY:
            parse(words[1:])
            continue
        if "numba" in words:
            pytest.importorskip("numba", reason="numba is an extra")
        done = subprocess.run(
            [program, *words[1:], *SHORT.get(words[1], [])],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout, line


def check_other(words):
    """Not ours to run: that the extra, the tool and its options are there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"])
    if words[0] == "python":
        tool = [sys.executable, ROOT / words[1], "--help"]
        help = subprocess.run(tool, capture_output=True, text=True).stdout
        for word in words[2:]:
            assert not word.startswith("--") or word in help, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_have_these_options(page, desk):
    (desk / "mine.py").write_text("")
    (desk / "FILE").write_text("")
    for command in mentioned(page):
        try:
            parse(shlex.split(command)[1:])
        except click.UsageError as error:
            raise AssertionError(f"{command}: {error.format_message()}") from None
