"""The scripts in tools/ start: what they import exists; --help says what they do."""

import subprocess
import sys
from pathlib import Path

import pytest

from npgpt import GPT2

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


def test_a_tiny_model_with_a_tokenizer_is_made_in_a_moment(tmp_path):
    tool = [sys.executable, TOOLS / "random_checkpoint.py", "tiny", tmp_path]
    subprocess.run(tool, check=True, capture_output=True)
    model = GPT2.from_pretrained(tmp_path)
    assert model.tokenizer.vocab_size == model.config.vocab_size
    assert len(model.generate("def", max_new_tokens=3, eos_token_id=()).ids) == 3
