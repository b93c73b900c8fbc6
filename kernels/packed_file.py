"""Packed checkpoints: the kernels' buffers as a safetensors file, mapped at load.

packed.safetensors holds every array of npgpt.kernels.prepare.Buffers as raw bytes (U8);
its metadata names the dtype, the layout and the tier. The layout is the same on every
tier, so a file made on one processor is right on all. config.json stands beside it.
Nothing is computed at load, and pages come from disk as they are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import CheckpointError
from npgpt.kernels.packed import SCALE, STORED, Packed, sizes
from npgpt.kernels.prepare import (
    Buffers,
    PackedParams,
    assemble,
    matrices,
    vector_lengths,
)
from npgpt.kernels.tiers import current
from npgpt.support.arguments import checked
from npgpt.support.files import check_readable

FILE = "packed.safetensors"
LAYOUT = "panels of 16, groups of 64, version 2"


@checked(CheckpointError)
def save_packed(params: PackedParams, folder: str | Path) -> None:
    """Write config.json and packed.safetensors; each appears whole or not at all."""
    from npgpt.storage.checkpoint import write_config
    from npgpt.storage.tensorfile import write_atomically

    folder, buffers = Path(folder), params.buffers
    if buffers is None:
        raise CheckpointError("these parameters are not packed as a whole")
    arrays = _arrays(buffers)
    header: dict[str, Any] = {
        "__metadata__": {"dtype": buffers.dtype, "layout": LAYOUT, "tier": current()}
    }
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": "U8", "shape": [array.nbytes], "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)

    def write(path: str) -> None:
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.reshape(-1).view(np.uint8).data)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, write)
        write_config(params.config, buffers.dtype, folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from None


@checked(CheckpointError)
def load_prepared(folder: str | Path, dtype: str) -> PackedParams | None:
    """The packed parameters of a folder that holds them and no plain weights."""
    folder = Path(folder)
    if not (folder / FILE).exists() or (folder / "model.safetensors").exists():
        return None
    return load_packed(folder, dtype)


@checked(CheckpointError)
def load_packed(folder: str | Path, dtype: str) -> PackedParams:
    """Map a packed checkpoint; raises CheckpointError where it is not what it says."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / FILE
    config = GPT2Config.from_file(Path(folder) / "config.json")
    try:
        check_readable(path)
        with safe_open(path, framework="np") as file:  # checks the header
            metadata = file.metadata() or {}
        # copy-on-write: Numba must not see a read-only array as another type
        raw = np.memmap(path, np.uint8, mode="c")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a packed checkpoint ({error})") from None
    if metadata.get("layout") != LAYOUT:
        raise CheckpointError(
            f"{path}: layout {metadata.get('layout')!r} is not this version's; convert "
            "the model once more with `npgpt convert --packed`"
        )
    if metadata.get("dtype") != dtype:
        raise CheckpointError(
            f"{path}: packed as {metadata.get('dtype')}; load it with that dtype, or "
            f"convert the model to {dtype}"
        )
    found = {}
    for name, (kind, shape) in _expected(config, dtype).items():
        entry = header.get(name)
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        if entry is None or entry["dtype"] != "U8" or entry["shape"] != [size]:
            raise CheckpointError(f"{path}: {name} is not there, or not {size} bytes")
        begin, end = entry["data_offsets"]
        part = np.asarray(raw[start + begin : start + end])
        if part.ctypes.data % np.dtype(kind).itemsize:
            part = part.copy()
        found[name] = part.view(kind).reshape(shape)
    C, V = config.n_embd, config.vocab_size
    table = Packed(found["table"], found["table_scales"], C, V, dtype, True)
    head = table
    if not config.tie_word_embeddings:
        head = Packed(found["head"], found["head_scales"], C, V, dtype, True)
    names = ("data", "scales", "vectors")
    buffers = Buffers(
        dtype, *(found[n] for n in names), table, head, found["wpe"], found["ln_f"]
    )
    return assemble(config, buffers)


def _arrays(buffers: Buffers) -> dict[str, np.ndarray]:
    # Weights first: whole panels, so each of them starts at a multiple of 64 bytes
    arrays = {"data": buffers.data, "table": buffers.table.data}
    others = {
        "scales": buffers.scales, "table_scales": buffers.table.scales,
        "vectors": buffers.vectors, "wpe": buffers.wpe, "ln_f": buffers.ln_f,
    }  # fmt: skip
    if buffers.head is not buffers.table:
        arrays.update(head=buffers.head.data)
        others.update(head_scales=buffers.head.scales)
    return arrays | others


def _expected(config: GPT2Config, dtype: str) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Number type and shape of every array of the file."""
    parts = [sizes(n, m, dtype) for n, m in matrices(config)]
    L, C = config.n_layer, config.n_embd
    table, table_scales = sizes(C, config.vocab_size, dtype)
    found = {
        "data": (STORED[dtype], (L, sum(d for d, _ in parts))),
        "scales": (SCALE, (L, sum(s for _, s in parts))),
        "vectors": (np.float32, (L, sum(vector_lengths(config)))),
        "table": (STORED[dtype], (table,)),
        "table_scales": (SCALE, (table_scales,)),
        "wpe": (np.float32, (config.n_positions, C)),
        "ln_f": (np.float32, (2, C)),
    }
    if not config.tie_word_embeddings:
        found.update(head=found["table"], head_scales=found["table_scales"])
    return found
