"""Caches: the caches of a guided model's readings, handled as if they were one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.interface import Cache


class Caches:
    """The caches of all readings, row b of each together: crop, select and the like."""

    def __init__(
        self,
        parts: list[Cache],
        widths: list[int],
        origins: list[int],
        n_positions: int,
    ):
        self.parts, self.widths = parts, widths
        self.origins = origins  # which prompt each row comes from
        self.n_positions = n_positions
        self.prompts: list[int | None] = [None] * len(origins)  # lengths, once read

    def belong(self, origins: Sequence[int]) -> None:
        """Say which prompt each row comes from, to readings of readings too."""
        self.origins = list(origins)
        for part, n in zip(self.parts, self.widths, strict=True):
            if isinstance(part, Caches):
                part.belong([origin for origin in origins for _ in range(n)])

    @property
    def ids(self) -> list[list[int]]:
        """What the first reading has read."""
        return self.parts[0].ids[:: self.widths[0]]

    @property
    def lengths(self) -> np.ndarray:
        """Positions held by each row, (B,)."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return len(self.origins)

    def read_prompts(self, lengths: Sequence[int]) -> None:
        """Note how long each row's prompt is, the first time that it is read."""
        for row, length in enumerate(lengths):
            if self.prompts[row] is None:
                self.prompts[row] = length

    def crop(self, lengths: int | Sequence[int]) -> None:
        """Forget all but the first positions of every row."""
        if isinstance(lengths, int):
            lengths = [lengths] * self.batch
        for row, length in enumerate(lengths):
            self.crop_row(row, length)

    def _rows(self, row: int) -> list[tuple[Cache, int]]:
        """The rows of all parts that make up one row: (part, its row)."""
        return [
            (part, i)
            for part, n in zip(self.parts, self.widths, strict=True)
            for i in range(row * n, (row + 1) * n)
        ]

    def crop_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` positions, counted in the first reading."""
        kept, away = self.ids[row][:length], len(self.ids[row]) - length
        into_prompt = length < (self.prompts[row] or 0)
        for part, i in self._rows(row):
            # An opening in place of the prompt is read again as a whole.
            again = into_prompt and part.ids[i][:length] != kept
            part.crop_row(i, 0 if again else max(len(part.ids[i]) - away, 0))
        if into_prompt:
            self.prompts[row] = None

    def gather(self, positions: Sequence[Sequence[int]]) -> None:
        """Keep these positions of every row; prompts are kept whole."""
        lengths = [len(row) for row in self.ids]
        for part, n in zip(self.parts, self.widths, strict=True):
            kept = []
            for i, held in enumerate(part.ids):
                row = i // n
                shift, start = len(held) - lengths[row], self.prompts[row] or 0
                tail = [p + shift for p in positions[row] if p >= start]
                kept.append([*range(start + shift), *tail])
            part.gather(kept)

    def copy_row(self, target: int, source: int) -> None:
        """Make one row equal to another."""
        pairs = zip(self._rows(target), self._rows(source), strict=True)
        for (part, to), (_, of) in pairs:
            part.copy_row(to, of)
        self.origins[target] = self.origins[source]
        self.prompts[target] = self.prompts[source]

    def put(self, row: int, other: Caches) -> None:
        """Replace one row by the only row of other caches."""
        for (part, i), (new, j) in zip(self._rows(row), other._rows(0), strict=True):
            part.put(i, new.select([j]))
        self.origins[row], self.prompts[row] = other.origins[0], other.prompts[0]

    def select(self, rows: Sequence[int]) -> Caches:
        """New caches with these rows, in this order."""
        parts = [
            part.select([row * n + i for row in rows for i in range(n)])
            for part, n in zip(self.parts, self.widths, strict=True)
        ]
        new = Caches(
            parts, self.widths, [self.origins[r] for r in rows], self.n_positions
        )
        new.prompts = [self.prompts[r] for r in rows]
        return new

    def repeat(self, n: int) -> Caches:
        """New caches with every row n times in a row."""
        return self.select([row for row in range(self.batch) for _ in range(n)])
