"""A model's folder as a whole: whether it holds one, and how one replaces another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from npgpt.config import GENERATION
from npgpt.errors import CheckpointError
from npgpt.storage.tensorfile import write_bytes
from npgpt.storage.tokenizer_files import BESIDE, PAIRS, TOKENIZER
from npgpt.storage.weights import INDEX, PACKED, PICKLES, WEIGHTS

# What a model is read from.
MODEL = ("config.json", WEIGHTS, INDEX, PACKED, *PICKLES, GENERATION, TOKENIZER,
         *BESIDE, *PAIRS[0], *PAIRS[1])  # fmt: skip


def held(folder: Path) -> list[str]:
    """The files of a model that are in a folder, the one that says most first."""
    return [name for name in MODEL if os.path.lexists(folder / name)]


def write_tokenizer(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a tokenizer's files; those that stand beside another one's go."""
    for name, content in files.items():
        write_bytes(folder / name, content)
    for name in set(BESIDE) - set(files):
        (folder / name).unlink(missing_ok=True)


def replace_model(folder: Path, make: Callable[[Path], Any]) -> None:
    """Let `make` write a model into a new folder; then its files take this one's place.

    Whatever `make` raises, the folder is what it was. Of the old model nothing stays
    that would be read with the new one, all else does.
    """
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as name:
                make(new := Path(name))
                made = {path.name for path in new.iterdir()}
                for old in set(held(folder)) - made:
                    (folder / old).unlink()
                for one in made:
                    os.replace(new / one, folder / one)
        finally:
            if not there and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from None
