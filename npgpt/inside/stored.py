"""A trace in a file: its arrays as safetensors, what each reading held fixed beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import InsideError
from npgpt.inside.numbers import Numbers
from npgpt.inside.reading import Pass
from npgpt.inside.source import Source

FORMAT = "npgpt trace 1"


def save_trace(trace: Numbers, file: str | Path) -> None:
    """Write a trace; parameters are not in it. Raises InsideError if that fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    said: list[dict[str, Any]] = []
    for step, one in enumerate(trace.passes):
        said.append(_store(one, f"{step}/", arrays))
        held = {
            str(row): _store(old, f"{step}/{row}<", arrays)
            for row, old in one.before.items()
        }
        said[-1]["before"] = held
    for name, gradient in trace.gradients.items():
        arrays[f"gradient/{name}"] = np.ascontiguousarray(gradient)
    about = {
        "format": FORMAT,
        "passes": said,
        "names": sorted(trace.names),
        "sources": {name: list(source) for name, source in trace.sources.items()},
        "path": trace.path,
    }
    try:
        save_file(arrays, file, {"about": json.dumps(about)})
    except OSError as error:
        raise InsideError(
            f"{file}: cannot be written ({error.strerror or error})"
        ) from None
    except SafetensorError as error:  # as the library says of a disk or a folder
        raise InsideError(f"{file}: cannot be written ({error})") from None


def load_trace(file: str | Path, model: Any) -> Numbers:
    """A trace out of a file, with the parameters of the model that it is of."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as stored:
            about = json.loads((stored.metadata() or {})["about"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InsideError(f"{file}: not a trace that npgpt saved ({error})") from None
    if about.get("format") != FORMAT:
        raise InsideError(f"{file}: not a trace of this version of npgpt")
    found = Numbers(model.config, model.params, model.tokenizer)
    found.path, found.names = about["path"], set(about["names"])
    found.sources = {name: Source(*parts) for name, parts in about["sources"].items()}
    for step, said in enumerate(about["passes"]):
        one = _restore(said, f"{step}/", arrays)
        one.before = {
            int(row): _restore(old, f"{step}/{row}<", arrays)
            for row, old in said["before"].items()
        }
        found.passes.append(one)
    mark = "gradient/"
    found.gradients = {
        name.removeprefix(mark): array
        for name, array in arrays.items()
        if name.startswith(mark)
    }
    found.nbytes = sum(array.nbytes for array in arrays.values())
    return found


def _store(one: Pass, mark: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    for name, array in one.arrays.items():
        arrays[mark + name] = np.ascontiguousarray(array)
    arrays[f"{mark}position"] = np.ascontiguousarray(one.positions)
    if one.mask is not None:
        arrays[f"{mark}mask"] = np.ascontiguousarray(one.mask)
    places = sorted(one.logits)
    if places:
        arrays[f"{mark}logits"] = np.stack([one.logits[place] for place in places])
    return {
        "ids": one.ids,
        "start": one.start,
        "end": one.end,
        "causal": one.causal,
        "places": places,
    }


def _restore(said: dict[str, Any], mark: str, arrays: dict[str, np.ndarray]) -> Pass:
    one = Pass(
        said["ids"],
        said["start"],
        arrays[f"{mark}position"],
        said["causal"],
        arrays.get(f"{mark}mask"),
    )
    one.end = said["end"]
    given = ("position", "mask", "logits")
    for name, array in arrays.items():
        own = name.removeprefix(mark)
        if name.startswith(mark) and "<" not in own and own not in given:
            one.keep(own, array)
    if said["places"]:
        rows = arrays[f"{mark}logits"]
        one.logits = {tuple(p): z for p, z in zip(said["places"], rows, strict=True)}
    return one
