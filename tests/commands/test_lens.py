"""`npgpt lens`: every command of docs/lenses.md runs, and says what Python says."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from npgpt import GPT2
from npgpt.cli import main
from npgpt.commands.lens import command
from npgpt.inside.lenses import attribution

DOCS = (Path(__file__).parents[2] / "docs" / "lenses.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    npgpt (lens .*)$", DOCS, re.MULTILINE)


def npgpt(*words, status=0):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == status, result.output
    return result


def test_every_lens_is_in_the_docs():
    assert {line.split()[1] for line in LINES} == set(command.commands)


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_docs_runs(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    result = npgpt(*words)
    assert result.stdout
    if "--figure" in words:
        name = words[words.index("--figure") + 1]
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_the_python_of_the_docs_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "['embed', 'h.0.resid', 'h.1.resid', 'h.2.resid']" in done.stdout


def test_alone_it_lists_the_lenses():
    result = npgpt("lens")
    for name in command.commands:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", sorted(command.commands))
def test_each_has_help_an_example_json_and_a_figure(name, tmp_path):
    help = npgpt("lens", name, "--help").stdout
    example = re.search(r"Example: (.*?)\n\n", help, re.DOTALL)[1]
    words = shlex.split(" ".join(example.split()))[1:]
    for flag in ("--figure", "--json", "--model"):
        assert flag in help
    file = tmp_path / "a.svg"
    result = npgpt(*words, "-m", "tales-mini", "--json", "--figure", file)
    value = json.loads(result.stdout)
    for grid in value.get("grids", [value]):
        assert len(grid["values"]) == len(grid["rows"])
        assert len(grid["values"][0]) == len(grid["columns"])
    assert file.read_text().startswith("<?xml")
    assert "wrote" in result.stderr
    again = tmp_path / "b.svg"
    npgpt(*words, "-m", "tales-mini", "--figure", again)
    assert again.read_bytes() == file.read_bytes()


def test_it_prints_what_python_has():
    prompt = "Once upon a time there was a king"
    asked = ["--token", " who", "--against", " and", "-m", "tales-mini"]
    found = attribution(
        GPT2.from_pretrained("tales-mini"), prompt, token=" who", against=" and"
    )
    value = json.loads(npgpt("lens", "attribution", prompt, *asked, "--json").stdout)
    assert value == found.to_json()
    assert npgpt("lens", "attribution", prompt, *asked).stdout == f"{found}\n"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["nothing"], 2, "No such command 'nothing'"),
        (["logit"], 2, "Missing argument 'PROMPT'"),
        (["logit", "a", "--at", "one"], 2, "'one' is not a valid integer"),
        (["logit", "a", "--figure", "a.gif"], 2, ".png or .svg"),
        (["logit", "a", "--at", "7"], 1, "token 7 is not there"),
        (["logit", "a", "--token", "king was"], 1, "is not one token but"),
        (["logit", "king " * 600], 1, "shorten the text"),
        (["score", "a b", "h.0.attn.scores"], 1, "also needs"),
        (["score", "a b", "nonsense[0]"], 1, "there is no nonsense"),
        (["ablation", "a", "--how", "off"], 2, "'off' is not one of"),
        (["ablation", "a", "--how", "resample"], 1, "give other"),
        (["patching", "a", "a"], 1, "no difference to restore"),
        (["heads", "--length", "1"], 1, "length must be 2 to"),
        (["heads", "--seed", "-1"], 1, "seed 0 or more"),
        (["rollout", "a", "--layers", "9"], 1, "layers must be 0 to"),
        (["integrated", "a", "--points", "0"], 1, "points must be 1 to"),
        (["rollout", "king " * 90, "--figure", "a.png"], 1, "a figure shows 1 to 80"),
    ],
)
def test_a_wrong_call_is_one_sentence(words, status, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = npgpt("lens", *words, status=status)
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
