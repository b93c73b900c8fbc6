"""Trace: what a model computed, as data, after the run.

    with model.trace(names="h.*.attn.*") as trace:
        model.generate("Once upon a time")
    trace["h.0.attn.weights"]

It records through the tap of npgpt.taps, so a traced model reads by NumPy's functions,
whatever its backend is: fused kernels have no taps. What a reading held fixed (ids,
positions, masks) is kept beside the arrays (npgpt.inside.reading).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.backend import NUMPY
from npgpt.errors import InsideError
from npgpt.gpt2 import GPT2Params
from npgpt.inside.explanation import Why
from npgpt.inside.numbers import Numbers
from npgpt.inside.patch import Patch
from npgpt.inside.reading import Pass, before
from npgpt.inside.recipes import recipes
from npgpt.inside.source import caller
from npgpt.inside.stored import save_trace
from npgpt.inside.why import why
from npgpt.shapes import Array
from npgpt.support.leaves import map_leaves
from npgpt.taps import no_tap


class Trace(Numbers):
    """A recording of every reading inside its `with` block; see GPT2.trace.

    `passes` are the readings in their order. `trace[name]` is an array with the names
    of its axes (npgpt.inside.reading.Tensor), a list of them where several readings
    read; `trace[address]` one number.
    """

    def __init__(
        self,
        model: Any,
        names: str | Sequence[str] = "*",
        patch: Mapping[str, Any] | None = None,
        max_bytes: int = 2 << 30,
    ):
        super().__init__(model.config, model.params, model.tokenizer)
        self.model = model
        self.names = chosen([names] if isinstance(names, str) else names, self.config)
        self.patches = [Patch(k, v, self.config) for k, v in (patch or {}).items()]
        self.max_bytes, self.nbytes = max_bytes, 0
        self._saved: tuple[Any, ...] | None = None
        self._whole = False  # whether the last block was in this reading
        self._open: list[tuple[Pass, Any]] = []  # readings whose rows may be filled up
        self._places: list[tuple[Pass, int, int] | None] = []

    def __enter__(self) -> Trace:
        model = self.model
        if model.tap is not no_tap:
            raise InsideError("this model is being traced already")
        self._saved = model.backend, model.params, model.dtype
        if model.backend.decode_step is not None or model.backend.xp is not np:
            self.path = f"NumPy, in place of {model.backend.name} {model.dtype}"
            dtype = model.dtype if model.dtype in NUMPY.dtypes else "float32"
            model.params = self.params = plain(model.params, model.backend)
            model.backend, model.dtype = NUMPY, dtype
        model.tap = self
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        model, saved = self.model, self._saved
        assert saved is not None
        model.backend, model.params, model.dtype = saved
        del model.tap  # the class's own is no tap
        unfired = [patch.text for patch in self.patches if not patch.fired]
        if unfired and kind is None:
            raise InsideError(
                f"the patch of {', '.join(unfired)} met no number of what was read"
            )

    def why(self, address: str, depth: int = 1) -> Why | list[Why]:
        """Why a number is what it is; see GPT2.why."""
        return why(self, address, depth)

    def save(self, file: str | Path) -> None:
        """Write it as safetensors, for `load_trace`; parameters are not in it."""
        save_trace(self, file)

    # The tap

    def wants(self, name: str) -> bool:
        """Whether a tap is recorded or patched."""
        return name in self.names or any(patch.name == name for patch in self.patches)

    def begin(self, ids: np.ndarray, positions: np.ndarray, reading: Any) -> None:
        """A reading begins: what it holds fixed is kept, and what nobody saw of it."""
        one, self._whole = Pass.of(ids, positions, reading), not self.config.n_layer
        self.passes.append(one)
        self._open.append((one, reading.cache))
        for row, start in enumerate(one.start):
            if start and not self._knows(one, row, start - 1):
                one.before[row] = before(row, start, reading, one.ids[row])
                self._count(one.before[row].nbytes)

    def _knows(self, one: Pass, row: int, slot: int) -> bool:
        """Whether what the cache holds up to a token was recorded when it was read."""
        last = f"h.{self.config.n_layer - 1}.attn.k"
        return last not in self.names or self.located(last, one, row, slot) is not None

    def head(self, hidden: Array) -> None:
        """These states go through the output head: whose are they?

        By now the cache has lost what rows were filled up with.
        """
        for one, cache in self._open:
            one.ends(None if cache is None else cache.ids)
        self._open.clear()
        rows = np.asarray(self.model.backend.to_numpy(hidden))
        rows = rows.reshape(-1, rows.shape[-1])
        self._places, taken = [], set()
        for row in rows:
            key, found = row.tobytes(), None
            for one in reversed(self.passes):
                places = one.places(key)
                found = next((p for p in places if (id(one), *p) not in taken), None)
                if found is not None:
                    taken.add((id(one), *found))
                    self._places.append((one, *found))
                    break
            if found is None:
                self._places.append(None)

    def __call__(self, name: str, array: Array) -> Array:
        """Patch an intermediate, keep it where it is wanted, and hand it on."""
        if name not in self.sources:
            self.sources[name] = caller()
        if name == "logits":
            return self._logits(array)
        one = self.passes[-1]
        self._whole |= name == f"h.{self.config.n_layer - 1}.resid"
        if name == "ln_f" and not self._whole:
            return array  # of an early exit: not the model's last states
        for patch in self.patches:
            if patch.name == name:
                array = patch(array, one)
        if name in self.names:
            kept = np.array(self.model.backend.to_numpy(array))
            self._count(kept.nbytes)
            one.keep(name, kept)
        return array

    def _logits(self, array: Array) -> Array:
        for patch in self.patches:
            if patch.name == "logits":
                array = patch.of_rows(array, self._places)
        if "logits" in self.names:
            z = np.array(self.model.backend.to_numpy(array))
            self._count(z.nbytes)
            z.setflags(write=False)
            for row, place in zip(
                z.reshape(-1, z.shape[-1]), self._places, strict=True
            ):
                if place is not None:
                    place[0].logits[place[1:]] = row
        return array

    def _count(self, nbytes: int) -> None:
        self.nbytes += nbytes
        if self.nbytes > self.max_bytes:
            raise InsideError(
                f"the trace holds more than {self.max_bytes / 1e9:.1f} GB; give names="
                "'h.0.*' or the like, fewer tokens, or a larger max_bytes"
            )


def plain(params: GPT2Params, backend: Any) -> GPT2Params:
    """The parameters as NumPy arrays, whatever a backend has made of them."""
    arrays = map_leaves(
        lambda x: np.asarray(x.get() if hasattr(x, "get") else x), params
    )
    return GPT2Params(*arrays)


def chosen(patterns: Sequence[str], config: Any) -> set[str]:
    """The taps that these patterns name, virtual ones by what they are made of."""
    every, names = recipes(config), set()
    for pattern in patterns:
        found = fnmatch.filter(every, pattern)
        if not found:
            raise InsideError(
                f"no tap is called {pattern!r}; `npgpt shapes` lists all names"
            )
        names.update(found)
    queue = [name for name in names if every[name].virtual is not None]
    while queue:
        name = queue.pop()
        for full in every[name].full.values():
            if full in every and full not in names:
                names.add(full)
                queue += [full] * (every[full].virtual is not None)
    if "logits" in names:
        names.add("ln_f")  # by which the positions of logits are known
    return {name for name in names if every[name].virtual is None}
