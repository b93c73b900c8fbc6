"""Names that were meant: what somebody has almost written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def meant(word: str, known: Iterable[str]) -> str:
    """ "did you mean tales?" and what follows, or nothing where no name is near.

    >>> meant("tale", ["tales", "gpt2"]), meant("min-p", ["top_k"])
    ('did you mean tales? ', '')
    """
    bare = {_bare(name): name for name in reversed(list(known))}
    near = difflib.get_close_matches(_bare(word), bare, 1)
    return f"did you mean {bare[near[0]]}? " if near else ""


def _bare(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")
