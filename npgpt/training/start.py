"""Before the first step: random parameters, and a process that keeps its memory."""

from __future__ import annotations

import ctypes

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import TrainingError
from npgpt.gpt2 import GPT2Params
from npgpt.storage import checkpoint
from npgpt.support.arguments import checked, shown


def keep_freed_memory() -> bool:
    """Ask the C library to keep what a training step frees for the next; if it does.

    glibc gives arrays of some megabytes back to the system one by one, and gets zeroed
    pages for the next ones. Here it keeps those of up to 32 MB, the most that it can,
    until the process ends; elsewhere (macOS, Windows, musl) nothing happens. For a
    process that does nothing but train, such as `npgpt train`.

    >>> keep_freed_memory()  # doctest: +SKIP
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(-3, 32 << 20) and mallopt(-1, (1 << 31) - 1))  # mmap, trim


@checked(TrainingError)
def init_params(config: GPT2Config, seed: int = 0) -> GPT2Params:
    """Random parameters to start from, as GPT-2's: normal numbers of deviation 0.02.

    What a block adds is made smaller by sqrt(2 L), since 2 L such additions follow one
    another; biases start at 0, norms at 1. Source: Radford et al. (2019), section 2.3.
    """
    if not 0 <= seed < 2**64:
        raise TrainingError(f"seed must be in [0, 2^64), not {shown(seed)}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    tensors = {}
    for name, shape in checkpoint.expected_shapes(config).items():
        if len(shape) > 1:
            x = rng.standard_normal(shape, dtype=np.float32)
            x *= 0.02 / (2 * config.n_layer) ** 0.5 if "c_proj" in name else 0.02
        else:
            is_scale = "ln_" in name and name.endswith("weight")
            x = np.full(shape, 1.0 if is_scale else 0.0, np.float32)
        tensors[name] = x
    return checkpoint.from_tensors(config, tensors)
