"""GPT2: config, parameters, tokenizer and backend in the one object that a user holds.

    >>> from npgpt import GPT2
    >>> model = GPT2.from_pretrained("tales")
    >>> model.generate("Once upon a time", max_new_tokens=4).text
    ', and the King'

The mathematics is in npgpt.gpt2, `generate` and `stream` in
npgpt.decoding.generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt import gpt2, ops, reader
from npgpt.backend import Backend, get_backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.generation import PROMPT, Generator
from npgpt.errors import (
    BackendError,
    CheckpointError,
    DecodingError,
    TokenizerError,
)
from npgpt.evaluation import score as scoring
from npgpt.evaluation.score import Score
from npgpt.rows import check_rows, chunks_of
from npgpt.shapes import Float
from npgpt.storage import checkpoint, hub
from npgpt.support.arguments import checked
from npgpt.taps import CheckedTap, no_tap
from npgpt.tokenizer import Tokenizer


class GPT2(Generator):
    """A GPT-2 ready to read and write."""

    @checked(BackendError)
    def __init__(
        self,
        params: gpt2.GPT2Params,
        tokenizer: Tokenizer | None = None,
        backend: str | Backend = "numpy",
        dtype: str = "float32",
    ):
        self.backend = get_backend(backend)
        if dtype not in self.backend.dtypes:
            raise BackendError(
                f"backend {self.backend.name!r} does not compute in {dtype!r}, only in "
                + ", ".join(self.backend.dtypes)
            )
        self.config: GPT2Config = params.config
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.params = self.backend.prepare(params, dtype, self.backend.xp)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        backend: str | Backend = "numpy",
        dtype: str = "float32",
    ) -> GPT2:
        """Load a bundled model, a folder, or a model of the Hub ("gpt2", "owner/name").

        dtype is what the model computes in: "float32" or "float64", with the numba
        backend "float32", "bfloat16" or "int8".
        """
        backend = get_backend(backend)
        folder = hub.resolve(name_or_folder)
        load = backend.load_prepared
        params = None if load is None else load(folder, dtype)
        if params is None:
            params = checkpoint.load(folder, dtype)
        return cls(params, Tokenizer.from_folder(folder), backend, dtype)

    @checked(CheckpointError)
    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write config.json, model.safetensors and tokenizer.json into a folder."""
        checkpoint.save(self.params, folder, dtype)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt; an empty one is the model's <|endoftext|>."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise TokenizerError(
                    "this model has no tokenizer files; give the prompt as token ids"
                )
            ids = self.tokenizer.encode(prompt)
        else:
            ids = [int(id) for id in _one_row(prompt)]
        if not ids:
            if self.config.bos_token_id is None:
                raise DecodingError(
                    "the prompt is empty, and the config names no bos_token_id to "
                    "start from"
                )
            ids = [self.config.bos_token_id]
        gpt2.check_ids([ids], self.config)
        return ids

    @checked(DecodingError)
    def logits(self, ids: Any, tap: Callable = no_tap) -> Float[np.ndarray, "B T V"]:
        """Next-token logits at every position of ids (B, T), or (T,) for one row.

        `tap(name, array)` sees every intermediate of npgpt.gpt2.TAPS and returns it, or
        another array of its shape.
        """
        tap = CheckedTap(tap)
        ids = gpt2.as_array(ids)
        ids = gpt2.check_ids(ids[None] if ids.ndim == 1 else ids, self.config)
        hidden = gpt2.hidden_states(self.params, ids, backend=self.backend, tap=tap)
        z = gpt2.logits(self.params, hidden, backend=self.backend, tap=tap)
        return self.backend.to_numpy(z)

    @checked(DecodingError)
    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> KVCache:
        """An empty cache for `batch` rows, with room for n_positions (all)."""
        config = self.config
        n_positions = config.n_positions if n_positions is None else n_positions
        if batch < 1 or n_positions < 1:
            raise DecodingError(
                f"a cache needs a row and a position or more, not {batch} rows of "
                f"{n_positions}"
            )
        return KVCache(
            config.n_layer,
            batch,
            config.n_head,
            n_positions,
            config.head_dim,
            dtype=self.backend.cache_dtype(self.dtype),
            xp=self.backend.xp,
        )

    def next_logits(
        self, ids: Sequence[Sequence[int]], cache: KVCache
    ) -> Float[np.ndarray, "B V"]:
        """Read each row's new ids (at least one) and return the logits after its last.

        Rows may differ in length. Shorter ones are filled up on the right, where the
        causal mask hides the filling from every real token, and cropped afterwards.
        """
        check_rows(ids, cache)
        T = max(map(len, ids))
        ragged = min(map(len, ids)) < T
        if ragged and cache.lengths.max() + T > self.config.n_positions:
            return self._next_logits_by_row(ids, cache)
        padded = np.zeros((len(ids), T), np.int64)
        if ragged:
            for row, new in enumerate(ids):
                padded[row, : len(new)] = gpt2.check_ids([new], self.config)
        else:
            padded[:] = gpt2.check_ids(ids, self.config)
        if self.backend.decode_step is not None and cache.batch == len(ids):
            z = self.backend.decode_step(self.params, ids, cache)
            if z is not None:
                return z
        ends = [len(held) + len(new) for held, new in zip(cache.ids, ids, strict=True)]
        last: list[Any] = [None] * len(ids)
        for part in chunks_of(padded):
            start, chunk = part.start, padded[:, part]
            hidden = gpt2.hidden_states(self.params, chunk, cache, backend=self.backend)
            for row, new in enumerate(ids):
                at = len(new) - 1 - start
                if 0 <= at < chunk.shape[1]:
                    last[row] = hidden[row, at, :]
        if ragged:
            cache.crop(ends)
        hidden = self.backend.xp.stack(last)[:, None, :]  # (B, 1, C)
        parts = [hidden]
        blas = self.backend.xp is np and self.backend.linear is ops.linear
        if blas and len(ids) <= _few(self.params):
            parts = [hidden[row : row + 1] for row in range(len(ids))]
        z = [gpt2.logits(self.params, part, backend=self.backend) for part in parts]
        return np.concatenate([self.backend.to_numpy(part) for part in z])[:, 0]

    def _next_logits_by_row(
        self, ids: Sequence[Sequence[int]], cache: KVCache
    ) -> Float[np.ndarray, "B V"]:
        """next_logits where filling rows up would run past the last position."""
        rows = []
        for row, new in enumerate(ids):
            alone = cache.select([row])
            rows.append(self.next_logits([new], alone))
            cache.put(row, alone)
        return np.concatenate(rows)

    def score(
        self,
        text: str | Sequence[int],
        *,
        bos: bool = True,
        window: int | None = None,
        stride: int | None = None,
    ) -> Score:
        """Log-probability of every token of a text, loss, perplexity, bits per byte.

        See npgpt.evaluation.score.score; `npgpt.evaluation.score.score_file` reads
        files of any length.
        """
        return scoring.score(self, text, bos=bos, window=window, stride=stride)

    # Other ways to read: npgpt.reader says what they do.
    all_logits = reader.all_logits
    first_logits = reader.first_logits
    rest_logits = reader.rest_logits
    next_hidden = reader.next_hidden
    layer_logits = reader.layer_logits
    tree_logits = reader.tree_logits


def _few(params: gpt2.GPT2Params) -> int:
    """How many rows have their logits computed one by one.

    For a product of a few rows with the output table OpenBLAS copies the table first,
    which costs as much as to read it three times, or four where it fits the cache.
    """
    V, C = params.lm_head.weight.shape
    return 4 if V * C < 1 << 23 else 3


def _one_row(ids: Any) -> np.ndarray:
    array = gpt2.as_array(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DecodingError(PROMPT)
    return array
