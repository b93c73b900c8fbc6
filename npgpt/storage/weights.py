"""Which files of a folder hold the weights: one, or the shards that an index names.

Pickles are never opened: of them it says how transformers turns them into safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from npgpt.errors import CheckpointError
from npgpt.storage.names import is_buffer
from npgpt.storage.tensorfile import read_safetensors
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


def read_weights(folder: Path, dtype: str = "float32") -> dict[str, np.ndarray]:
    """All tensors of a folder, from one file or the shards that the index names."""
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS, is_buffer, dtype)
    if not (folder / INDEX).exists():
        raise CheckpointError(_no_weights(folder))
    weight_map = read_index(folder / INDEX)
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(weight_map.values())):
        for name, array in read_safetensors(folder / shard, is_buffer, dtype).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{folder / shard}: holds tensor {name}, which the index places in "
                    f"{weight_map.get(name)}"
                )
            tensors[name] = array
    for name, shard in weight_map.items():
        if name not in tensors and not is_buffer(name):
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
