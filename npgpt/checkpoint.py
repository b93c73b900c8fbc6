"""safetensors files <-> GPT-2 parameters, strictly: the file must be what config says.

Float32 tensors that are aligned in the file are memory-mapped; misaligned ones (the
published gpt2 file is) and float16 or bfloat16 ones are copied once, at load. The
safetensors library checks the header, this module checks names, shapes and dtypes.
Pickles are never opened. Where a model's folder comes from is npgpt.hub's business.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import NUMPY
from npgpt.config import GPT2Config
from npgpt.errors import CheckpointError
from npgpt.gpt2 import MLP, Affine, Attention, Block, GPT2Params, Weight
from npgpt.safetensors_writer import write_safetensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
           "flax_model.msgpack", "model.ckpt.index")  # fmt: skip
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # stored causal masks
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def load(folder: str | Path) -> GPT2Params:
    """The float32 parameters in a folder with config.json and safetensors weights.

    Raises CheckpointError, which names the tensor and what was expected of it.
    """
    folder = Path(folder)
    config = GPT2Config.from_file(folder / "config.json")
    tensors = _read_all(folder)
    return from_tensors(config, tensors, where=str(folder))


def save(params: GPT2Params, folder: str | Path, dtype: str = "float32") -> None:
    """Write config.json and model.safetensors, readable by transformers too.

    dtype is "float32", "float16" or "bfloat16". Each file appears whole or not at all.
    """
    if dtype not in _ENCODE:
        raise CheckpointError(
            f"cannot save as {dtype!r}; use one of {', '.join(_ENCODE)}"
        )
    folder = Path(folder)
    config = params.config
    kind, encode = _ENCODE[dtype]
    tensors = {
        name: (kind, array.shape, lambda array=array: encode(_float32(array)))
        for name, array in named_tensors(params).items()
    }
    settings = {**config.to_dict(), "dtype": dtype}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / WEIGHTS,
            lambda path: write_safetensors(path, tensors, {"format": "pt"}),
        )
        write_atomically(
            folder / "config.json",
            lambda path: Path(path).write_text(json.dumps(settings, indent=2) + "\n"),
        )
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from None


def write_atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in place in one step."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def named_tensors(params: GPT2Params) -> dict[str, Any]:
    """Every array under its checkpoint name; a tied lm_head is not listed twice."""
    tensors = {}
    for path in expected_shapes(params.config):
        value: Any = params
        for part in path.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        tensors[path] = value
    return tensors


def expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a config implies.

    >>> expected_shapes(GPT2Config())["h.11.attn.c_attn.weight"]
    (768, 2304)
    """
    C, inner = config.n_embd, config.inner_dim
    shapes = {
        "wte.weight": (config.vocab_size, C),
        "wpe.weight": (config.n_positions, C),
    }
    for i in range(config.n_layer):
        for part, rows, columns in (
            ("attn.c_attn", C, 3 * C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", C, inner),
            ("mlp.c_proj", inner, C),
        ):
            shapes[f"h.{i}.{part}.weight"] = (rows, columns)
            shapes[f"h.{i}.{part}.bias"] = (columns,)
        for part in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{part}.weight"] = shapes[f"h.{i}.{part}.bias"] = (C,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (C,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, C)
    return shapes


def from_tensors(
    config: GPT2Config, tensors: dict[str, Any], where: str = "tensors"
) -> GPT2Params:
    """Parameters from arrays under their checkpoint names, checked against the config.

    Names may carry the prefix "transformer."; stored mask buffers are passed over.
    """
    tensors = _without_prefix(tensors, where)
    blocks = {
        int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)
    }
    if blocks and len(blocks) < config.n_layer:  # also: a lying n_layer costs no memory
        raise CheckpointError(
            f"{where}: config says n_layer {config.n_layer}, the weights hold "
            f"{len(blocks)} blocks (h.0 to h.{max(blocks)})"
        )
    head = tensors.pop("lm_head.weight", None) if config.tie_word_embeddings else None
    arrays = {}
    for name, shape in expected_shapes(config).items():
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name} {shape} is missing")
        array = tensors.pop(name)
        if tuple(array.shape) != shape:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {tuple(array.shape)}, "
                f"the config asks for {shape}"
            )
        if array.dtype.kind != "f":
            raise CheckpointError(
                f"{where}: tensor {name} is {array.dtype}, expected a float type"
            )
        arrays[name] = array
    if tensors:
        raise CheckpointError(
            f"{where}: tensor {sorted(tensors)[0]} is not part of this config's GPT-2"
            + (f" ({len(tensors)} such tensors)" if len(tensors) > 1 else "")
        )
    if head is not None and not np.array_equal(head, arrays["wte.weight"]):
        raise CheckpointError(
            f"{where}: lm_head.weight differs from wte.weight, which the config "
            "ties to it; set tie_word_embeddings to false in config.json to use both"
        )
    return _assemble(config, arrays)


def _assemble(config: GPT2Config, arrays: dict[str, Any]) -> GPT2Params:
    def affine(name: str) -> Affine:
        return Affine(arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    blocks = tuple(
        Block(
            ln_1=affine(f"h.{i}.ln_1"),
            attn=Attention(affine(f"h.{i}.attn.c_attn"), affine(f"h.{i}.attn.c_proj")),
            ln_2=affine(f"h.{i}.ln_2"),
            mlp=MLP(affine(f"h.{i}.mlp.c_fc"), affine(f"h.{i}.mlp.c_proj")),
        )
        for i in range(config.n_layer)
    )
    wte = Weight(arrays["wte.weight"])
    head = wte if config.tie_word_embeddings else Weight(arrays["lm_head.weight"])
    return GPT2Params(
        config, wte, Weight(arrays["wpe.weight"]), blocks, affine("ln_f"), head
    )


def _without_prefix(tensors: dict[str, Any], where: str) -> dict[str, Any]:
    plain = {}
    for name, array in tensors.items():
        short = name.removeprefix("transformer.")
        if _BUFFER.fullmatch(short):
            continue
        if short in plain:
            raise CheckpointError(f"{where}: tensor {short} is stored twice, with and "
                                  "without the prefix 'transformer.'")  # fmt: skip
        plain[short] = array
    return plain


def _read_all(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, from one file or the shards that the index names."""
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        raise CheckpointError(_no_weights(folder))
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        weight_map = dict(index["weight_map"])
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / INDEX}: not a safetensors index ({error})"
        ) from None
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        if not isinstance(shard, str) or shard != Path(shard).name:
            raise CheckpointError(
                f"{folder / INDEX}: {shard!r} is not a plain file name"
            )
        for name, array in read_safetensors(folder / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{folder / shard}: holds tensor {name}, which the index places in "
                    f"{weight_map.get(name)}"
                )
            tensors[name] = array
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{folder / shard}: tensor {name} is missing from it")
    return tensors


def _no_weights(folder: Path) -> str:
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if not pickles:
        return f"{folder}: no {WEIGHTS} in it"
    return (
        f"{folder}: only {pickles[0]}, which can run code when it is opened; "
        "convert it where you trust it, with two lines of transformers:\n"
        "    from transformers import GPT2LMHeadModel\n"
        f'    GPT2LMHeadModel.from_pretrained("{folder}").save_pretrained("converted")'
    )


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every float tensor of a file: a memory map where aligned float32, else a copy."""
    from safetensors import SafetensorError, safe_open

    try:
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
        if _BUFFER.fullmatch(name.removeprefix("transformer.")):
            continue
        if kind not in _WIDTHS:
            raise CheckpointError(
                f"{path}: tensor {name} is {kind}; npgpt reads {', '.join(_WIDTHS)}"
            )
        stored = raw[start + begin : start + end]
        tensors[name] = _decode(stored, kind).reshape(entry["shape"])
    return tensors


def _decode(stored: np.ndarray, kind: str) -> np.ndarray:
    """Float32 values of a tensor's bytes."""
    if kind == "F32" and stored.ctypes.data % 4 == 0:
        return np.asarray(stored).view(np.float32)
    stored = stored.copy()  # aligned from here on
    if kind == "F32":
        return np.asarray(stored).view(np.float32)
    if kind == "F16":
        return stored.view(np.float16).astype(np.float32)
    # bfloat16 is the upper half of a float32
    return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 (ties to even) of each float32, as uint16; NaN stays NaN."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def _float32(array: Any) -> np.ndarray:
    return NUMPY.to_numpy(array).astype(np.float32, copy=False)


_ENCODE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "float32": ("F32", lambda x: x),
    "float16": ("F16", lambda x: x.astype(np.float16)),
    "bfloat16": ("BF16", _to_bfloat16),
}
