"""GPT2: config, parameters, tokenizer and backend in the one object that a user holds.

    >>> from npgpt import GPT2
    >>> model = GPT2.from_pretrained("tales")
    >>> model.generate("Once upon a time", max_new_tokens=4).text
    ', a little while'

The mathematics is in npgpt.gpt2, `generate` and `stream` in
npgpt.decoding.generation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt import checkpoint, gpt2, hub, reading
from npgpt.backend import Backend, get_backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.generation import PROMPT, Generator
from npgpt.errors import BackendError, DecodingError, TokenizerError
from npgpt.reading import PREFILL_CHUNK
from npgpt.tokenizer import Tokenizer

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float



class GPT2(Generator):
    """A GPT-2 ready to read and write."""

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
        """Load a bundled model by name, or a folder with config.json and safetensors.

        dtype is what the model computes in: "float32" or "float64".
        """
        backend = get_backend(backend)
        folder = hub.resolve(name_or_folder)
        params = checkpoint.load(folder)
        return cls(params, Tokenizer.from_folder(folder), backend, dtype)

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

    def logits(self, ids: Any, tap: Any = gpt2.no_tap) -> Float[np.ndarray, "B T V"]:
        """Next-token logits at every position of ids (B, T), or (T,) for one row.

        `tap(name, array)` sees every intermediate of npgpt.gpt2.TAPS.
        """
        ids = np.asarray(ids)
        ids = gpt2.check_ids(ids[None] if ids.ndim == 1 else ids, self.config)
        hidden = gpt2.hidden_states(self.params, ids, backend=self.backend, tap=tap)
        z = gpt2.logits(self.params, hidden, backend=self.backend, tap=tap)
        return self.backend.to_numpy(z)

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> KVCache:
        """An empty cache for `batch` rows, with room for n_positions (all)."""
        config = self.config
        return KVCache(
            config.n_layer,
            batch,
            config.n_head,
            config.n_positions if n_positions is None else n_positions,
            config.head_dim,
            dtype=self.dtype,
            xp=self.backend.xp,
        )

    def next_logits(
        self, ids: Sequence[Sequence[int]], cache: KVCache
    ) -> Float[np.ndarray, "B V"]:
        """Read each row's new ids (at least one) and return the logits after its last.

        Rows may differ in length. Shorter ones are filled up on the right, where the
        causal mask hides the filling from every real token, and cropped afterwards.
        """
        T = max(map(len, ids))
        ragged = min(map(len, ids)) < T
        if ragged and cache.lengths.max() + T > self.config.n_positions:
            return self._next_logits_by_row(ids, cache)
        padded = np.zeros((len(ids), T), np.int64)
        for row, new in enumerate(ids):
            padded[row, : len(new)] = new
        padded = gpt2.check_ids(padded, self.config)
        ends = [len(held) + len(new) for held, new in zip(cache.ids, ids, strict=True)]
        last: list[Any] = [None] * len(ids)
        for start in range(0, T, PREFILL_CHUNK):
            chunk = padded[:, start : start + PREFILL_CHUNK]
            hidden = gpt2.hidden_states(self.params, chunk, cache, backend=self.backend)
            for row, new in enumerate(ids):
                at = len(new) - 1 - start
                if 0 <= at < chunk.shape[1]:
                    last[row] = hidden[row, at, :]
        if ragged:
            cache.crop(ends)
        hidden = self.backend.xp.stack(last)[:, None, :]  # (B, 1, C)
        z = gpt2.logits(self.params, hidden, backend=self.backend)
        return self.backend.to_numpy(z)[:, 0]

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

    # Other ways to read: npgpt.reading says what they do.
    all_logits = reading.all_logits
    next_hidden = reading.next_hidden
    layer_logits = reading.layer_logits
    tree_logits = reading.tree_logits


def _one_row(ids: Any) -> np.ndarray:
    array = np.asarray(ids)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise DecodingError(PROMPT)
    return array
