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
from npgpt.decoding.vocabulary import same_tokens
from npgpt.errors import DecodingError
from npgpt.interface import Model, able

NO_STATES = "contrastive search needs hidden states, which this guidance does not have"
NO_TREES = "token trees do not go with this guidance"

# What a reading has in place of prompt number `origin`: (origin, prompt ids) -> ids
Opening = Callable[[int, Sequence[int]], Sequence[int]]


@dataclass(frozen=True)
class Part:
    """One model and the openings with which it reads, side by side in one batch.

    None stands for the real prompt; tokens generated after it are the same everywhere.
    """

    model: Model
    openings: tuple[Opening | None, ...] = (None,)


Read = tuple[Part, list[list[int]], Any]  # its rows of new ids, and its cache


class Wrapper(Generator):
    """A model around another one, whose config and tokens it has."""

    def __init__(self, main: Model):
        self.main, self.config, self.tokenizer = main, main.config, main.tokenizer

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt."""
        return self.main.encode(prompt)


class Guided(Wrapper):
    """A model whose next logits are a formula of several readings.

    combine takes the logits of every reading of one position, (n, V), in the order of
    the parts and their openings; the first reading must have the real prompt.
    """

    def __init__(
        self, parts: Sequence[Part], combine: Callable[[np.ndarray], np.ndarray]
    ):
        super().__init__(parts[0].model)
        self.parts, self.combine = list(parts), combine
        if parts[0].openings[0] is not None:
            raise DecodingError("the first reading of a guided model has the prompt")
        for part in parts[1:]:
            check_same_vocabulary(self.main, part.model)
        # What its readings cannot, it cannot: see npgpt.interface.able.
        if hasattr(self.main, "next_hidden"):
            self.next_hidden = self._next_hidden
        if all(hasattr(part.model, "tree_logits") for part in parts):
            self.tree_logits = self._tree_logits

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> Caches:
        """Empty caches of all readings; other openings may need all positions."""
        caches = [
            part.model.new_cache(
                batch * len(part.openings),
                n_positions if set(part.openings) == {None} else None,
            )
            for part in self.parts
        ]
        widths = [len(part.openings) for part in self.parts]
        room = n_positions or self.config.n_positions
        found = Caches(caches, widths, list(range(batch)), room)
        found.belong(found.origins)
        return found

    def next_logits(self, ids: Sequence[Sequence[int]], cache: Caches) -> np.ndarray:
        """Combined logits after each row's last id, (B, V)."""
        return self._next(self._readings(ids, cache, [1] * len(ids)))

    def all_logits(
        self,
        ids: Sequence[Sequence[int]],
        cache: Caches,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Combined logits after each row's last keep[row] ids, (keep[row], V) a row."""
        keep = [len(new) for new in ids] if keep is None else list(keep)
        z = [
            part.model.all_logits(rows, one, [k for k in keep for _ in part.openings])
            for part, rows, one in self._readings(ids, cache, keep)
        ]
        return self._combined(z)

    def _next_hidden(
        self, ids: Sequence[Sequence[int]], cache: Caches
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Combined logits, and the hidden states of the first reading."""
        (part, rows, one), *others = self._readings(ids, cache, [1] * len(ids))
        model = able(part.model, "next_hidden", NO_STATES)
        z, hidden = model.next_hidden(rows, one)
        return self._next(others, z), hidden[:: len(part.openings)]

    def _tree_logits(
        self, ids: Sequence[int], parents: Sequence[int], cache: Caches
    ) -> np.ndarray:
        """Combined logits after each node of a token tree, (B, T, V)."""
        z = [
            able(part.model, "tree_logits", NO_TREES).tree_logits(ids, parents, one)
            for part, one in zip(self.parts, cache.parts, strict=True)
        ]
        return np.stack(self._combined(z))

    def _next(self, readings: Sequence[Read], *z: np.ndarray) -> np.ndarray:
        """The logits of these readings, behind others (B * n, V), combined: (B, V)."""
        read = [part.model.next_logits(rows, one) for part, rows, one in readings]
        return np.concatenate(self._combined([x[:, None] for x in (*z, *read)]))

    def _combined(self, z: Sequence[np.ndarray | list[np.ndarray]]) -> list[np.ndarray]:
        """One (T, V) a row; z[part][row * n + i] are a reading's logits (T, V)."""
        widths, rows = [len(part.openings) for part in self.parts], []
        for row in range(len(z[0]) // widths[0]):
            readings = [
                x
                for found, n in zip(z, widths, strict=True)
                for x in found[row * n : (row + 1) * n]
            ]
            rows.append([self.combine(x) for x in np.stack(readings, axis=1)])
        return [np.stack(row) for row in rows]

    def _readings(
        self, ids: Sequence[Sequence[int]], cache: Caches, keep: Sequence[int]
    ) -> list[Read]:
        """Each part, its rows of new ids and its cache.

        An opening is put in place of an unread prompt.
        """
        heads = [
            [*held, *new[: len(new) - (n - 1)]]
            for held, new, n in zip(cache.ids, ids, keep, strict=True)
        ]
        readings = []
        for part, one in zip(self.parts, cache.parts, strict=True):
            rows: list[list[int]] = []
            for row, new in enumerate(ids):
                for opening in part.openings:
                    if opening is None or one.ids[len(rows)]:
                        rows.append(list(new))
                    else:
                        start = opening(cache.origins[row], heads[row])
                        rows.append([*start, *new[len(new) - (keep[row] - 1) :]])
            readings.append((part, rows, one))
        cache.read_prompts([len(head) for head in heads])
        return readings


def check_same_vocabulary(model: Model, other: Model) -> None:
    """Raise DecodingError unless two models share their tokens."""
    a, b = model.config.vocab_size, other.config.vocab_size
    if a != b and same_tokens(model.tokenizer, other.tokenizer):
        raise DecodingError(
            f"the models share their tokens, but are padded to {a} and {b} ids; "
            "guidance needs as many logits of both"
        )
    if a != b:
        raise DecodingError(
            f"the models have different vocabularies ({a} and {b} tokens); both must "
            "use the same tokenizer"
        )
