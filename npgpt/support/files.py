"""Files that a model is read from: ordinary ones, and what is mapped of them."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np


def check_readable(path: str | Path) -> None:
    """Raise OSError unless path is an ordinary file that may be read.

    A pipe or a device never ends.

    >>> check_readable(os.devnull)
    Traceback (most recent call last):
    OSError: not an ordinary file
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise OSError("not an ordinary file")
    with open(path, "rb"):
        pass


def forget(array: np.ndarray) -> None:
    """Let the system drop the pages of the mapped file that this array is a view of.

    Who copies a checkpoint calls this as he goes: else the file and the copy would both
    be in memory at the end. What is read once more comes from the file once more. An
    array of another kind, and a system that cannot, stay as they are.
    """
    base: Any = None if array.flags.writeable else array  # a private map may be changed
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
