"""What this machine is, in a line, and what the Numba kernels use of it."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from npgpt.backend import get_backend


def machine(threads: int) -> str:
    """The processor's name, so many threads, and the kernels' tier."""
    from npgpt.kernels.tiers import current

    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{processor}, {threads} threads, tier {current()}"


def kernels() -> dict[str, Any] | None:
    """What the Numba backend would use here; None where Numba is not installed.

    Raises BackendError where it is, and cannot be used.
    """
    if find_spec("numba") is None:
        return None
    get_backend("numba")
    from npgpt.kernels import tiers
    from npgpt.kernels.compiling import set_threads

    return {
        "tier": tiers.current(),
        "tiers": list(tiers.available()),
        "threads": set_threads(),
    }
