"""The README's Python runs, its order holds, and what it says of files is true."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("npgpt ")]


def test_python_examples_run():
    assert PYTHON
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(PYTHON)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "h.0.attn.weights (1, 4, 4, 4)" in done.stdout


def test_what_a_command_needs_comes_before_it():
    """Typed in order, each line finds what it needs."""

    def at(text):
        return next(i for i, line in enumerate(SHELL) if text in line)

    assert at("activate") < SHELL.index(COMMANDS[0])
    assert at("'.[lab]'") < at("npgpt compare")
    assert at("'.[numba]'\n" if False else "pip install -e '.[numba]'") < at(
        "--backend"
    )
    assert at("npgpt train story.txt --out mine") < at("npgpt generate --model mine")
    assert README.index("git clone") < README.index("cd npgpt") < README.index("pip")


def test_two_commands_do_the_set_up():
    install = [line for line in SHELL if "pip install" in line and "venv" in line]
    assert len(install) == 2
    assert install[0].endswith('npgpt generate "Once upon a time"')
    assert install[1].endswith("-m pytest")
    assert install[1] in (ROOT / ".ci" / "run").read_text()


def test_files_to_read_are_as_long_as_stated():
    rows = re.findall(r"^\| `(\S+\.py)` \| (\d+) \|", README, re.MULTILINE)
    assert rows
    for name, lines in rows:
        actual = len((ROOT / name).read_text().splitlines())
        assert abs(actual - int(lines)) <= max(10, 0.05 * actual), (name, actual)
