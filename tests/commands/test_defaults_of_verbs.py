"""What is on by default, in the command, in Python and in `sample`, and what ran."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.decoding.options import OPTIONS

ROOT = Path(__file__).parent.parent.parent
NPGPT = str(Path(sys.executable).parent / "npgpt")
SHORT = ("-m", "tales-mini", "--max-new-tokens", "6", "--json")


def run(*args):
    done = subprocess.run(
        [NPGPT, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


def table():
    """The rows of docs/generating.md: what an option is in each of the three."""
    text = (ROOT / "docs" / "generating.md").read_text()
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"
    ]
    return {name: cells for name, *cells in rows[2:]}


def test_the_table_of_defaults_is_true():
    text = run("generate", "The king", "-m", "tales-mini", "--json").stdout
    command = json.loads(text)["options"]
    seeds = {run("generate", "a", *SHORT).stderr.split("seed ")[1] for _ in range(2)}
    assert len(seeds) == 2
    command.pop("seed")
    for name, (here, python, _) in table().items():
        assert python == str(OPTIONS[name].default)
        known = command.get(name, OPTIONS[name].default)
        if name == "seed":
            assert here == "a new one"
        else:
            assert here == str(known)
    stages = json.loads(run("sample", "The king", "--json").stdout)["stages"]
    assert len(stages) == 1  # the model's own: nothing is on
    sampled = [cells[2] for name, cells in table().items() if name != "do_sample"]
    assert sampled == ["1.0", "1.0", "0", "20", "0"]


@pytest.mark.parametrize(
    ("options", "ran"),
    [
        ("--num-beams 4", "beam search(4)]"),
        ("--num-beams 4 --length-penalty 2 --no-repeat-ngram-size 2",
         "beam search(4) no_repeat_ngram(2)]"),
        ("--num-beams 4 --num-beam-groups 2 --diversity-penalty 0.5",
         "beam search(4) diverse beam search(2)]"),
        ("--penalty-alpha 0.6 --top-k 4", "contrastive search(0.6)]"),
        ("--cot-branches 3", "CoT-decoding(3)]"),
        ("--num-beams 4 --greedy", "beam search(4)]"),
        ("--num-beams 4 --temperature 0", "beam search(4)]"),
        ("--greedy", "; greedy]"),
    ],
)  # fmt: skip
def test_a_search_alone_draws_nothing_and_is_named(options, ran):
    one, two = (run("generate", "The king", *SHORT, *options.split()) for _ in "12")
    texts = [json.loads(done.stdout)["generations"] for done in (one, two)]
    assert texts[0] == texts[1]
    assert one.stderr.rstrip().endswith(ran)


@pytest.mark.parametrize(
    ("options", "ran"),
    [
        ("--num-beams 2 --temperature 0.7",
         "beam search(2) temperature(0.7) top_p(0.95) gumbel_max seed 1]"),
        ("--num-beams 2 --top-p 0.9",
         "beam search(2) temperature(0.8) top_p(0.9) gumbel_max seed 1]"),
        ("--num-beams 2 --stochastic-beams -n 2",
         "stochastic beam search temperature(0.8) top_p(0.95) gumbel_max seed 1]"),
        ("--best-of 2",
         "best of n(2) temperature(0.8) top_p(0.95) gumbel_max seed 1]"),
        ("--prompt-lookup-num-tokens 3",
         "prompt lookup(3) temperature(0.8) top_p(0.95) gumbel_max seed 1]"),
    ],
)  # fmt: skip
def test_what_is_drawn_says_so(options, ran):
    done = run("generate", "The king", *SHORT, "--seed", "1", *options.split())
    assert done.stderr.rstrip().endswith(ran)


def test_a_model_that_asks_for_sampling_has_its_beams_drawn(tmp_path):
    run("convert", "tales-mini", str(tmp_path))
    said = {"do_sample": True, "temperature": 0.5}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    line = run("generate", "The king", "--num-beams", "2", "-m", str(tmp_path),
               "--max-new-tokens", "4").stderr  # fmt: skip
    assert "beam search(2) temperature(0.5)" in line
