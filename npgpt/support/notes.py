"""Notes: what was passed over, said once, where nothing has to stop for it.

A note is a Python warning, so a program hides or catches it as it does others. The
command prints it as one line on stderr.
"""

from __future__ import annotations

import warnings


class Note(UserWarning):
    """Something that was passed over, in one sentence."""


def note(sentence: str) -> None:
    """Say this once in a process, or as often as Python's filters let it."""
    # Python says a text once for a module and line: all notes share this one.
    warnings.warn(sentence, Note, stacklevel=2)
