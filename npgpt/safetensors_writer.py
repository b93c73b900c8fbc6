"""Writes safetensors files: eight bytes of length, a JSON header, then the numbers.

Written here and not by the library because its writer changed its arguments from one
release to the next, and because the library wants all tensors converted at once: here
one at a time is converted and written. Reading is npgpt.checkpoint's business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

ALIGNMENT = 64  # where the data starts: a memory map of it suits vector instructions
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "U16": 2, "I32": 4}


def write_safetensors(
    path: str | Path,
    tensors: dict[str, tuple[str, tuple[int, ...], Callable[[], np.ndarray]]],
    metadata: dict[str, str],
) -> None:
    """Write tensors, given as name: (dtype, shape, a function that returns the numbers).

    dtype is the format's ("F32", "BF16", ...); the function is called when its turn
    comes, and its array's bytes are what is written, in C order, little-endian.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    # Wider numbers first: then every tensor is aligned to its own width.
    order = sorted(tensors, key=lambda name: -_SIZES[tensors[name][0]])
    for name in order:
        kind, shape, _ = tensors[name]
        end = offset + math.prod(shape) * _SIZES[kind]
        header[name] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            kind, shape, numbers = tensors[name]
            array = np.ascontiguousarray(numbers())
            if array.nbytes != math.prod(shape) * _SIZES[kind]:
                raise ValueError(f"{name}: {array.nbytes} bytes do not fill {shape}")
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(array.reshape(-1).view(np.uint8).data)
