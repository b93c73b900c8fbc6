"""Which numbers a page holds, and how they become text.

A page takes an array whole or some lines of it: a line runs along one axis. Bytes are
sorted by their place in the number (all exponents side by side), which is what deflate
can use, and parameters that float16 holds exactly stay float16.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npgpt.inside.address import axes
from npgpt.inside.numbers import Numbers
from npgpt.inside.recipes import PARAMETERS, recipes
from npgpt.inside.trace import Trace

BEST = 16  # tokens whose logit can be opened, at every position, where not all can


@dataclass
class Lines:
    """Some lines of an array: the axis along which they run, and where they stand."""

    axis: int
    at: set[int]  # of the other axes, counted row by row


@dataclass
class Pack:
    """Arrays by name, without the axis of rows, and which lines of each; None: all."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    lines: dict[str, Lines | None] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # name -> the one it shares

    def add(
        self, trace: Trace, name: str, axis: int | None = None, at: Any = ()
    ) -> None:
        """Take an array; with an axis only these lines of it."""
        if name not in self.arrays:
            self.arrays[name] = array(trace, name)
            self.lines[name] = None if axis is None else Lines(axis, set())
        lines = self.lines[name]
        if axis is None:
            self.lines[name] = None
        elif lines is not None:
            lines.at.update(at)

    @property
    def nbytes(self) -> int:
        """Bytes, before they are packed."""
        return sum(taken(x, self.lines[name]).nbytes for name, x in self.arrays.items())


def array(trace: Numbers, name: str) -> np.ndarray:
    """A tap of the one reading without its row, or a parameter, as small as it is."""
    if name in ("token", "position") or name in recipes(trace.config):
        return trace.passes[0].array(name, trace)[0]
    found = trace.parameter(name)
    with np.errstate(over="ignore"):
        half = found.astype(np.float16)
    return half if np.array_equal(half.astype(found.dtype), found) else found


def taken(x: np.ndarray, lines: Lines | None) -> np.ndarray:
    """The lines of an array that a page takes (n, length), or all of it."""
    if lines is None:
        return x
    last = np.moveaxis(x, lines.axis, -1)
    return last.reshape(-1, last.shape[-1])[sorted(lines.at)]


def parameters(trace: Trace) -> list[str]:
    """Every tensor of the checkpoint; the output head only where it has its own."""
    names = []
    for pattern in PARAMETERS:
        layers = range(trace.config.n_layer) if "{i}" in pattern else [0]
        names += [pattern.replace("{i}", str(i)) for i in layers]
    return names


def everything(trace: Trace) -> Pack:
    """All numbers of the pass and of the model."""
    pack = Pack()
    for name in recipes(trace.config):
        pack.add(trace, name)
    for name in parameters(trace):
        if not _shared(trace, name, pack):
            pack.add(trace, name)
    return pack


def focus(trace: Trace, layer: int) -> Pack:
    """All numbers of the pass, the matrices of one layer, and of the tables the rows
    of the prompt and of its best next tokens.
    """
    pack = Pack()
    for name in recipes(trace.config):
        pack.add(trace, name)
    z = pack.arrays["logits"]
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
            pack.add(trace, pack.same[name] if shared else name, 1, rows[name])
        elif len(axes(name, trace.config)) == 1 or name.startswith(f"h.{layer}."):
            pack.add(trace, name)
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
    for name, whole in pack.arrays.items():
        lines = pack.lines[name]
        part = np.ascontiguousarray(taken(whole, lines))
        size = part.dtype.itemsize
        little = part.astype(part.dtype.newbyteorder("<"), copy=False)
        planes.append(little.view(np.uint8).reshape(-1, size).T.tobytes())
        entry = {
            "name": name,
            "bytes": size,
            "offset": offset,
            "count": part.size,
            "shape": list(whole.shape),
        }
        if lines is not None:
            entry |= {"axis": lines.axis, "lines": sorted(lines.at)}
        entries.append(entry)
        offset += part.nbytes
    entries += [{"name": name, "same": of} for name, of in pack.same.items()]
    return entries, zlib.compress(b"".join(planes), 6)
