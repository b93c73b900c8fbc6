"""Numba, imported for the first time, with what its variables NUMBA_* make of it.

They are the user's, and many of them help; but some stop Numba with a traceback from
deep inside, or let it go on with something else than was asked for. Here both are one
sentence. Every other file of kernels is imported after this one.
"""

from __future__ import annotations

import os
import warnings

from npgpt.errors import BackendError


def refusal(error: Exception) -> BackendError:
    """What stopped Numba, with the variables that it was given."""
    given = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_")]
    what = " ".join(str(error).partition("\nThe parse failed")[0].split()).rstrip(".")
    if not given:
        return BackendError(f"backend 'numba' cannot start: {what}")
    return BackendError(
        f"backend 'numba' cannot start with {' '.join(given)} ({what}); change or "
        "unset that, or use backend 'numpy'"
    )


with warnings.catch_warnings():
    # A value that is none is a warning with a traceback in it, and the default instead.
    warnings.filterwarnings("error", message="Environment variable 'NUMBA_")
    try:
        import numba
    except (RuntimeWarning, ValueError) as error:
        raise refusal(error) from None

if numba.config.DISABLE_JIT:
    raise BackendError(
        "backend 'numba' is compiled, which NUMBA_DISABLE_JIT=1 forbids; unset it, or "
        "use backend 'numpy'"
    )
