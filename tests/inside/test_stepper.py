"""Stepping: a tree of texts, in which going back costs nothing and changes nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import TINY, tiny_params

from npgpt import GPT2, GenerationConfig, NpgptError
from npgpt.cli import main
from npgpt.inside.choice import look
from npgpt.inside.stepper.keys import ACTIONS, HELP, Stepper, run
from npgpt.inside.stepper.saved import as_json, as_text, load, save
from npgpt.inside.stepper.tree import Session, removed_by

PROMPT = "Once upon a time"
SAMPLE = dict(do_sample=True, top_k=20, temperature=0.8, seed=3)


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


def session(model, **options):
    return Session(model, PROMPT, GenerationConfig(**(options or SAMPLE)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        SAMPLE,
        dict(do_sample=True, mirostat=2, mirostat_tau=2.0, mirostat_eta=1.0, seed=1),
        dict(do_sample=True, repetition_penalty=1.3, top_p=0.9, seed=5),
        dict(do_sample=True, no_repeat_ngram_size=2, min_p=0.1, typical_p=0.9),
        dict(token_healing=True, **SAMPLE),
    ],
)
def test_the_selectors_own_way_is_the_text_of_generate(mini, options):
    steps = session(mini, **(options or {"do_sample": False}))
    for _ in range(12):
        steps.take()
    made = mini.generate(PROMPT, max_new_tokens=12, eos_token_id=[], **options)
    assert steps.ids()[len(steps.prompt) :] == made.ids
    assert len(steps.nodes) == 13


def test_the_first_choice_is_the_one_that_sample_looks_at(mini):
    ours, theirs = (
        session(mini).choice(),
        look(mini, mini.encode(PROMPT), GenerationConfig(**SAMPLE)),
    )
    assert ours.sentence == theirs.sentence
    for one, other in zip(ours.stages, theirs.stages, strict=True):
        np.testing.assert_array_equal(one.p, other.p)


def test_going_back_reads_nothing(mini, monkeypatch):
    read = []
    real = GPT2.next_logits

    def counting(self, ids, cache):
        read.append(len(ids[0]))
        return real(self, ids, cache)

    monkeypatch.setattr(GPT2, "next_logits", counting)
    steps = session(mini)
    for _ in range(4):
        steps.take()
    steps.choice()
    assert read == [4, 1, 1, 1, 1]
    for _ in range(4):
        steps.back()
        steps.choice()
    for _ in range(4):
        steps.forward()
        steps.choice()
    assert read == [4, 1, 1, 1, 1]
    steps.go(2)
    steps.take(7)
    steps.choice()
    assert read[5:] == [1]  # the cache was cropped to what both texts begin with
    steps.go(3)
    steps.sibling()
    assert len(read) == 6


def test_it_is_the_same_however_one_came_there(mini):
    wanderer, other = session(mini), session(mini)
    first = wanderer.take()
    for token in (5, 9, 11):
        wanderer.take(token)
        wanderer.choice()
        wanderer.go(first)
    node = wanderer.take(9)
    wanderer.take(30)
    other.take(wanderer.nodes[first].token)
    other.take(9)
    other.take(30)
    assert wanderer.ids() == other.ids()
    assert wanderer.ids(node) == other.ids(2)
    np.testing.assert_allclose(
        wanderer.choice().stages[0].p, other.choice().stages[0].p, rtol=1e-4, atol=1e-7
    )
    assert wanderer.choice().token_id == other.choice().token_id


def test_a_branch_is_there_once_and_siblings_go_round(mini):
    steps = session(mini)
    nodes = []
    for token in (5, 6, 7):
        nodes.append(steps.take(token))
        steps.back()
    assert steps.take(6) == nodes[1]
    assert [steps.sibling() for _ in range(3)] == [nodes[2], nodes[0], nodes[1]]
    steps.back()
    assert steps.forward() == nodes[1]  # where one was last
    assert steps.path() == [0, nodes[1]]


def test_a_head_taken_out_is_a_patched_reading(mini):
    steps = session(mini)
    steps.take()
    assert steps.without() is None
    steps.switch(2, 1)
    steps.switch(0, 0)
    patch = {"h.2.attn.context[:, 1]": 0, "h.0.attn.context[:, 0]": 0}
    with mini.trace((), patch=patch):
        z = mini.logits([steps.ids()])[0, -1].astype(np.float64)
    p = np.exp(z - z.max())
    np.testing.assert_allclose(steps.without(), p / p.sum(), rtol=1e-5, atol=1e-9)
    steps.switch(0, 0)
    assert np.abs(steps.without() - p / p.sum()).max() > 1e-3
    steps.switch(2, 1)
    assert steps.without() is None


def test_a_trace_is_of_the_text_up_to_here(mini):
    steps = session(mini)
    steps.take()
    trace = steps.trace("h.0.attn.weights")
    assert trace["h.0.attn.weights"].shape == (1, 3, 5, 5)
    assert trace.passes[0].ids == [steps.ids()]


def test_which_rule_removed_a_token(mini):
    choice = session(mini, do_sample=True, top_k=3, min_p=0.6).choice()
    best = np.argsort(-choice.stages[0].p)
    assert removed_by(choice, int(best[0])) is None
    assert removed_by(choice, int(best[3])) == "top_k(3)"
    after = choice.stages[-1].p
    cut = [int(i) for i in best[:3] if after[i] == 0]
    assert cut
    assert {removed_by(choice, i) for i in cut} == {"min_p(0.6)"}


def test_a_tree_is_saved_and_read_again(mini, tmp_path):
    steps = session(mini)
    for _ in range(3):
        steps.take()
    steps.go(1)
    steps.take(5)
    steps.bookmark()
    steps.switch(1, 2)
    save(steps, tmp_path / "a.json")
    again = load(tmp_path / "a.json", mini, GenerationConfig(**SAMPLE))
    assert as_json(again) == as_json(steps)
    assert again.text == steps.text
    assert again.choice().token_id == steps.choice().token_id
    save(steps, tmp_path / "a.txt")
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[0] == f"0 {PROMPT!r}"
    assert lines[-1].startswith("  4 ")
    assert lines[-1].endswith(" * <")
    assert len(lines) == len(steps.nodes) == 5
    assert as_text(again) == as_text(steps)


def test_a_long_text_that_was_saved_is_read_again(mini, tmp_path):
    steps = Session(mini, PROMPT, GenerationConfig(do_sample=True, mirostat=2, seed=1))
    for _ in range(60):
        steps.take()
    save(steps, tmp_path / "a.json")
    again = load(tmp_path / "a.json", mini, steps.options)
    assert again.choice().sentence == steps.choice().sentence


def test_a_healed_prompt_is_not_healed_again(mini, tmp_path):
    steps = Session(mini, "Once upon a ti", GenerationConfig(token_healing=True))
    steps.take()
    save(steps, tmp_path / "a.json")
    again = load(tmp_path / "a.json", mini, GenerationConfig(token_healing=True))
    assert (again.prompt, again.prefix) == (steps.prompt, steps.prefix)
    assert again.prefix


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("nodes"),
        lambda data: data["nodes"][1].update(parent=3),
        lambda data: data["nodes"][1].update(parent=None),
        lambda data: data["nodes"][1].update(token=10**9),
        lambda data: data["nodes"].append(dict(data["nodes"][1])),
        lambda data: data.update(here=99),
        lambda data: data.update(off=[[9, 9]]),
        lambda data: data.update(prompt="no list"),
        lambda data: data.update(prefix="zz"),
        lambda data: data.update(nodes=7),
    ],
)
def test_a_damaged_tree_is_one_sentence(mini, tmp_path, change):
    steps = session(mini)
    steps.take()
    data = as_json(steps)
    change(data)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(data))
    with pytest.raises(NpgptError) as error:
        load(file, mini)
    assert "\n" not in str(error.value)


def test_no_line_is_wider_than_the_terminal(mini):
    stepper = Stepper(session(mini, do_sample=True, top_k=4, top_p=0.9, min_p=0.01,
                              temperature=0.9, typical_p=0.95))  # fmt: skip
    for line in ("", "down", "", "x 1 1", "b"):
        stepper.press(line)
        for width in (40, 60, 80, 200):
            lines = stepper.view(width).splitlines()
            assert max(map(len, lines)) <= width
            assert width < 60 or any("cut by" in line for line in lines)
            assert sum("*" in line.split("'")[0] for line in lines[1:]) == 1
    assert "without 1.1" in stepper.view(60)
    assert stepper.view(200).splitlines()[0].endswith(" *")


def test_every_key_is_in_the_help_and_does_what_it_says(mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key in ACTIONS:
        assert any(
            line.startswith((f"{key} ", f"{key}  ")) or f" {key} " in line
            for line in HELP.splitlines()
        ), key
    stepper = Stepper(session(mini))
    stepper.point()
    assert stepper.candidate == stepper.session.choice().token_id
    taken = stepper.candidate
    stepper.press("enter")
    assert stepper.session.nodes[1].token == taken
    stepper.press("left")
    assert stepper.candidate == taken
    stepper.press("up"), stepper.press("up"), stepper.press("up")
    other = stepper.candidate
    assert other == stepper.shown[0]
    stepper.press("")
    assert stepper.session.nodes[stepper.session.here].token == other
    stepper.press("tab")
    stepper.press("left")
    stepper.press(">")
    stepper.press("enter ' king'")
    assert stepper.session.text.endswith(" king")
    why = stepper.press("w")
    assert f"logits[t={len(stepper.session.ids()) - 1},v=" in why
    assert "88 other terms" in why
    assert "h.0.attn.weights" in stepper.press("w h.0.attn.weights[h=0,t=2,s=1]")
    for name in ("logit", "attribution", "ablation", "rollout", "gradient"):
        assert len(stepper.press(f"l {name}").splitlines()) > 3
    assert stepper.press("t").count("\n") == len(stepper.session.nodes) - 1
    assert stepper.press("s") == "wrote steps.json"
    assert load("steps.json", mini).text == stepper.session.text
    stepper.press("go 0")
    assert stepper.press("?") == HELP
    stepper.press("q")
    assert stepper.ended


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("z", "there is no key 'z'"),
        ("'", "a quote is not closed"),
        ("left", "nothing was before it"),
        ("tab", "has no sibling"),
        ("go", "see \\? for what"),
        ("go one", "no whole number"),
        ("go 7", "node 7 is not there"),
        ("left 1", "see \\? for what"),
        ("x 1", "see \\? for what"),
        ("x 7 1", "layer 7 is not there"),
        ("x 1 7", "head 7 is not there"),
        ("enter 'the king was'", "not one token"),
        ("w nothing[0]", "there is no nothing"),
        ("l", "lenses are"),
        ("s a.doc", r"\.json or \.txt"),
        ("s /nowhere/a.json", "cannot be written"),
    ],
)
def test_a_wrong_key_is_one_sentence_and_changes_nothing(mini, line, sentence):
    stepper = Stepper(session(mini))
    before = stepper.view()
    with pytest.raises(NpgptError, match=sentence):
        stepper.press(line)
    assert stepper.view() == before


def test_a_text_that_fills_all_positions_says_so():
    model = GPT2(tiny_params(TINY))
    stepper = Stepper(Session(model, list(range(22)), GenerationConfig()))
    stepper.press("")
    stepper.press("")
    said = []
    assert not run(stepper, ["left", "", ""], said.append, strict=False, width=80)


def npgpt(*words, keys="", status=0):
    result = CliRunner().invoke(main, list(map(str, words)), input=keys)
    assert result.exit_code == status, result.output
    return result


MINI = ("-m", "tales-mini", "--top-k", "5", "--seed", "2")


def test_a_pipe_and_a_script_are_the_same(tmp_path):
    keys = "down\n\n# a remark\nw\nx 2 1\nb\nt\n"
    script = tmp_path / "keys.txt"
    script.write_text(keys)
    piped = npgpt("step", PROMPT, *MINI, keys=keys)
    scripted = npgpt("step", PROMPT, *MINI, "--script", script)
    assert piped.stdout == scripted.stdout
    assert "without 2.1" in piped.stdout
    assert piped.stdout.count("[1] ") == 3


def test_what_was_saved_is_gone_on_with(tmp_path):
    file = tmp_path / "a.json"
    npgpt("step", PROMPT, *MINI, "-o", file, keys="\n\n")
    value = json.loads(npgpt("step", "--load", file, *MINI, "--json", keys="\n").stdout)
    assert len(value["nodes"]) == 4
    whole = npgpt("step", PROMPT, *MINI, "--json", keys="\n\n\n")
    assert json.loads(whole.stdout) == value
    assert npgpt("step", "--load", file, *MINI).stdout.startswith("[2] ")


def test_the_docs_example_runs():
    help = npgpt("step", "--help").stdout
    assert "printf" in help
    assert "textual" not in help


@pytest.mark.parametrize(
    ("words", "keys", "status", "sentence"),
    [
        ([], "", 2, "give a PROMPT, or --load"),
        (["a", "--script", "nowhere"], "", 2, "does not exist"),
        (["a", "--tokens", "0"], "", 2, "--tokens is 1 or more"),
        (["a", "-o", "a.doc"], "", 2, ".json or .txt"),
        (["a"], "t\nz\n", 1, "line 2: there is no key 'z'"),
        (["a", "-o", "/nowhere/a.json"], "", 1, "cannot be written"),
        (["king " * 600], "", 1, "shorten the text"),
    ],
)
def test_a_wrong_call_is_one_sentence(words, keys, status, sentence):
    result = npgpt("step", *words, "-m", "tales-mini", keys=keys, status=status)
    assert sentence in result.stderr
    assert "Traceback" not in result.output


DOCS = (Path(__file__).parents[2] / "docs" / "stepper.md").read_text(encoding="utf-8")


def test_the_commands_of_the_docs_run(tmp_path):
    lines = re.findall(r"^    (.*npgpt step .*)$", DOCS, re.MULTILINE)
    assert len(lines) == 4
    folder = Path(sys.executable).parent
    for line in lines:
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert " king" in done.stdout


def test_every_key_is_in_the_docs():
    for key in ACTIONS:
        assert re.search(rf"`{re.escape(key)}\b|`{re.escape(key)}`", DOCS), key
