"""The file of a comparison's texts: what was asked for, then a text a line of JSON.

Each text outlives the process that wrote it; a file of another comparison is refused.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npgpt.errors import CheckpointError, GridError
from npgpt.lab.grid import model_names
from npgpt.lab.plan import Plan, Text
from npgpt.storage import hub
from npgpt.support.files import check_readable


def header(plan: Plan) -> dict[str, Any]:
    """What a file of results says of itself; the number of seeds may grow."""
    header = asdict(plan) | {"settings": {s.name: s.options for s in plan.settings}}
    del header["seeds"]
    names = {plan.model, *(name for s in plan.settings for name in model_names(s))}
    if plan.judge is not None:
        names.add(plan.judge)
    header["weights"] = {name: fingerprint(name) for name in sorted(names)}
    return json.loads(json.dumps(header, default=str))


def fingerprint(name: str) -> str:
    """Eight hex digits that change with a model's config or weights.

    Of a file of weights its size, its first MiB and its last are read.
    """
    folder, mark = hub.resolve(name), 0
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        try:
            check_readable(path)
            size = path.stat().st_size
            with path.open("rb") as file:
                mark = zlib.crc32(b"%d" % size + file.read(2**20), mark)
                file.seek(max(0, size - 2**20))
                mark = zlib.crc32(file.read(), mark)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None
    return f"{mark:08x}"


class Results:
    """A file of JSON lines: what was asked for, then a text a line."""

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path, self.header = path, header

    def read(self) -> dict[tuple[str, int, int], Text]:
        """The texts that are there; a last line that was not finished is cut off."""
        try:
            with self.path.open("a+b") as file:
                file.seek(0)
                lines = file.read().split(b"\n")
                file.truncate(os.fstat(file.fileno()).st_size - len(lines[-1]))
                if len(lines) == 1:
                    first = json.dumps({"npgpt": "compare", **self.header})
                    file.write(first.encode() + b"\n")
                    return {}
        except OSError as error:
            raise GridError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from None
        self._check_header(lines[0])
        texts = {}
        for number, line in enumerate(lines[1:-1], 2):
            try:
                text = Text(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise GridError(
                    f"{self.path}, line {number}: not a text of a comparison; remove "
                    "the line, and it is written again"
                ) from None
            texts[text.setting, text.prompt, text.seed] = text
        return texts

    def _check_header(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            if found.pop("npgpt") != "compare":
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise GridError(
                f"{self.path} does not hold results of a comparison; name another file"
            ) from None
        other = [k for k, value in self.header.items() if found.get(k) != value]
        if other:
            raise GridError(
                f"{self.path} holds a comparison with other {' and '.join(other)}; "
                "give what it was begun with, or name another file"
            )

    def append(self, text: Text) -> None:
        """Add a text, so that it outlives this process."""
        with self.path.open("ab") as file:
            file.write(json.dumps(text._asdict()).encode() + b"\n")
