"""What a model is read from must be an ordinary file: a pipe or a device never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def check_readable(path: str | Path) -> None:
    """Raise OSError unless path is an ordinary file that may be read.

    >>> check_readable(os.devnull)
    Traceback (most recent call last):
    OSError: not an ordinary file
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise OSError("not an ordinary file")
    with open(path, "rb"):
        pass
