"""The installed `npgpt` command, run as a user runs it."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import TINY, tiny_params

from npgpt.cli import VERBS, main
from npgpt.storage import checkpoint

NPGPT = str(Path(sys.executable).parent / "npgpt")
ENV = {**os.environ, "COLUMNS": "80"}


def run(*args, status=0, **options):
    """Run the command; its output. No failure may show a traceback."""
    done = subprocess.run(
        [NPGPT, *args],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=120,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        **options,
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def test_generate_continues_the_prompt():
    done = run("generate", "Once upon a time", "--seed", "7", "--max-new-tokens", "20")
    assert done.stdout.startswith("Once upon a time")
    assert len(done.stdout) > len("Once upon a time\n") + 20
    figures = done.stderr
    for part in (
        "prefill 4 tokens",
        "decode 20",
        "tok/s",
        "GB/s of weights",
        "seed 7",
        "temperature(0.8) top_p(0.95)",
    ):
        assert part in figures
    again = run("generate", "Once upon a time", "--seed", "7", "--max-new-tokens", "20")
    assert again.stdout == done.stdout


def test_without_a_seed_it_draws_one_and_says_which():
    one, two = (run("generate", "The", "--max-new-tokens", "12") for _ in range(2))
    assert one.stderr.split("seed ")[1] != two.stderr.split("seed ")[1]
    seed = one.stderr.split("seed ")[1].rstrip("]\n")
    again = run("generate", "The", "--max-new-tokens", "12", "--seed", seed)
    assert again.stdout == one.stdout


@pytest.mark.parametrize("args", [["-"], []])
def test_generate_reads_the_prompt_from_stdin(args, tmp_path):
    (tmp_path / "prompt").write_text("Once upon a time\n")
    with (tmp_path / "prompt").open() as file:
        done = run("generate", *args, "--greedy", "--max-new-tokens", "4", stdin=file)
    assert done.stdout.startswith("Once upon a time")
    assert "greedy" in done.stderr


def test_generate_json_is_one_object_on_stdout():
    done = run("generate", "Once", "--json", "-n", "2", "--max-new-tokens", "5")
    result = json.loads(done.stdout)
    assert len(result["generations"]) == 2
    for row in result["generations"]:
        assert len(row["ids"]) == len(row["logprobs"]) == len(row["ranks"]) == 5
        assert row["finish_reason"] == "length"
    assert result["tokens_per_second"] > 0
    assert result["options"]["temperature"] == 0.8


def test_several_texts_are_told_apart():
    done = run("generate", "Once", "-n", "2", "--max-new-tokens", "3")
    assert "--- 1 of 2\nOnce" in done.stdout
    assert "--- 2 of 2\nOnce" in done.stdout


def test_stop_and_overflow():
    done = run(
        "generate", "Once", "--greedy", "--stop", "the", "--max-new-tokens", "40"
    )
    assert "the" not in done.stdout
    line = ("Once", "--greedy", "--logit-bias", '{"198": 99}', "--json")
    done = run("generate", *line, "--max-new-tokens", "3", "--stop", r"\n")
    assert json.loads(done.stdout)["options"]["stop_strings"] == ["\n"]
    run("generate", "Once", "--max-new-tokens", "600", status=1)
    done = run(
        "generate", "Once", "--max-new-tokens", "600", "--overflow", "stop", "--json"
    )
    assert len(json.loads(done.stdout)["generations"][0]["ids"]) <= 512


def test_a_folder_of_ones_own_runs(tmp_path):
    checkpoint.save(tiny_params(), tmp_path)
    done = run("generate", "text", "--model", str(tmp_path), status=1)
    assert "no tokenizer files" in done.stderr
    done = run("info", str(tmp_path), "--json")
    assert json.loads(done.stdout)["config"]["n_embd"] == TINY.n_embd


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (["generate", "x", "--model", "nowhere"], 1, "'nowhere' is not a folder"),
        (["generate", "x", "--backend", "cupy"], 1, "backend 'cupy'"),
        (["generate", "x", "--dtype", "int3"], 1, "does not compute in 'int3'"),
        (["generate", "x", "--top-p", "2"], 1, "--top-p must be in [0, 1]"),
        (["generate", "x", "--min-new-tokens", "300"], 1, "--min-new-tokens 300"),
        (["generate", "x", "--top-k", "many"], 2, "'many' is not a valid integer"),
        (["generate", "x", "--greedy", "--top-p", ".5"], 2, "exclude each other"),
        (["generate", "x", "--overflow", "wrap"], 2, "'wrap'"),
        (["generate", "x", "y"], 2, "unexpected extra argument"),
        (["generate", b"\xff", "--greedy"], 1, "half a character"),
        (["generate", "x", "--repeat-penalty", "2"], 2, "it is --repetition-penalty"),
        (["generate", "x", "--stop-strings", "y"], 2, "here it is --stop."),
        (["generate", "x", "--n-predict", "9"], 2, "here it is --max-new-tokens"),
        (["generate", "x", "--do-sample"], 2, "sampling is the default"),
        (["generate", "x", "--pad-token-id", "0"], 2, "nothing is padded"),
        (["conjure"], 2, "No such command"),
        (["info", "nowhere"], 1, "'nowhere'"),
    ],
)
def test_bad_calls_are_one_sentence(args, status, sentence):
    done = run(*args, status=status)
    assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    text = run(verb, "--help").stdout
    assert f"npgpt {verb}" in text
    assert "Example" in text


def test_help_lists_every_verb():
    text = run("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert main.list_commands(None) == list(VERBS)


def test_info_of_published_sizes():
    assert "124,439,808" in run("info", "gpt2").stdout
    sizes = json.loads(run("info", "gpt2", "--json").stdout)
    assert sizes["kv_bytes_per_token"] == 2 * 12 * 768 * 4
    assert sizes["memory_bytes"] == sizes["weight_bytes"] + sizes["kv_bytes"]


def start(*args, **options):
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [NPGPT, *args], env=ENV, stdin=subprocess.DEVNULL, **options
    )


LONG = ("generate", "Once", "--max-new-tokens", "400000", "--overflow", "slide")


def test_ctrl_c_stops_cleanly_with_the_figures():
    process = start(*LONG, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "decode" in errors
    assert "Traceback" not in errors


def test_a_closed_pipe_stops_cleanly():
    process = start(*LONG, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    errors = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in errors
    assert "Broken" not in errors


def test_a_terminal_shows_the_prompt_apart_and_text_as_it_comes():
    master, slave = pty.openpty()
    process = start(
        "generate",
        "Once upon",
        "--greedy",
        "--max-new-tokens",
        "60",
        stdout=slave,
        stderr=subprocess.DEVNULL,
    )
    os.close(slave)
    pieces, deadline = [], time.time() + 60
    while time.time() < deadline:
        if select.select([master], [], [], 1)[0]:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            pieces.append(piece)
    assert process.wait(timeout=30) == 0
    os.close(master)
    assert b"".join(pieces).startswith(b"\x1b[1mOnce upon\x1b[0m")
    assert len(pieces) > 10  # streamed, not printed at the end


def test_python_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "npgpt", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("npgpt, version ")
