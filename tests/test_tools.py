"""The scripts in tools/ start: what they import exists; --help says what they do."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
SCRIPTS = (
    "bench_peers",
    "bench_training",
    "busy_core",
    "exposure",
    "random_checkpoint",
    "scaling",
    "train_bundled",
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_tool_says_what_it_does(name):
    done = subprocess.run(
        [sys.executable, TOOLS / f"{name}.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first = next(
        line for line in done.stdout.splitlines() if line and line[0].isupper()
    )
    assert first.split()[0] in ("Time", "Write", "Make", "Train", "Measure")
