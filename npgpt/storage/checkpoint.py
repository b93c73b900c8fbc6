"""Checkpoints <-> GPT-2 parameters, strictly: the files must be what the config says.

A missing, extra, misshaped or mistyped tensor is one CheckpointError that names it.
Pickles are never opened. npgpt.storage.tensorfile reads the bytes, npgpt.storage.hub
finds the folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import NUMPY
from npgpt.block import MLP, Affine, Attention, Block
from npgpt.config import GPT2Config
from npgpt.errors import CheckpointError
from npgpt.gpt2 import GPT2Params, Weight
from npgpt.storage.tensorfile import (
    ENCODE,
    read_safetensors,
    write_atomically,
    write_safetensors,
)
from npgpt.support.arguments import checked
from npgpt.support.files import check_readable

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PACKED = "packed.safetensors"  # npgpt convert --packed
PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.ckpt.index",
)
_BUFFER = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")  # causal masks


@checked(CheckpointError)
def load(folder: str | Path) -> GPT2Params:
    """The float32 parameters in a folder with config.json and safetensors weights.

    Raises CheckpointError, which names the tensor and what was expected of it.
    """
    folder = Path(folder)
    config = GPT2Config.from_file(folder / "config.json")
    tensors = _read_all(folder)
    return from_tensors(config, tensors, where=str(folder))


@checked(CheckpointError)
def save(params: GPT2Params, folder: str | Path, dtype: str = "float32") -> None:
    """Write config.json and model.safetensors, readable by transformers too.

    dtype is "float32", "float16" or "bfloat16". Each file appears whole or not at all.
    """
    if dtype not in ENCODE:
        raise CheckpointError(
            f"cannot save as {dtype!r}; use one of {', '.join(ENCODE)}"
        )
    folder = Path(folder)
    kind, encode = ENCODE[dtype]
    tensors = {
        name: (kind, array, lambda x: encode(NUMPY.to_numpy(x).astype(np.float32)))
        for name, array in named_tensors(params).items()
    }
    settings = {**params.config.to_dict(), "dtype": dtype}
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


@checked(CheckpointError)
def named_tensors(params: GPT2Params) -> dict[str, Any]:
    """Every array under its checkpoint name; a tied lm_head is not listed twice."""
    tensors = {}
    for path in expected_shapes(params.config):
        value: Any = params
        for part in path.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        tensors[path] = value
    return tensors


@checked(CheckpointError)
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


@checked(CheckpointError)
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
    if len(blocks) < config.n_layer:  # also: a lying n_layer costs no memory
        raise CheckpointError(
            f"{where}: config says n_layer {config.n_layer}, the weights hold "
            f"{len(blocks)} blocks" + (f" (h.0 to h.{max(blocks)})" if blocks else "")
        )
    head = tensors.pop("lm_head.weight", None) if config.tie_word_embeddings else None
    arrays = {}
    for name, shape in expected_shapes(config).items():
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name} {shape} is missing")
        array = tensors.pop(name)
        if not hasattr(array, "dtype"):
            raise CheckpointError(f"{where}: tensor {name} is not an array")
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
        if _is_buffer(name):
            continue
        if short in plain:
            raise CheckpointError(
                f"{where}: tensor {short} is stored twice, with and without the prefix "
                "'transformer.'"
            )
        plain[short] = array
    return plain


def _is_buffer(name: str) -> bool:
    return _BUFFER.fullmatch(name) is not None


def _read_all(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, from one file or the shards that the index names."""
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS, _is_buffer)
    if not (folder / INDEX).exists():
        raise CheckpointError(_no_weights(folder))
    weight_map = read_index(folder / INDEX)
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(weight_map.values())):
        for name, array in read_safetensors(folder / shard, _is_buffer).items():
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


@checked(CheckpointError)
def read_index(path: str | Path) -> dict[str, str]:
    """Tensor name -> shard of model.safetensors.index.json, each a plain file name."""
    try:
        check_readable(path)
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        weight_map = dict(index["weight_map"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a safetensors index ({error})") from None
    for shard in weight_map.values():
        if not isinstance(shard, str) or shard != Path(shard).name:
            raise CheckpointError(f"{path}: {shard!r} is not a plain file name")
        if not shard.endswith(".safetensors"):  # download would fetch a pickle
            raise CheckpointError(f"{path}: {shard!r} is not a .safetensors file")
    return weight_map


def _no_weights(folder: Path) -> str:
    if (folder / PACKED).exists():
        return f"{folder}: holds packed weights, which the numba backend reads"
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if not pickles:
        return f"{folder}: no {WEIGHTS} in it"
    return how_to_convert(str(folder), str(folder), pickles[0])


def how_to_convert(where: str, name: str, pickle: str) -> str:
    """Why a pickle is refused, and what transformers makes of it."""
    return (
        f"{where}: only {pickle}, which can run code when it is opened; "
        "convert it where you trust it, with two lines of transformers:\n"
        "    from transformers import GPT2LMHeadModel\n"
        f'    GPT2LMHeadModel.from_pretrained("{name}").save_pretrained("converted")'
    )
