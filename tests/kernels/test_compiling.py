"""The first wait for kernels: said before it, once, and in no figure of speed."""

import os
import re
import subprocess
import sys
import time

import pytest

pytest.importorskip("numba", reason="numba is an extra")
from numba.core import event

from npgpt.kernels.compiling import NOTICE
from npgpt.support.clock import working_time

PYTHON = """
import sys
import numpy as np
from npgpt.kernels import compiling, softmax
if {quiet}: compiling.on_compile(None)
print("before", file=sys.stderr)
for n in (1, 9): softmax(np.ones((n, 2000), np.float32))
print("after", file=sys.stderr)
"""

# A second compiler that takes six seconds, so that nobody waits for the real one.
COMMAND = """
import sys, time
from numba.core import event
from npgpt.kernels import step
run, first = step.run, [1]
def slow(*args):
    if first:
        first.clear()
        with event.trigger_event("numba:compile"):
            time.sleep(6)
    return run(*args)
step.run = slow
from npgpt.cli import main
main()
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_python_says_it_too_and_may_be_quiet(tmp_path, quiet):
    """From an empty cache; from a full one there is nothing to say."""
    program = [sys.executable, "-c", PYTHON.format(quiet=quiet)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(program, capture_output=True, text=True, env=environment)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs
    notice = [] if quiet else [NOTICE]
    assert runs[0].stderr.splitlines() == ["before", *notice, "after"]
    assert runs[1].stderr.splitlines() == ["before", "after"]


def test_the_notice_says_what_how_long_that_it_is_once_and_what_to_do():
    for part in ("compiling kernels", "half a minute", "once", "`npgpt warmup`"):
        assert part in NOTICE


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX terminal there")
def test_in_a_terminal_it_has_a_line_of_its_own_before_the_text():
    from terminals import Terminal

    arguments = ["generate", "The king had a daughter", "--model", "tales-mini",
                 "--backend", "numba", "--max-new-tokens", "4"]  # fmt: skip
    terminal = Terminal([sys.executable, "-c", COMMAND, *arguments], columns=300)
    assert terminal.end(120) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text).replace("\r\n", "\n")
    lines = text.splitlines()
    assert lines[0] == NOTICE
    assert lines[1].startswith("The king had a daughter")
    assert text.count("compiling") == 1
    speed = re.search(r"prefill (\d+) tokens at ([\d,]+) tok/s", text)
    tokens, rate = int(speed[1]), float(speed[2].replace(",", ""))
    assert tokens / rate < 5  # of which six would be the compiler's


def test_the_clock_stands_still_while_kernels_are_compiled():
    before, real = working_time(), time.perf_counter()
    with event.trigger_event("numba:compile"):
        time.sleep(0.5)
    passed, real = working_time() - before, time.perf_counter() - real
    assert real >= 0.5
    assert 0 <= passed < real - 0.4
