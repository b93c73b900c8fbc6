"""What a training run keeps in its folder, and how it goes on from there.

checkpoint.safetensors holds parameters, moments and the number of steps done, with all
settings as metadata; it is replaced as a whole, and stands for the run: where there is
a model and no checkpoint, the model is somebody else's and no run begins. The model's
files follow it, so a process that is killed in between finds the run again. Of
loss.jsonl a resumed run keeps the lines up to the checkpoint: what came after them is
computed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from npgpt.backend import Backend
from npgpt.errors import CheckpointError, TrainingError
from npgpt.gpt2 import GPT2Params
from npgpt.storage import checkpoint
from npgpt.storage.folder import held
from npgpt.storage.tensorfile import (
    read_metadata,
    read_safetensors,
    write_atomically,
    write_bytes,
    write_safetensors,
)
from npgpt.storage.tokenizer_files import TOKENIZER
from npgpt.support.files import check_readable
from npgpt.support.leaves import leaves, rename_leaves
from npgpt.tokenizer import Tokenizer
from npgpt.training.optim import Moments, new_moments

CHECKPOINT, CURVE = "checkpoint.safetensors", "loss.jsonl"
# What a run that goes on may change; a new number of steps is a new way down of the
# learning rate, from where it stands.
FREE = {f"train.{name}" for name in ("steps", "eval_every", "eval_tokens",
                                     "save_every")}  # fmt: skip


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


def check_folder(out: Path, resume: bool) -> None:
    """Raise TrainingError unless a run can begin in this folder, or go on in it."""
    if os.path.lexists(out / CHECKPOINT):
        if not resume:
            raise TrainingError(
                f"{out} holds a training run already; resume it, or name another folder"
            )
    elif found := held(out):
        raise TrainingError(
            f"{out} holds a model ({found[0]}) and no {CHECKPOINT} of a run; training "
            "would replace it: name another folder"
        )
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "no writing there" if there.is_dir() else "not a folder"
        raise TrainingError(f"{out}: cannot be written ({there}: {why})")


def settings_of(out: Path) -> tuple[dict[str, Any], int]:
    """The TrainConfig of the run in a folder, by name, and its steps so far."""
    if not os.path.exists(out / CHECKPOINT):
        return {}, 0
    run, step = _read_run(out / CHECKPOINT)
    prefix = "train."
    return {
        name.removeprefix(prefix): value
        for name, value in run.items()
        if name.startswith(prefix)
    }, step


def _read_run(path: Path) -> tuple[dict[str, Any], int]:
    metadata = read_metadata(path)
    try:
        run, step = dict(json.loads(metadata["run"])), int(metadata["step"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: not a checkpoint of a training") from None
    return {"train.dtype": "float32"} | run, step  # of before there was another


def begin(
    params: Any, out: Path, run: dict[str, Any], resume: bool, backend: Backend
) -> State:
    """The state to start from: a new one, or that of the last checkpoint."""
    check_folder(out, resume)
    path, step = out / CHECKPOINT, 0
    moments = new_moments(params)
    if os.path.exists(path):
        before, step = _read_run(path)
        for key in sorted({*run, *before} - FREE):
            if run.get(key) != before.get(key):
                raise TrainingError(
                    f"{out} cannot be resumed: {key} was {before.get(key)!r}, is now "
                    f"{run.get(key)!r}; use the same, or name another folder"
                )
        if run["train.steps"] < step:
            raise TrainingError(
                f"{out} has done {step} steps, more than the {run['train.steps']} "
                "asked for; ask for more, or name another folder"
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
    return State(params, moments, step)


class Curve:
    """loss.jsonl: nothing is written before a step is done, then line by line."""

    def __init__(self, out: Path, step: int):
        self.path = out / CURVE
        self.file: IO[str] | None = None
        self.waiting = _curve_until(self.path, step)

    def add(self, record: dict[str, Any]) -> None:
        """Append a line; the first of a step puts the new curve in place."""
        self.waiting.append(json.dumps(record))
        if not record["step"]:
            return
        text = "".join(f"{line}\n" for line in self.waiting)
        try:
            if self.file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(self.path, text.encode())
                self.file = self.path.open("a", encoding="utf-8")
            else:
                self.file.write(text)
                self.file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error.strerror or error})"
                + _rest(self.path.parent)
            ) from None
        self.waiting.clear()

    def __enter__(self) -> Curve:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk has been reported
                self.file.close()


def _rest(out: Path) -> str:
    """What a message on a full disk ends with."""
    if os.path.exists(out / CHECKPOINT):
        return "; the last checkpoint is whole, make room and resume"
    return "; make room and start again"


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


def save(
    state: State,
    model: GPT2Params,
    tokenizer: Tokenizer | None,
    out: Path,
    run: dict[str, Any],
    backend: Backend,
) -> None:
    """Replace the checkpoint, then the model, each file as a whole or not at all."""
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
            f"{out / CHECKPOINT}: cannot be written ({error.strerror or error})"
            + _rest(out)
        ) from None
    save_model(model, tokenizer, out)


def save_model(model: GPT2Params, tokenizer: Tokenizer | None, out: Path) -> None:
    """The files that load as a model; a run's tokenizer stays what it was."""
    if tokenizer is not None and not os.path.exists(out / TOKENIZER):
        tokenizer.save(out)
    checkpoint.save(model, out)
