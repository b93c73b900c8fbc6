"""The checker that conftest.py hooks into every module with shapes in its signatures.

Annotations that name an array's dtype and shape are checked at every call. The other
types are mypy's business: what a user may pass wrongly is refused by the code itself,
in a sentence, and the suite tries that too.
"""

import re

from beartype import beartype

SHAPED = re.compile(r"\b(?:Bool|Float|Int|Int64|UInt64)\[")


def check(function):
    """The function, called with the annotations that have a shape in them checked."""
    kept = {
        name: hint
        for name, hint in function.__annotations__.items()
        if SHAPED.search(hint if isinstance(hint, str) else repr(hint))
    }
    function.__annotations__ = kept
    return beartype(function)
