"""Where a model's files come from: a bundled name or a local folder.

Only finds the folder; npgpt.checkpoint and npgpt.tokenizer read it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from npgpt.errors import CheckpointError


def bundled() -> list[str]:
    """Names of the models that ship with npgpt.

    >>> "tales" in bundled()
    True
    """
    root = Path(str(resources.files("npgpt.weights")))
    return sorted(path.parent.name for path in root.glob("*/config.json"))


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model: a bundled name, or a path to a folder.

    A folder called like a bundled model is reached as "./tales".
    Raises CheckpointError.
    """
    name = str(name_or_folder)
    if name in bundled():
        return Path(str(resources.files("npgpt.weights"))) / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    what = "is a file, not a model's folder" if folder.exists() else "is not a folder"
    raise CheckpointError(
        f"{name!r} {what} and not a bundled model ({', '.join(bundled())})"
    )
