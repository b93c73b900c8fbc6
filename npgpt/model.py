"""GPT2: config, parameters, tokenizer and backend in the one object that a user holds.

    >>> from npgpt import GPT2
    >>> model = GPT2.from_pretrained("tales")
    >>> model.generate("Once upon a time", max_new_tokens=4).text
    ', and the King'

The mathematics is in npgpt.gpt2, `generate` and `stream` in
npgpt.decoding.generation.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from npgpt import gpt2, reader
from npgpt.backend import Backend, get_backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.generation import PROMPT, Generator
from npgpt.errors import (
    BackendError,
    CheckpointError,
    DecodingError,
    InsideError,
    TokenizerError,
)
from npgpt.evaluation import score as scoring
from npgpt.evaluation.score import Score
from npgpt.ids import as_array, check_ids
from npgpt.shapes import Float
from npgpt.storage import checkpoint, hub
from npgpt.support.arguments import checked
from npgpt.taps import CheckedTap, Tap, no_tap
from npgpt.tokenizer import Tokenizer

if TYPE_CHECKING:  # looking inside is loaded when somebody looks
    from npgpt.inside.explanation import Why
    from npgpt.inside.trace import Trace


class GPT2(Generator):
    """A GPT-2 ready to read and write."""

    @checked(BackendError)
    def __init__(
        self,
        params: gpt2.GPT2Params,
        tokenizer: Tokenizer | None = None,
        backend: str | Backend = "numpy",
        dtype: str = "float32",
        threads: int | None = None,
    ):
        self.backend = get_backend(backend)
        if dtype not in self.backend.dtypes:
            raise BackendError(
                f"backend {self.backend.name!r} does not compute in {dtype!r}, only in "
                + ", ".join(self.backend.dtypes)
            )
        self.backend.set_threads(threads)
        self.config: GPT2Config = params.config
        self.tokenizer: Tokenizer | None = tokenizer
        self.dtype = dtype
        self.params = self.backend.prepare(params, dtype, self.backend.xp)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        backend: str | Backend = "numpy",
        dtype: str = "float32",
        threads: int | None = None,
    ) -> GPT2:
        """Load a bundled model, a folder, or a model of the Hub ("gpt2", "owner/name").

        dtype is what the model computes in: "float32" or "float64", with the numba
        backend "float32", "bfloat16" or "int8". threads: as many, at most, for a
        product of this process (npgpt.support.threads says how few are best).
        """
        backend = get_backend(backend)
        folder = hub.resolve(name_or_folder)
        load = backend.load_prepared
        params = None if load is None else load(folder, dtype)
        if params is None:
            params = checkpoint.load(folder, dtype)
        model = cls(params, Tokenizer.from_folder(folder), backend, dtype, threads)
        model.name = str(name_or_folder)
        return model

    @checked(CheckpointError)
    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write config.json, model.safetensors and tokenizer.json into a folder."""
        checkpoint.save(self.params, folder, dtype)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt; an empty one is the model's <|endoftext|>.

        A text begins with what the tokenizer puts there (Tokenizer.begin).
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise TokenizerError(
                    "this model has no tokenizer files; give the prompt as token ids"
                )
            ids = [*self.tokenizer.begin, *self.tokenizer.encode(prompt)]
        else:
            ids = [int(id) for id in _one_row(prompt)]
        if not ids:
            if self.config.bos_token_id is None:
                raise DecodingError(
                    "the prompt is empty, and the config names no bos_token_id to "
                    "start from"
                )
            ids = [self.config.bos_token_id]
        check_ids([ids], self.config)
        return ids

    def decode(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> str:
        """Text of token ids, or of one."""
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer files; ids have no text")
        one = isinstance(ids, int | np.integer)
        row = _one_row([ids] if one else ids)
        return self.tokenizer.decode(row.tolist(), skip_special_tokens)

    @checked(DecodingError)
    def logits(
        self, ids: Any, tap: Callable[..., Any] = no_tap
    ) -> Float[np.ndarray, "B T V"]:
        """Next-token logits at every position of ids (B, T), of one row (T,) or a text.

        `tap(name, array)` sees every intermediate (npgpt.inside.recipes) and returns
        it, or another array of its shape.
        """
        tap = self.tap if tap is no_tap else CheckedTap(tap, self.tap)
        ids = as_array(self.encode(ids) if isinstance(ids, str) else ids)
        ids = check_ids(ids[None] if ids.ndim == 1 else ids, self.config)
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

    @checked(InsideError)
    def trace(
        self,
        names: str | Sequence[str] = "*",
        patch: Mapping[str, Any] | None = None,
        max_bytes: int = 2 << 30,
    ) -> Trace:
        """What the model computes inside a `with` block, kept as data.

        names: patterns of taps, such as "h.*.attn.*" (npgpt.inside.recipes has them).
        patch: {"h.0.attn.context[:, 2]": value}: what the model goes on with instead; a
        number, an array, or a function of what stood there. Raises InsideError for a
        name that no tap has, a patch that never met its number, and more bytes than
        max_bytes.

        >>> model = GPT2.from_pretrained("tales-mini")
        >>> with model.trace("h.0.attn.weights") as trace:
        ...     z = model.logits(model.encode("The old king"))
        >>> trace["h.0.attn.weights"].shape, trace["h.0.attn.weights[h=1,t=0,s=0]"]
        ((1, 3, 3, 3), 1.0)
        """
        from npgpt.inside.trace import Trace

        return Trace(self, names, patch, max_bytes)

    @checked(InsideError)
    def why(
        self,
        address: str,
        prompt: str | Sequence[int] = "",
        depth: int = 1,
        grad: bool = False,
    ) -> Why | list[Why]:
        """Why a number of the forward pass over a prompt is what it is.

        The formula, the operands with their addresses, their terms, whose sum is the
        number, and the line of code. With a depth above 1 a list: the number, then the
        operand of its largest term, and so on. With grad the number is the derivative
        by the one at the address, of the loss: the mean of -log p over the prompt's own
        next tokens. Raises InsideError for an address that is not there.

        >>> model = GPT2.from_pretrained("tales-mini")
        >>> why = model.why("h.0.attn.scores[h=1,t=2,s=1]", "The old king")
        >>> why.formula, len(why.terms), why.agrees
        ('Σ_d q[b,h,t,d] · k[b,h,s,d] · scale if sees[b,t,s] else −∞', 32, True)
        """
        ids = self.encode(prompt)
        if grad:  # training stands above the model: a plug by name, as backends are
            traced = importlib.import_module("npgpt.training.traced")
            address = address if address.startswith("d.") else f"d.{address}"
            whys: Why | list[Why] = traced.trace_gradients(self, ids).why(
                address, depth
            )
            return whys
        with self.trace() as trace:
            self.logits([ids])
        return trace.why(address, depth)

    # How it reads: npgpt.reader says what each does.
    next_logits = reader.next_logits
    all_logits = reader.all_logits
    first_logits = reader.first_logits
    rest_logits = reader.rest_logits
    next_hidden = reader.next_hidden
    layer_logits = reader.layer_logits
    tree_logits = reader.tree_logits

    name: str | None = None  # what it was loaded by
    tap: Tap = no_tap  # sees every reading: see `trace`

    def __repr__(self) -> str:
        shapes = checkpoint.expected_shapes(self.config).values()
        parameters = sum(math.prod(shape) for shape in shapes)
        return (
            f"GPT2({'' if self.name is None else f'{self.name!r}: '}"
            f"{self.config.n_layer} layers, width {self.config.n_embd}, "
            f"{parameters:,} parameters, {self.backend.name} {self.dtype})"
        )


def _one_row(ids: Any) -> np.ndarray:
    array = as_array(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DecodingError(PROMPT)
    return array
