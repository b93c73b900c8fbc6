"""Checkpoints <-> GPT-2 parameters, strictly: the files must be what the config says.

A missing, extra, misshaped or mistyped tensor is one CheckpointError that names it.
npgpt.storage.weights and tensorfile read the bytes, npgpt.storage.hub finds the folder.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import NUMPY
from npgpt.block import MLP, Affine, Attention, Block
from npgpt.config import GENERATION, GPT2Config
from npgpt.errors import CheckpointError
from npgpt.gpt2 import GPT2Params, Weight
from npgpt.storage.names import is_buffer, is_other_head, plain
from npgpt.storage.tensorfile import (
    ENCODE,
    check_fits,
    write_atomically,
    write_bytes,
    write_safetensors,
)
from npgpt.storage.weights import WEIGHTS, read_weights
from npgpt.support.arguments import checked
from npgpt.support.notes import note


@checked(CheckpointError)
def load(folder: str | Path, dtype: str = "float32") -> GPT2Params:
    """The float32 parameters in a folder with config.json and safetensors weights.

    dtype is what they are to be computed in: for "float64" what is stored as float64
    stays so, for "bfloat16" it must fit. Raises CheckpointError, which names the tensor
    and what was expected of it.
    """
    folder = Path(folder)
    config = GPT2Config.from_file(folder / "config.json")
    tensors = read_weights(folder, dtype)
    params = from_tensors(config, tensors, where=str(folder))
    if dtype == "bfloat16":
        for name, x in named_tensors(params).items():
            check_fits(f"{folder}: tensor {name}", x, dtype)
    return params


@checked(CheckpointError)
def save(params: GPT2Params, folder: str | Path, dtype: str = "float32") -> None:
    """Write config.json and model.safetensors, readable by transformers too.

    With them goes what the config keeps of the model's generation_config.json.
    dtype is "float32", "float16" or "bfloat16"; a number that is too large for it is a
    CheckpointError. Each file appears whole or not at all.
    """
    if dtype not in ENCODE:
        raise CheckpointError(
            f"cannot save as {dtype!r}; use one of {', '.join(ENCODE)}"
        )
    folder = Path(folder)
    kind, encode = ENCODE[dtype]

    def narrow(name: str, x: Any) -> np.ndarray:
        x, what = NUMPY.to_numpy(x), f"{folder}: tensor {name}"
        if x.dtype == np.float64:
            check_fits(what, x, "float32")
        x = x.astype(np.float32, copy=False)
        check_fits(what, x, dtype)
        return encode(x)

    tensors = {
        name: (kind, array, partial(narrow, name))
        for name, array in named_tensors(params).items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            folder / WEIGHTS,
            lambda path: write_safetensors(path, tensors, {"format": "pt"}),
        )
        write_config(params.config, dtype, folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from None


def write_config(config: GPT2Config, dtype: str, folder: Path) -> None:
    """Write config.json and, where there was one, generation_config.json."""
    files = {"config.json": {**config.to_dict(), "dtype": dtype}}
    if config.generation is not None:
        files[GENERATION] = config.generation
    for name, settings in files.items():
        text = json.dumps(settings, indent=2) + "\n"
        write_bytes(folder / name, text.encode())


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
    shapes: dict[str, tuple[int, ...]] = {
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

    Names may carry prefixes (see npgpt.storage.names). Stored masks are passed over,
    and so are heads for other tasks, which a note names.
    """
    tensors = _by_plain_name(tensors, where)
    blocks = {
        int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)
    }
    if len(blocks) < config.n_layer:  # also: a lying n_layer costs no memory
        raise CheckpointError(
            f"{where}: config says n_layer {config.n_layer}, the weights hold "
            f"{len(blocks)} blocks" + (f" (h.0 to h.{max(blocks)})" if blocks else "")
        )
    head = tensors.pop("lm_head.weight", None) if config.tie_word_embeddings else None
    if head is not None and "wte.weight" not in tensors:
        tensors["wte.weight"] = (
            head  # safetensors.torch.save_model keeps one of the two
        )
    arrays = {}
    for name, shape in expected_shapes(config).items():
        if name not in tensors:
            raise CheckpointError(
                f"{where}: tensor {name} {shape} is missing{_elsewhere(name, tensors)}"
            )
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


def _by_plain_name(tensors: dict[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    heads = sorted(filter(is_other_head, tensors))
    if heads:
        note(
            f"{where}: tensor {heads[0]} is of a head for another task and is passed "
            "over" + (f" ({len(heads)} such tensors)" if len(heads) > 1 else "")
        )
    for name in tensors.keys() - set(heads):
        if is_buffer(name):
            continue
        if plain(name) in found:
            raise CheckpointError(
                f"{where}: tensor {plain(name)} is stored twice, under names with and "
                "without a prefix"
            )
        found[plain(name)] = tensors[name]
    return found


def _elsewhere(name: str, tensors: dict[str, Any]) -> str:
    """Where a missing tensor may be: under a longer name."""
    longer = [other for other in sorted(tensors) if other.endswith(f".{name}")]
    if not longer:
        return ""
    prefix = longer[0].removesuffix(name)
    return f"; there is a {longer[0]}: take {prefix!r} away from the names"
