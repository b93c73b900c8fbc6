"""What decoding asks of a model: to read ids, and to be told what would come next.

npgpt.GPT2 is such a model, and so is one under guidance, which asks several. Decoding
and everything above it names these types and never looks inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import DecodingError
from npgpt.shapes import Array, Float
from npgpt.taps import Tap

Rows = Sequence[Sequence[int]]


class TokenStream(Protocol):
    """Text of ids that come one by one, never half a character."""

    def push(self, id: int) -> str:
        """The text that this id completes, possibly none."""

    def flush(self) -> str:
        """What is left at the end."""


class Tokens(Protocol):
    """A tokenizer, to those who read and write with it."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""

    @property
    def pipeline(self) -> Mapping[str, Any]:
        """What tokenizer.json says of it, "pre_tokenizer" and the like."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of ids."""

    def token_bytes(self, id: int, first: bool = False, last: bool = False) -> bytes:
        """The bytes that an id stands for, at the beginning or end of a text or not."""

    def special_ids(self) -> set[int]:
        """Ids of tokens that are marks, not text."""

    def stream(self, after: Sequence[int] = ()) -> TokenStream:
        """A decoder for ids that come one by one, after others."""

    def __hash__(self) -> int:
        """What follows from a vocabulary is remembered by it."""


class Cache(Protocol):
    """What a model has read: npgpt.cache.KVCache, or that of several readings."""

    @property
    def ids(self) -> list[list[int]]:
        """The ids read, row by row."""

    @property
    def lengths(self) -> np.ndarray:
        """How many, (B,)."""

    @property
    def batch(self) -> int:
        """Number of rows B."""

    @property
    def n_positions(self) -> int:
        """Places that each row has."""

    def crop(self, lengths: int | Sequence[int]) -> None:
        """Forget all but the first positions of every row."""

    def crop_row(self, row: int, length: int) -> None:
        """The same for one row."""

    def select(self, rows: Sequence[int]) -> Cache:
        """A new cache with these rows, in this order."""

    def repeat(self, n: int) -> Cache:
        """A new cache with every row n times in a row."""

    def copy_row(self, target: int, source: int) -> None:
        """Make one row equal to another."""

    def put(self, row: int, other: Any) -> None:
        """Replace one row by the only row of another cache."""

    def gather(self, positions: Sequence[Sequence[int]]) -> None:
        """Keep only these positions of each row."""


@runtime_checkable
class Model(Protocol):
    """What reads and writes like npgpt.GPT2."""

    @property
    def config(self) -> GPT2Config:
        """Sizes, and the ids that begin and end a text."""

    @property
    def tokenizer(self) -> Tokens | None:
        """Its texts; None for a model of ids alone."""

    def encode(self, prompt: Any) -> list[int]:
        """Token ids of a prompt."""

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> Any:
        """An empty Cache for so many rows, which this kind of model reads with."""

    def next_logits(self, ids: Rows, cache: Any) -> Float[np.ndarray, "B V"]:
        """Read each row's new ids; the logits after its last."""

    def all_logits(
        self, ids: Rows, cache: Any, keep: Sequence[int] | None = None
    ) -> list[Float[np.ndarray, "_ V"]]:
        """Read each row's new ids; the logits after its last keep[row] (all)."""


class DeepModel(Model, Protocol):
    """What only some models can, each on its own (see `able`); npgpt.reader says more.

    A guided model has the first two, if its readings do.
    """

    def next_hidden(
        self, ids: Rows, cache: Any
    ) -> tuple[Float[np.ndarray, "B V"], list[Float[np.ndarray, "_ C"]]]:
        """next_logits, and the last hidden states of all new ids."""

    def tree_logits(
        self, ids: Sequence[int], parents: Sequence[int], cache: Any
    ) -> Float[np.ndarray, "B T V"]:
        """Read one token tree behind every row; the logits after each node."""

    def first_logits(
        self, ids: Rows, cache: Any, layers: int
    ) -> tuple[Float[np.ndarray, "B V"], list[Array]]:
        """next_logits of the first layers alone, and what they made of the ids."""

    def rest_logits(
        self,
        ids: Rows,
        states: Sequence[Sequence[Array]],
        cache: Any,
        layers: int,
        keep: Sequence[int],
    ) -> list[Float[np.ndarray, "_ V"]]:
        """all_logits of ids that the first layers have read, by the others."""

    def layer_logits(
        self,
        ids: Rows,
        cache: Any,
        layers: Sequence[int],
        keep: Sequence[int] | None = None,
        *,
        norm: bool = False,
    ) -> list[Float[np.ndarray, "_ n V"]]:
        """What chosen layers alone would predict."""


def able(model: Any, method: str, sentence: str) -> DeepModel:
    """The model, which has this method; else DecodingError with the sentence."""
    if not hasattr(model, method):
        raise DecodingError(sentence)
    return model


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
