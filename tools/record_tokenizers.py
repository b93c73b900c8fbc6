"""Record the ids that transformers' AutoTokenizer gives for tests/tokenizer_cases.py.

Needs the extra "peers". Writes tests/fixtures/tokenizers.json.
"""

import json
import sys
import tempfile
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import FIXTURES
from tokenizer_cases import CASES, TEXT, write


def ids(case):
    """What transformers makes of the text with the files of a case."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            write(Path(folder), case)
        )
    return tokenizer(TEXT)["input_ids"]


if __name__ == "__main__":
    version = f"transformers {transformers.__version__}"
    lines = [f"{json.dumps(case)}: {json.dumps(ids(case))}" for case in CASES]
    text = ",\n".join([f'"version": "{version}"', *lines])
    (FIXTURES / "tokenizers.json").write_text(f"{{\n{text}\n}}\n")
