"""Ctrl-C in `npgpt train`: real processes, real signals, a real terminal."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from npgpt import GPT2
from npgpt.storage.tensorfile import read_metadata

if sys.platform == "win32":
    pytest.skip("no POSIX signals and terminals there", allow_module_level=True)
from terminals import Terminal

TEXT = "The king had a daughter. The daughter had a cat, and the cat had a king.\n" * 60
NEVER = ["--eval-every", "100000", "--sample-tokens", "0"]
ON = "the same command with --resume goes on"


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return [sys.executable, "-m", "npgpt", "train", str(path), "--context", "16",
            "--batch-size", "2", "--out", str(tmp_path / "mine")]  # fmt: skip


def wait_for_step(out, step, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "loss.jsonl").exists():
            lines = (out / "loss.jsonl").read_text().splitlines()[:-1]
            if any(json.loads(line)["step"] >= step for line in lines):
                return
        time.sleep(0.02)
    raise AssertionError(f"no step {step}: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, command, number):
    out = tmp_path / "mine"
    long = [*command, *NEVER, "--steps", "100000", "--save-every", "100000"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(long, **pipes)
    wait_for_step(out, 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stdout == ""
    assert "stopping after this step; once more" in stderr
    step = int(re.search(r"stopped; step (\d+) of 100,000 is saved", stderr)[1])
    assert stderr.rstrip().endswith(ON)
    assert int(read_metadata(out / "checkpoint.safetensors")["step"]) == step
    assert GPT2.from_pretrained(out).generate("The", max_new_tokens=2).ids
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    more = [*long, "--resume", "--steps", str(step + 2)]
    done = subprocess.run(more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (out / "loss.jsonl").read_text().splitlines()]
    seen = [line["step"] for line in lines if "loss" in line]
    assert seen == list(range(1, step + 3))


def test_what_was_stopped_goes_on_bit_for_bit(tmp_path, command):
    """The step in which the signal came is a whole one."""
    command[-1] = str(tmp_path / "whole")
    short = ["--steps", "60", *NEVER, "--save-every", "60"]
    assert subprocess.run([*command, *short], capture_output=True).returncode == 0
    command[-1] = str(tmp_path / "mine")
    process = subprocess.Popen([*command, *short], stderr=subprocess.DEVNULL)
    wait_for_step(tmp_path / "mine", 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    done = subprocess.run([*command, *short, "--resume"], capture_output=True)
    assert done.returncode == 0
    for name in ("model.safetensors", "loss.jsonl", "checkpoint.safetensors"):
        whole, mine = ((tmp_path / x / name).read_bytes() for x in ("whole", "mine"))
        assert whole == mine, name


def test_control_c_in_a_terminal(tmp_path, command):
    long = [*command, *NEVER, "--steps", "100000", "--save-every", "100000"]
    terminal = Terminal(long)
    wait_for_step(tmp_path / "mine", 3, terminal.process)
    terminal.press(b"\x03")
    assert terminal.end() == 130
    assert ON in terminal.text
    assert "step 0/100000" in terminal.text
    assert "loss 0.000" not in terminal.text  # of before there was a loss
    assert "Traceback" not in terminal.text


SLOW = """
import sys, time
from npgpt.training import loop
step = loop._step
def slow(*args):
    print("in a step", flush=True)
    time.sleep(30)
    return step(*args)
loop._step = slow
from npgpt.cli import main
sys.argv[0] = "npgpt"
main()
"""


def test_a_second_control_c_ends_at_once(tmp_path, command):
    slow = [sys.executable, "-c", SLOW, *command[3:], *NEVER]
    terminal = Terminal(slow)
    wait = time.monotonic() + 60
    for awaited in ("in a step", "once more: now"):
        while awaited not in terminal.text and time.monotonic() < wait:
            time.sleep(0.05)
        terminal.press(b"\x03")
    began = time.monotonic()
    assert terminal.end() == 130
    assert time.monotonic() - began < 20
    assert "stopped; nothing had been saved, nothing is left" in terminal.text
    assert not (tmp_path / "mine").exists()


def test_presets_show_their_numbers():
    help = subprocess.run(
        [sys.executable, "-m", "npgpt", "train", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    ).stdout
    rows = [line.split() for line in help.splitlines()]
    assert ["tiny", "4", "128", "4", "512", "128", "300", "16", "0.004", "30"] in rows
    assert ["--init-from", "256", "300", "4", "0.0001", "20"] in rows
