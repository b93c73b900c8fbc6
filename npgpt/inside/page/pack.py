"""Which numbers a page holds, and how they become text.

A page takes an array whole or some lines of it: a line runs along one axis. Bytes are
sorted by their place in the number (all exponents side by side), which is what deflate
can use, and parameters that float16 holds exactly stay float16.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.inside.address import axes
from npgpt.inside.given import PARAMETERS
from npgpt.inside.recipes import recipes
from npgpt.inside.trace import Trace

BEST = 16  # tokens whose logit can be opened, at every position, where not all can


@dataclass
class Lines:
    """Some lines of an array: the axis along which they run, and where they stand."""

    axis: int
    at: set[int]  # of the other axes, counted row by row


class Pack:
    """Which arrays a page takes, and which lines of each; None: all of them."""

    def __init__(self, trace: Trace):
        self.trace = trace
        self.lines: dict[str, Lines | None] = {}
        self.same: dict[str, str] = {}  # name -> the one that it shares
        self.count = 0  # numbers
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str) -> np.ndarray:
        """A tap of the one reading, without its row, or a parameter."""
        if name not in self._arrays:
            trace, one = self.trace, self.trace.passes[0]
            if name in ("token", "position") or name in recipes(trace.config):
                self._arrays[name] = one.array(name, trace)[0]
            else:
                self._arrays[name] = trace.parameter(name)
        return self._arrays[name]

    def add(self, name: str, axis: int | None = None, at: Iterable[int] = ()) -> None:
        """Take an array; with an axis only these lines of it."""
        if axis is None:
            self.lines[name] = None
            self.count += self.array(name).size
            return
        lines = self.lines.setdefault(name, Lines(axis, set()))
        if lines is not None:
            new = set(at) - lines.at
            lines.at |= new
            self.count += len(new) * self.array(name).shape[axis]

    def taken(self, name: str) -> np.ndarray:
        """What a page takes of an array: all, or lines (n, length), in float16 where
        float16 holds every one of the parameters.
        """
        part, lines = self.array(name), self.lines[name]
        if lines is not None:
            part = np.moveaxis(part, lines.axis, -1)
            part = part.reshape(-1, part.shape[-1])[sorted(lines.at)]
        if name in recipes(self.trace.config):
            return part
        with np.errstate(over="ignore"):
            half = part.astype(np.float16)
        return half if np.array_equal(half.astype(part.dtype), part) else part


def parameters(trace: Trace) -> list[str]:
    """Every tensor of the checkpoint; the output head only where it has its own."""
    names = []
    for pattern in PARAMETERS:
        layers = range(trace.config.n_layer) if "{i}" in pattern else [0]
        names += [pattern.replace("{i}", str(i)) for i in layers]
    return names


def everything(trace: Trace) -> Pack:
    """All numbers of the pass and of the model."""
    pack = Pack(trace)
    for name in recipes(trace.config):
        pack.add(name)
    for name in parameters(trace):
        if not _shared(trace, name, pack):
            pack.add(name)
    return pack


def focus(trace: Trace, layer: int) -> Pack:
    """All numbers of the pass, the matrices of one layer, and of the tables the rows
    of the prompt and of its best next tokens.
    """
    pack = Pack(trace)
    for name in recipes(trace.config):
        pack.add(name)
    z = pack.array("logits")
    n = min(BEST, z.shape[-1])
    best = np.unique(np.argpartition(-z, n - 1, axis=-1)[:, :n]).tolist()
    rows = {
        "wte.weight": trace.passes[0].ids[0],
        "lm_head.weight": best,
        "wpe.weight": range(len(z)),
    }
    for name in parameters(trace):
        if name in rows:
            shared = _shared(trace, name, pack)
            pack.add(pack.same[name] if shared else name, 1, rows[name])
        elif len(axes(name, trace.config)) == 1 or name.startswith(f"h.{layer}."):
            pack.add(name)
    return pack


def _shared(trace: Trace, name: str, pack: Pack) -> bool:
    """Whether the output head is the table of embeddings."""
    if name == "lm_head.weight" and trace.config.tie_word_embeddings:
        pack.same[name] = "wte.weight"
    return name in pack.same


def packed(pack: Pack) -> tuple[list[dict[str, Any]], bytes]:
    """What stands where, and the bytes, deflated."""
    entries: list[dict[str, Any]] = []
    planes, offset = [], 0
    for name, lines in pack.lines.items():
        part = np.ascontiguousarray(pack.taken(name))
        size = part.dtype.itemsize
        little = part.astype(part.dtype.newbyteorder("<"), copy=False)
        planes.append(little.view(np.uint8).reshape(-1, size).T.tobytes())
        entry = {
            "name": name,
            "bytes": size,
            "offset": offset,
            "count": part.size,
            "shape": list(pack.array(name).shape),
        }
        if lines is not None:
            entry |= {"axis": lines.axis, "lines": sorted(lines.at)}
        entries.append(entry)
        offset += part.nbytes
    entries += [{"name": name, "same": of} for name, of in pack.same.items()]
    return entries, zlib.compress(b"".join(planes), 6)
