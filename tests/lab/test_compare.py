"""npgpt compare: the same texts however it is run; grids that are wrong are refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from npgpt import GPT2
from npgpt.decoding.options import GenerationConfig
from npgpt.errors import ContextOverflowError, GridError
from npgpt.gpt2 import Weight
from npgpt.lab import Plan, compare
from npgpt.lab.grid import GRIDS, make_grid, read_grid, with_models
from npgpt.lab.run import continuation_logprob, fitted

pytest.importorskip("joblib", reason="joblib is of the extra lab")
NPGPT = str(Path(sys.executable).parent / "npgpt")
PROMPTS = ["Once upon a time", "The king"]
GRID = [
    {"name": "greedy"},
    {"do_sample": True, "temperature": 0.7},
    {"num_beams": 2},
    {"do_sample": True, "assistant_model": "tales-mini"},
]


def plan(**changes):
    given = {
        "model": "tales-mini",
        "settings": make_grid(GRID),
        "prompts": PROMPTS,
        "seeds": 3,
        "max_new_tokens": 8,
    } | changes
    return Plan(**given)


@pytest.fixture(scope="module")
def whole():
    return compare(plan(judge="tales"), jobs=1)


def test_every_setting_continues_every_prompt_with_every_seed(whole):
    cells = [(t.setting, t.prompt, t.seed) for t in whole]
    assert cells == [
        (s.name, i, 10_000 * i + k)
        for s in plan().settings
        for i in range(2)
        for k in range(3)
    ]
    assert all(len(t.ids) <= 8 for t in whole)
    assert len({t.text for t in whole if t.setting == "greedy"}) == len(PROMPTS)
    assert len({t.text for t in whole if t.setting == "temperature=0.7"}) == 6


def test_a_text_is_what_generate_writes_and_score_finds(whole):
    mini, tales = (GPT2.from_pretrained(name) for name in ("tales-mini", "tales"))
    for t in (whole[1], whole[8]):
        options = next(s.options for s in plan().settings if s.name == t.setting)
        start = mini.encode(PROMPTS[t.prompt])
        again = mini.generate(start, **options, seed=t.seed, max_new_tokens=8)
        assert again.ids == t.ids
        for model, logprob in ((mini, t.logprob), (tales, t.judge_logprob)):
            known = model.score(start).logprob
            whole_text = model.score([*start, *t.ids]).logprob
            # without <|endoftext|> in front the context differs: score it the same way
            assert logprob == pytest.approx(
                continuation_logprob(model, start, t.ids), rel=1e-5
            )
            assert whole_text < known
        scored = mini.score([*start, *t.ids], bos=False).logprobs[len(start) :]
        assert t.logprob == pytest.approx(sum(scored), rel=1e-5)


def test_processes_change_nothing(whole):
    assert compare(plan(judge="tales"), jobs=2) == whole


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_resumed_equals_uninterrupted(whole, tmp_path, cut):
    """After 5 texts and a piece of a sixth; none is written twice."""
    out = tmp_path / "out.jsonl"
    heard = []
    assert compare(plan(judge="tales"), out, 1) == whole
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(whole)
    out.write_bytes(b"".join(lines[:6]) + lines[6][:cut])
    again = compare(plan(judge="tales"), out, 1, lambda *there: heard.append(there))
    assert again == whole
    assert heard == [(n, len(whole)) for n in range(5, len(whole) + 1)]
    assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_finished_run_runs_nothing_and_more_seeds_only_those(tmp_path):
    out, few = tmp_path / "out.jsonl", plan(settings=make_grid(GRID[:1]), seeds=2)
    compare(few, out, 1)
    before = out.read_bytes()
    heard = []
    compare(few, out, 1, lambda *there: heard.append(there))
    assert heard == [(4, 4)]
    assert out.read_bytes() == before
    compare(plan(settings=make_grid(GRID[:1]), seeds=3), out, 1)
    assert out.read_bytes().startswith(before)
    assert len(out.read_bytes().splitlines()) == 1 + 6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "tales"}, "model and weights"),
        ({"prompts": ["The queen"]}, "prompts"),
        ({"settings": make_grid([{"name": "greedy", "num_beams": 2}])}, "settings"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"judge": "tales-mini"}, "judge"),
    ],
)
def test_another_comparison_does_not_go_on_in_the_file(tmp_path, changes, named):
    out, small = tmp_path / "out.jsonl", {"settings": make_grid(GRID[:1]), "seeds": 2}
    compare(plan(**small), out, 1)
    with pytest.raises(GridError, match=f"with other {named};"):
        compare(plan(**(small | changes)), out, 1)


def short(n):
    """tales-mini with its first n positions."""
    params = GPT2.from_pretrained("tales-mini").params
    config = replace(params.config, n_positions=n)
    return params._replace(config=config, wpe=Weight(params.wpe.weight[:n]))


def test_the_default_length_is_what_fits_and_what_was_asked_for_is_refused(tmp_path):
    GPT2(short(40), GPT2.from_pretrained("tales-mini").tokenizer).save_pretrained(
        tmp_path
    )
    small = plan(settings=make_grid(GRID[:1]), seeds=2, max_new_tokens=None)
    assert fitted(small).max_new_tokens == 64
    assert fitted(replace(small, judge=str(tmp_path))).max_new_tokens == 40
    mine = replace(small, model=str(tmp_path))
    longest = max(len(GPT2.from_pretrained(tmp_path).encode(p)) for p in PROMPTS)
    assert fitted(mine).max_new_tokens == 41 - longest
    assert {len(t.ids) for t in compare(mine, jobs=1)} == {41 - longest}
    with pytest.raises(GridError, match="max_new_tokens 40"):
        compare(replace(mine, max_new_tokens=40), jobs=1)
    with pytest.raises(ContextOverflowError, match="no room for texts of 4"):
        compare(replace(mine, prompts=["a b c d " * 12]), jobs=1)
    sliding = make_grid([{"overflow": "slide"}])
    assert fitted(replace(mine, settings=sliding)).max_new_tokens == 40
    text = subprocess.run(
        [NPGPT, "compare", *PROMPTS, "-m", str(tmp_path), "--seeds", "2", "--json"],
        capture_output=True,
    ).stdout
    assert json.loads(text)["max_new_tokens"] == 41 - longest


def test_a_file_that_is_something_else_is_left_alone(tmp_path):
    out = tmp_path / "story.txt"
    out.write_text("Once upon a time\nthere was\n")
    with pytest.raises(GridError, match="does not hold results"):
        compare(plan(), out, 1)
    assert out.read_text() == "Once upon a time\nthere was\n"


@pytest.mark.parametrize("preset", GRIDS)
def test_every_preset_is_a_grid_that_runs(preset):
    settings = read_grid(preset)
    mini = GPT2.from_pretrained("tales-mini")
    for setting in settings:
        options = with_models(setting, GPT2.from_pretrained)
        GenerationConfig.of(options)
        assert len(mini.generate("The", **options, max_new_tokens=4).ids) <= 4


def test_yaml_is_read_as_a_reader_means_it(tmp_path):
    pytest.importorskip("yaml", reason="PyYAML is of the extra lab")
    path = tmp_path / "grid.yaml"
    path.write_text(
        "common: {do_sample: true}\n"
        "settings:\n"
        "  - {p_less: on, epsilon_cutoff: 3e-4, name: both}\n"
        "  - sweep: {temperature: [0.5, 1], top_k: [5]}\n"
    )
    assert [tuple(setting) for setting in read_grid(path)] == [
        ("both", {"do_sample": True, "p_less": "on", "epsilon_cutoff": 3e-4}),
        (
            "temperature=0.5 top_k=5",
            {"do_sample": True, "temperature": 0.5, "top_k": 5},
        ),
        ("temperature=1 top_k=5", {"do_sample": True, "temperature": 1, "top_k": 5}),
    ]


# The command


def run(*arguments, cwd, status=0, **options):
    done = subprocess.run(
        [NPGPT, "compare", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


BAD = {
    "temprature: 1": "there are no settings|unknown key",
    "- {temprature: 1}": "unknown option 'temprature'; did you mean temperature?",
    "- {temperature: 1": "line 1: not YAML",
    "": "there are no settings in it",
    "- {name: a}\n- {name: a}": "two settings are named 'a'",
    "- {top_k: 5, top_k: 6}": "line 1: 'top_k' stands there twice",
    "- {top_k: 5}": "top_k changes nothing without do_sample=True",
    "- {seed: 5}": "seed does not belong in a grid",
    "- {sweep: {top_k: 5}}": "sweep needs a list",
    "- {amateur_model: nothing-here/at all}": "amateur_model=nothing-here/at all",
    "- !!python/object/apply:os.getcwd []": "not YAML",
}


@pytest.mark.parametrize(("grid", "sentence"), BAD.items())
def test_a_bad_grid_is_one_sentence_and_status_2(tmp_path, grid, sentence):
    pytest.importorskip("yaml", reason="PyYAML is of the extra lab")
    (tmp_path / "grid.yaml").write_text(grid)
    done = run("a", "--grid", "grid.yaml", cwd=tmp_path, status=2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: grid.yaml")
    assert any(part in last for part in sentence.split("|"))
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--grid", "nothing"], 2, "neither a preset (notebook, "),
        (["--seeds", "1"], 2, "one text alone has no diversity"),
        (["--figure", "a.gif"], 2, "written as .png or .svg"),
        (["--jobs", "0"], 2, "--jobs must be"),
        (["--max-new-tokens", "600"], 1, "more than the 512 positions of tales"),
        (["--judge", "nothing here"], 1, "nothing here"),
        (["--out", "no/folder/a.jsonl"], 1, "cannot be written"),
    ],
)
def test_command_fails_in_one_sentence(tmp_path, arguments, status, sentence):
    done = run("a", *arguments, cwd=tmp_path, status=status)
    assert sentence in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("yaml", ["--grid", "grid.yaml"]), ("joblib", ["--grid", "top_k"])],
)
def test_without_the_extra_an_error_names_it(tmp_path, module, arguments):
    (tmp_path / "grid.yaml").write_text("- {num_beams: 2}")
    code = (
        f"import sys; sys.modules[{module!r}] = None; from npgpt.cli import main; "
        f"main({['compare', 'a', *arguments]!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode in (1, 2)
    assert "pip install 'npgpt[lab]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


SMALL = ["--grid", "notebook", "-m", "tales-mini", "--judge", "tales", "--seeds", "3",
         "--max-new-tokens", "12"]  # fmt: skip


def test_command_writes_table_csv_json_figure_and_samples(tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    arguments = [*PROMPTS, *SMALL, "--out", "a.jsonl"]
    done = run(
        *arguments,
        "--figure",
        "a.png",
        "--csv",
        "a.csv",
        "--samples",
        "2",
        cwd=tmp_path,
        env=env,
    )
    names = [setting.name for setting in read_grid("notebook")]
    assert all(name in done.stdout for name in names)
    assert done.stdout.splitlines()[-1].startswith("On the frontier of diversity")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 800
        assert len(image.convert("RGB").getcolors(1_000_000)) > 20
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    assert list(rows) == names
    assert float(rows["greedy"]["diversity"]) == 0

    value = json.loads(run(*arguments, "--json", "--samples", "1", cwd=tmp_path).stdout)
    for found in value["settings"]:
        row = rows[found["name"]]
        assert float(row["judge_perplexity"]) == found["judge_perplexity"]["value"]
        assert found["frontier"] == bool(int(row["frontier"]))
        assert len(found["samples"]) == len(PROMPTS)
        assert found["perplexity"]["low"] <= found["perplexity"]["value"]
    on = [found["name"] for found in value["settings"] if found["frontier"]]
    assert sorted(on) == sorted(value["frontier"]["on"])
    assert value["sentence"] == done.stdout.splitlines()[-1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_loses_the_text_in_flight_at_most(tmp_path, how):
    arguments = [NPGPT, "compare", *PROMPTS, *SMALL, "--out", "a.jsonl", "--json"]
    out = tmp_path / "a.jsonl"
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        end = time.monotonic() + 120
        while not out.exists() or out.read_bytes().count(b"\n") < 6:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(how)
        errors = process.stderr.read().decode()
        process.wait(60)
    kept = [
        line
        for line in out.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    assert 6 <= len(kept) < 1 + 54
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in errors
        assert "Traceback" not in errors
    again = run(*arguments[2:], cwd=tmp_path)
    assert out.read_bytes().startswith(b"".join(kept))
    fresh = run(*PROMPTS, *SMALL, "--json", cwd=tmp_path)
    assert again.stdout == fresh.stdout


def test_the_room_has_a_face():
    import npgpt.lab as room

    assert all(hasattr(room, name) for name in room.__all__)
    assert room.diversity.distinct_n(["ab"], 1) == 1
