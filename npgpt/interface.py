"""What decoding asks of a model: to read ids, and to be told what would come next.

npgpt.GPT2 is such a model, and so is one under guidance, which asks several. Decoding
and everything above it names these types and never looks inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from npgpt.shapes import Array, Float
from npgpt.taps import Tap

Rows = Sequence[Sequence[int]]


@runtime_checkable
class Model(Protocol):
    """What reads and writes like npgpt.GPT2."""

    config: Any
    tokenizer: Any

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt."""

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> Any:
        """An empty cache for so many rows."""

    def next_logits(self, ids: Rows, cache: Any) -> Float[np.ndarray, "B V"]:
        """Read each row's new ids; the logits after its last."""

    def all_logits(
        self, ids: Rows, cache: Any, keep: Sequence[int] | None = None
    ) -> list[Float[np.ndarray, "_ V"]]:
        """Read each row's new ids; the logits after its last keep[row] (all)."""


class Host(Protocol):
    """Where a model's arrays live."""

    def to_numpy(self, array: Array) -> np.ndarray:
        """The array on the host, as NumPy."""


@runtime_checkable
class TappedModel(Model, Protocol):
    """A model that shows its intermediates; under guidance there would be several."""

    @property
    def backend(self) -> Host:
        """What brings an intermediate to the host."""

    def logits(self, ids: Any, tap: Tap) -> Float[np.ndarray, "B T V"]:
        """Logits at every position; `tap(name, array)` sees every intermediate."""
