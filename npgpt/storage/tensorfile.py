"""Files of tensors in the safetensors format: 8 bytes of length, a JSON header, data.

Float32 tensors that are aligned in the file are memory-mapped; misaligned ones (the
published gpt2 file's are) and float16 or bfloat16 ones are copied once. The safetensors
library checks the header before anything is believed. Which names and shapes make a
model is npgpt.storage.checkpoint's business.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.bfloat16 import from_bfloat16, to_bfloat16
from npgpt.errors import CheckpointError
from npgpt.support.files import check_readable

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}  # bytes a number
# The largest number of a type, and the least that is rounded to infinity: it lies half
# a last place above.
LARGEST = {
    "float16": (65504.0, 65520.0),
    "bfloat16": (2.0**128 - 2.0**120, 2.0**128 - 2.0**119),
    "float32": (2.0**128 - 2.0**104, 2.0**128 - 2.0**103),
}


def read_safetensors(
    path: Path,
    skip: Callable[[str], bool] = lambda name: False,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Every float tensor of a file: a memory map where aligned float32, else a copy.

    Names for which `skip` is true are passed over, whatever their type. All become
    float32; with dtype "float64" those that are stored as such stay so.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_readable(path)
        # The library refuses every header that lies: lengths, offsets, overlaps, sizes.
        with safe_open(path, framework="np") as file:
            names = set(file.keys())
        raw = np.memmap(path, np.uint8, mode="r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({reason})"
        ) from None
    tensors = {}
    for name in names:
        entry = header[name]
        kind, (begin, end) = entry["dtype"], entry["data_offsets"]
        if skip(name):
            continue
        if kind not in WIDTHS:
            raise CheckpointError(
                f"{path}: tensor {name} is {kind}; npgpt reads {', '.join(WIDTHS)}"
            )
        array = _decode(raw[start + begin : start + end], kind)
        if kind == "F64" and dtype != "float64":
            check_fits(f"{path}: tensor {name}", array, "float32")
            array = array.astype(np.float32)
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that were stored beside the tensors of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        check_readable(path)
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error})"
        ) from None


def _decode(stored: np.ndarray, kind: str) -> np.ndarray:
    """Values of a tensor's bytes: float32, of float64 ones float64."""
    if kind == "F32" and stored.ctypes.data % 4 == 0:
        return np.asarray(stored).view(np.float32)
    stored = stored.copy()  # aligned from here on
    if kind == "F32":
        return np.asarray(stored).view(np.float32)
    if kind == "F64":
        return np.asarray(stored).view(np.float64)
    if kind == "F16":
        return stored.view(np.float16).astype(np.float32)
    return from_bfloat16(stored.view(np.uint16))


def check_fits(what: str, x: np.ndarray, dtype: str) -> None:
    """Raise CheckpointError if a finite number would become infinite as `dtype`.

    >>> check_fits("wte.weight", np.float32([1.0, -1e6]), "float16")
    Traceback (most recent call last):
    npgpt.errors.CheckpointError: wte.weight holds -1e+06, and the largest float16 is \
65504; use a wider dtype
    """
    largest, limit = LARGEST[dtype]
    # In Python's floats: as a float32 the limit itself would be infinite.
    if not x.size or max(float(x.max()), -float(x.min())) < limit:
        return
    over = x[np.isfinite(x) & (abs(x.astype(np.float64)) >= limit)]
    if over.size:
        raise CheckpointError(
            f"{what} holds {over.flat[0]:.6g}, and the largest {dtype} is "
            f"{largest:.6g}; use a wider dtype"
        )


ENCODE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "float32": ("F32", lambda x: x),
    "float16": ("F16", lambda x: x.astype(np.float16)),
    "bfloat16": ("BF16", to_bfloat16),
}


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, tuple[str, Any, Callable[[Any], np.ndarray]]],
    metadata: dict[str, str],
) -> None:
    """Write name -> (kind, array, encode): encode(array) holds the bytes of that kind.

    One tensor is encoded at a time, so a model is never in memory twice.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (kind, array, _) in tensors.items():
        begin, end = end, end + math.prod(array.shape) * WIDTHS[kind]
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the first tensor starts aligned to 64
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array, encode in tensors.values():
            file.write(np.ascontiguousarray(encode(array)).data)


def write_atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place in one step.

    The new file is on the disk before it takes the old one's name: whatever happens,
    one of the two is there, whole. A link stays a link; a pipe or a device (/dev/null)
    is written into, never replaced.
    """
    import tempfile  # a tenth of the time that `import npgpt` would take

    if path.exists() and not path.is_file():
        write(str(path))
        return
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Make this the content of a file, as a whole or not at all."""
    write_atomically(path, lambda name: Path(name).write_bytes(content))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
