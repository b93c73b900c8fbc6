"""What a training run keeps in its folder, and how it goes on from there.

checkpoint.safetensors holds parameters, moments and the number of steps done, with all
settings as metadata; it is replaced as a whole. Of loss.jsonl a resumed run keeps the
lines up to the checkpoint: what came after them is computed again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.backend import Backend
from npgpt.errors import CheckpointError, TrainingError
from npgpt.storage.tensorfile import (
    read_metadata,
    read_safetensors,
    write_atomically,
    write_safetensors,
)
from npgpt.support.files import check_readable
from npgpt.support.leaves import leaves, rename_leaves
from npgpt.training.optim import Moments, new_moments

CHECKPOINT, CURVE = "checkpoint.safetensors", "loss.jsonl"


class State(NamedTuple):
    """What training changes: parameters (or LoRA's), moments, steps done."""

    params: Any
    moments: Moments
    step: int


def fingerprint(ids: np.ndarray, **settings: Any) -> dict[str, Any]:
    """What must be the same for a run to go on: the text, and dataclasses by name."""
    run = {
        f"{kind}.{key}": value
        for kind, one in settings.items()
        if one is not None
        for key, value in asdict(one).items()
    }
    run["the training text"] = zlib.crc32(np.ascontiguousarray(ids).data)
    return json.loads(json.dumps(run))


def begin(
    params: Any, out: Path, run: dict[str, Any], resume: bool, backend: Backend
) -> State:
    """The state to start from: a new one, or that of the last checkpoint."""
    path, step = out / CHECKPOINT, 0
    moments = new_moments(params)
    if os.path.exists(path) and not resume:
        raise TrainingError(
            f"{out} holds a training run already; resume it, or name another folder"
        )
    if os.path.exists(path):
        metadata = read_metadata(path)
        try:
            before, step = dict(json.loads(metadata["run"])), int(metadata["step"])
        except (KeyError, ValueError, TypeError, RecursionError):
            raise CheckpointError(f"{path}: not a checkpoint of a training") from None
        before.setdefault("train.dtype", "float32")  # of before there was another
        for key in sorted({*run, *before}):
            if run.get(key) != before.get(key):
                raise TrainingError(
                    f"{out} cannot be resumed: {key} was {before.get(key)!r}, is now "
                    f"{run.get(key)!r}; use the same, or name another folder"
                )
        tensors = read_safetensors(path)

        def stored(kind: str, tree: Any) -> Any:
            found = {name: tensors.get(f"{kind}.{name}") for name in leaves(tree)}
            for name, array in leaves(tree).items():
                if getattr(found[name], "shape", None) != array.shape:
                    raise CheckpointError(
                        f"{path}: not a checkpoint of a training ({kind}.{name} is not "
                        f"an array of {array.shape})"
                    )
            arrays = {n: backend.xp.asarray(np.array(x)) for n, x in found.items()}
            return rename_leaves(tree, arrays)

        params = stored("params", params)
        moments = Moments(*(stored(k, t) for k, t in moments._asdict().items()))
    text = "".join(f"{line}\n" for line in _curve_until(out / CURVE, step))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(
            out / CURVE, lambda name: Path(name).write_text(text, encoding="utf-8")
        )
    except OSError as error:
        raise TrainingError(
            f"{out}: cannot be written ({error.strerror or error})"
        ) from None
    return State(params, moments, step)


def _curve_until(path: Path, step: int) -> list[str]:
    """The lines of the curve up to this step, none where it has to be drawn anew."""
    if not step:
        return []
    try:
        check_readable(path)
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror or error}); the run needs it to "
            "go on"
        ) from None
    return [line for line in lines if _is_until(line, step)]


def _is_until(line: str, step: int) -> bool:
    """Whether a line of the curve is whole and of a step up to this one."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def save(state: State, out: Path, run: dict[str, Any], backend: Backend) -> None:
    """Replace the checkpoint, as one file or not at all."""
    tensors = {
        f"{kind}.{name}": ("F32", array, backend.to_numpy)
        for kind, tree in (("params", state.params), *state.moments._asdict().items())
        for name, array in leaves(tree).items()
    }
    metadata = {"step": str(state.step), "run": json.dumps(run)}
    try:
        write_atomically(
            out / CHECKPOINT, lambda path: write_safetensors(path, tensors, metadata)
        )
    except OSError as error:
        raise CheckpointError(
            f"{out / CHECKPOINT}: cannot be written ({error.strerror or error}); the "
            "one before it is whole, make room and resume"
        ) from None
