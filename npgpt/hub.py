"""Where a model's files come from: a bundled name or a local folder.

Only finds the folder; npgpt.checkpoint and npgpt.tokenizer read it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from npgpt.errors import CheckpointError


def bundled() -> dict[str, Path]:
    """The models that ship with npgpt: name and folder.

    >>> "tales" in bundled()
    True
    """
    try:
        root = Path(str(resources.files("npgpt.weights")))
    except ModuleNotFoundError:  # a clone that was not installed with -e
        return {}
    return {
        path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))
    }


def resolve(name_or_folder: str | Path) -> Path:
    """The folder of a model: a bundled name, or a path to a folder.

    A folder called like a bundled model is reached as "./tales".
    Raises CheckpointError.
    """
    name, models = str(name_or_folder), bundled()
    if name in models:
        return models[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    what = "is a file, not a model's folder" if folder.exists() else "is not a folder"
    ours = ", ".join(models) or "none here: install with `pip install -e .`"
    raise CheckpointError(f"{name!r} {what} and not a bundled model ({ours})")
