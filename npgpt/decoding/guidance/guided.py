"""Guided models: several readings behind the interface of one model.

A strategy asks a model for config, tokenizer, new_cache and next_logits (and some for
all_logits, next_hidden, tree_logits). Guided has the same, so guidance works with every
strategy; the formulas are in npgpt.decoding.guidance.formulas, and what an option makes
of a model in npgpt.decoding.guidance.steering.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.generation import Generator
from npgpt.decoding.guidance.caches import Caches
from npgpt.errors import DecodingError

# What a reading has in place of prompt number `origin`: (origin, prompt ids) -> ids
Context = Callable[[int, Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Part:
    """One model and the contexts in which it reads, side by side in one batch.

    None stands for the real prompt; tokens generated after it are the same everywhere.
    """

    model: Any
    contexts: tuple[Context | None, ...] = (None,)


class Guided(Generator):
    """A model whose next logits are a formula of several readings.

    combine takes the logits of every reading of one position, (n, V), in the order of
    the parts and their contexts; the first reading must have the real prompt.
    """

    def __init__(
        self, parts: Sequence[Part], combine: Callable[[np.ndarray], np.ndarray]
    ):
        self.parts = list(parts)
        self.combine = combine
        self.main = self.parts[0].model
        self.config, self.tokenizer = self.main.config, self.main.tokenizer
        if self.parts[0].contexts[0] is not None:
            raise DecodingError("the first reading of a guided model has the prompt")
        for part in self.parts[1:]:
            check_same_vocabulary(self.main, part.model)

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt."""
        return self.main.encode(prompt)

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> Caches:
        """Empty caches of all readings; other contexts may need all positions."""
        room = [n_positions if set(p.contexts) == {None} else None for p in self.parts]
        return Caches(
            [
                part.model.new_cache(batch * len(part.contexts), n)
                for part, n in zip(self.parts, room, strict=True)
            ],
            [len(part.contexts) for part in self.parts],
            list(range(batch)),
            n_positions or self.config.n_positions,
        )

    def next_logits(self, ids: Sequence[Sequence[int]], cache: Caches) -> np.ndarray:
        """Combined logits after each row's last id, (B, V)."""
        readings = []
        unread = self._unread(ids, cache, [1] * len(ids))
        for part, one, rows in zip(self.parts, cache.parts, unread, strict=True):
            z = part.model.next_logits(rows, one)
            readings.append(z.reshape(len(ids), len(part.contexts), -1))
        return self._combined(np.concatenate(readings, axis=1))

    def all_logits(
        self,
        ids: Sequence[Sequence[int]],
        cache: Caches,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Combined logits after each row's last keep[row] ids, (keep[row], V) a row."""
        keep = [len(new) for new in ids] if keep is None else list(keep)
        unread = self._unread(ids, cache, keep)
        readings: list[list[np.ndarray]] = [[] for _ in ids]
        for part, one, rows in zip(self.parts, cache.parts, unread, strict=True):
            n = len(part.contexts)
            z = part.model.all_logits(rows, one, [k for k in keep for _ in range(n)])
            for row in range(len(ids)):
                readings[row] += z[row * n : (row + 1) * n]
        return [self._combined(np.stack(row, axis=1)) for row in readings]

    def next_hidden(
        self, ids: Sequence[Sequence[int]], cache: Caches
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Combined logits, and the hidden states of the first reading."""
        readings, states = [], None
        unread = self._unread(ids, cache, [1] * len(ids))
        for part, one, rows in zip(self.parts, cache.parts, unread, strict=True):
            if states is None:
                z, hidden = part.model.next_hidden(rows, one)
                states = hidden[:: len(part.contexts)]
            else:
                z = part.model.next_logits(rows, one)
            readings.append(z.reshape(len(ids), len(part.contexts), -1))
        return self._combined(np.concatenate(readings, axis=1)), states or []

    def tree_logits(
        self, ids: Sequence[int], parents: Sequence[int], cache: Caches
    ) -> np.ndarray:
        """Combined logits after each node of a token tree, (B, T, V)."""
        readings = []
        for part, one in zip(self.parts, cache.parts, strict=True):
            z = part.model.tree_logits(ids, parents, one)  # (B * n, T, V)
            readings.append(z.reshape(cache.batch, len(part.contexts), len(ids), -1))
        z = np.concatenate(readings, axis=1)
        return np.stack([self._combined(row.swapaxes(0, 1)) for row in z])

    def _combined(self, z: np.ndarray) -> np.ndarray:
        """(T, n, V) -> (T, V), one position at a time."""
        return np.stack([self.combine(readings) for readings in z])

    def _unread(
        self, ids: Sequence[Sequence[int]], cache: Caches, keep: Sequence[int]
    ) -> list[list[list[int]]]:
        """Each part's rows of new ids: a context put in place of an unread prompt."""
        heads = [
            [*held, *new[: len(new) - (n - 1)]]
            for held, new, n in zip(cache.ids, ids, keep, strict=True)
        ]
        unread = []
        for part, one in zip(self.parts, cache.parts, strict=True):
            rows, n = [], len(part.contexts)
            for row, new in enumerate(ids):
                for i, context in enumerate(part.contexts):
                    if context is None or one.ids[row * n + i]:
                        rows.append(list(new))
                    else:
                        start = context(cache.origins[row], heads[row])
                        rows.append([*start, *new[len(new) - (keep[row] - 1) :]])
            unread.append(rows)
        cache.read_prompts([len(head) for head in heads])
        return unread


def check_same_vocabulary(model: Any, other: Any) -> None:
    """Raise DecodingError unless two models share their tokens."""
    a, b = model.config.vocab_size, other.config.vocab_size
    if a != b:
        raise DecodingError(
            f"the models have different vocabularies ({a} and {b} tokens); both must "
            "use the same tokenizer"
        )
