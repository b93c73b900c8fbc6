"""One reading of a traced model: what it held fixed, and the arrays that were kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.errors import InsideError
from npgpt.inside.derivatives import every
from npgpt.inside.given import GIVEN
from npgpt.inside.heatmap import heatmap
from npgpt.support.notebook import escaped

Places = list[tuple[int, int]]


class Pass:
    """T new tokens a row behind those that a cache held.

    ids: of every row, those held and the new ones. start: where each row's new ones
    begin, so that token t stands at t - start in an array. S: tokens of the longest
    row. end: where each row's own tokens end, and what it was filled up with begins.
    before: what the cache held of a row that this trace had not seen.
    """

    def __init__(
        self,
        ids: list[list[int]],
        start: list[int],
        positions: np.ndarray,
        causal: bool = True,
        mask: np.ndarray | None = None,
    ):
        self.ids, self.start, self.positions = ids, start, positions
        self.causal, self.mask = causal, mask
        self.T = positions.shape[1]
        self.S = max(start) + self.T
        self.end = [begin + self.T for begin in start]
        self.arrays: dict[str, np.ndarray] = {}
        self.logits: dict[tuple[int, int], np.ndarray] = {}
        self.before: dict[int, Pass] = {}
        self._made: dict[str, np.ndarray] = {}
        self._keys: dict[bytes, Places] | None = None

    @classmethod
    def of(cls, ids: np.ndarray, positions: np.ndarray, reading: Any) -> Pass:
        """The reading that begins."""
        cache, B = reading.cache, len(ids)
        held = [[] for _ in range(B)] if cache is None else cache.ids
        texts = [[*old, *new] for old, new in zip(held, ids.tolist(), strict=True)]
        places = np.broadcast_to(np.asarray(positions), ids.shape)
        mask = reading.mask
        if mask is not None:
            mask = np.asarray(reading.backend.to_numpy(mask))
        return cls(texts, [len(old) for old in held], places, reading.causal, mask)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def keep(self, name: str, array: np.ndarray) -> None:
        """Take an array up; nobody writes into it any more."""
        array.setflags(write=False)
        self.arrays[name] = array

    def reads(self, row: int, slot: int) -> bool:
        """Whether a token is one of this reading's own."""
        return self.start[row] <= slot < self.end[row]

    def ends(self, held: list[list[int]] | None) -> None:
        """The rows without what they were filled up with, as the cache has them."""
        if held is not None:
            self.end = [min(n, len(ids)) for n, ids in zip(self.end, held, strict=True)]
            self.ids = [ids[:n] for n, ids in zip(self.end, self.ids, strict=True)]

    def sees(self, row: int, t: int, s: int) -> bool:
        """Whether token t may look at token s."""
        if s >= self.S or (self.causal and s > t):
            return False
        if self.mask is None:
            return True
        mask = self.mask[min(row, len(self.mask) - 1)]
        return bool(mask[t - self.start[row], s])

    def given(self, name: str, row: int, t: int, i: int = 0) -> bool:
        """What a formula asks of the text itself: see npgpt.inside.recipes.GIVEN."""
        ids = self.ids[row]
        if name == "sees":
            return self.sees(row, t, i)
        if name == "reads":
            return ids[t] == i
        if name == "stands":
            return int(self.positions[row, t - self.start[row]]) == i
        follows = t + 1 < len(ids)
        return follows and (name == "counted" or ids[t + 1] == i)

    @property
    def count(self) -> int:
        """Tokens that another follows, over all rows."""
        return sum(len(ids) - 1 for ids in self.ids)

    def _given_array(self, name: str, sizes: dict[str, int]) -> np.ndarray:
        """hit (B, T, V) or counted (B, T), whole."""
        n = sizes["v"] if name == "hit" else 1
        made = np.zeros((len(self.ids), self.T, n), np.float32)
        for row, ids in enumerate(self.ids):
            following = ids[self.start[row] + 1 :]
            at = range(len(following))
            made[row, at, following if name == "hit" else 0] = 1
        return made if name == "hit" else made[..., 0]

    def places(self, key: bytes) -> Places:
        """The (row, token) whose last hidden state has these bytes."""
        if self._keys is None:
            self._keys = {}
            hidden = self.arrays.get("ln_f")
            for row, states in enumerate(() if hidden is None else hidden):
                for t, state in enumerate(states):
                    place = row, self.start[row] + t
                    self._keys.setdefault(state.tobytes(), []).append(place)
        return self._keys.get(key, [])

    def has(self, name: str, trace: Any) -> bool:
        """Whether an array was kept, or can be computed from what was."""
        if name in GIVEN or name in self.arrays:
            return True
        if name == "logits":
            return bool(self.logits)
        bound = every(trace.config).get(name)
        if bound is None or bound.virtual is None:
            return False
        of_taps = [x for x in bound.full.values() if x in every(trace.config)]
        return all(self.has(full, trace) for full in of_taps)

    def array(self, name: str, trace: Any) -> np.ndarray:
        """An array of this reading, kept or virtual."""
        if name in self.arrays:
            return self.arrays[name]
        if name in self._made:
            return self._made[name]
        if name == "token":
            texts = zip(self.ids, self.start, strict=True)
            made = np.full((len(self.ids), self.T), -1)  # where rows are filled up
            for row, (ids, start) in enumerate(texts):
                made[row, : len(ids) - start] = ids[start:]
        elif name == "position":
            made = np.array(self.positions)
        elif name == "logits":
            made = self._all_logits()
        else:
            made = self._virtual(name, trace)
        made.setflags(write=False)
        self._made[name] = made
        return made

    def _virtual(self, name: str, trace: Any) -> np.ndarray:
        bound = every(trace.config).get(name)
        if bound is None or bound.virtual is None:
            raise InsideError(trace.absent(name))

        def read(short: str) -> Any:
            if short == "epsilon":
                return trace.config.layer_norm_epsilon
            if short == "count":
                return self.count
            if short in ("hit", "counted"):
                return self._given_array(short, trace.sizes())
            full = bound.full[short]
            if full in every(trace.config):
                return self.array(full, trace)
            return trace.parameter(full)

        return np.asarray(bound.virtual(read))

    def _all_logits(self) -> np.ndarray:
        """(B, n, V): of the tokens whose logits were computed, as many in every row."""
        known = sorted(self.logits)
        rows = [
            [self.logits[place] for place in known if place[0] == row]
            for row in range(len(self.ids))
        ]
        if len({len(row) for row in rows}) != 1:
            raise InsideError("rows have logits of unlike many tokens; give an address")
        return np.array(rows)

    def number(
        self, name: str, row: int, place: int, rest: Sequence[int], trace: Any
    ) -> float:
        """The number at an index without its row; `place` is where t stands in it."""
        slot = rest[place]
        if name == "token":
            return self.ids[row][slot]
        if name.partition(".")[0] == "logits":
            found = self.logits.get((row, slot))
            if found is None:
                raise InsideError(f"the logits after token {slot} were not computed")
            if name == "logits":
                return float(found[rest[1]])
            best = found.max()
            return float(best if name == "logits.max" else np.exp(found - best).sum())
        array = self.array(name, trace)
        index = list(rest)
        index[place] = slot - self.start[row]
        return float(array[(min(row, len(array) - 1), *index)])


class Tensor:
    """An array of a trace with the names of its axes; NumPy takes it as an array."""

    def __init__(
        self,
        name: str,
        axes: tuple[str, ...],
        array: np.ndarray,
        one: Pass,
        step: int = 0,
        text: Callable[[int], str] = str,
    ):
        self.name, self.axes, self.array, self.step = name, axes, array, step
        self.start, self.ids, self.text = one.start, one.ids, text

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths, axis by axis."""
        return self.array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.array, dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        sizes = " ".join(f"{a}={n}" for a, n in zip(self.axes, self.shape, strict=True))
        seen = self.array[np.isfinite(self.array)]
        span = f"{seen.min():.3g} to {seen.max():.3g}" if seen.size else "no number"
        return f"Tensor({self.name}: {sizes}, {span})"

    def _repr_html_(self) -> str:
        """The first row of the batch as coloured cells, a table for each head."""
        parts = [escaped(repr(self))]
        for place, matrix, rows, columns in self._matrices():
            parts += [f"<div>{escaped(place)}</div>" * bool(place)]
            parts += [heatmap(matrix, rows, columns)]
        return f"<div>{''.join(parts)}</div>"

    def _matrices(self) -> Iterator[tuple[str, np.ndarray, list[str], list[str]]]:
        """Matrices of the first row, with a name and the labels of both axes."""
        texts = [self.text(id) for id in self.ids[0]]
        tokens = {"t": texts[self.start[0] :], "s": texts}
        first, letters = self.array[0], self.axes[1:]
        named = [
            tokens.get(a, [*map(str, range(n))])
            for a, n in zip(letters, first.shape, strict=True)
        ]
        if len(letters) == 1:
            yield "", first[:, None], named[0], [self.name.rpartition(".")[2]]
        elif len(letters) == 2:
            yield "", first, named[0], named[1]
        else:
            for head, matrix in enumerate(first):
                yield f"head {head}", matrix, named[1], named[2]


def before(row: int, start: int, reading: Any, ids: list[int]) -> Pass:
    """The keys and values that a cache held of one row."""
    cache, to_numpy = reading.cache, reading.backend.to_numpy
    one = Pass([ids[:start]], [0], np.arange(start)[None])
    for i in range(cache.k.shape[0]):
        for name, array in (("k", cache.k), ("v", cache.v)):
            held = np.array(to_numpy(array[i, row : row + 1, :, :start, :]))
            one.keep(f"h.{i}.attn.{name}", held)
    return one
