"""The whole forward pass in one kernel: for decoding, and for prompts, where none taps.

What it does differently. npgpt.gpt2 calls a function for every line of the model and
makes an array of every result; for one token of a small model that costs ten times the
arithmetic. Here a team of threads (npgpt.kernels.team) enters once and goes through all
blocks. New tokens of all rows of the batch stand below each other as M rows, whatever
their row or place, so ragged batches need no filling; keys and values go straight from
the product into the cache; biases, GELU and residual sums are done on a strip of
columns while it is still in the cache.

For few rows every thread normalises (and quantises) all of them for itself, which is
cheaper than to agree on who does which. Logits are computed after each row's last
token only. Equal to the plain path up to rounding: tests/kernels/test_kernels_step.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import get_num_threads

from npgpt.block import attention_scale
from npgpt.kernels.attention_block import QUERIES, scratch_size
from npgpt.kernels.compiling import LOCK
from npgpt.kernels.forward import PHASES, Room, Weights, run
from npgpt.kernels.narrow import SMALL, new_narrowed, whole_rows
from npgpt.kernels.packed import PANEL, padded, zeros
from npgpt.kernels.phases import Read
from npgpt.kernels.prepare import Buffers, PackedParams
from npgpt.kernels.team import new_sync
from npgpt.kernels.tiers import isa as tier_isa

CHUNK = 1024  # tokens read at once: their activations take 30 MB at the 124M shape
ACTIVATIONS = (  # the names of ops.gelu
    "gelu_new",
    "gelu_pytorch_tanh",
    "gelu_python_tanh",
    "gelu_accurate",
    "gelu_fast",
)


def decode_step(
    params: Any,
    ids: Sequence[Sequence[int]],
    cache: Any,
    keep: Sequence[int] | None = None,
) -> np.ndarray | None:
    """Read each row's new ids (at least one); logits (B, V) after its last.

    With `keep` after the last keep[row] of them, (sum of keep, V), row below row.

    None where this kernel does not apply (other activations, rebuilt parameters, a
    cache of another kind): the caller then goes function by function. Ids must have
    been checked against the vocabulary and the room.
    """
    buffers = params.buffers if isinstance(params, PackedParams) else None
    config = params.config
    if buffers is None or config.activation_function not in ACTIVATIONS:
        return None
    shape = config.n_layer, len(ids), config.n_head, cache.n_positions, config.head_dim
    for array in (cache.k, cache.v):
        if array.shape != shape or not array.flags.c_contiguous:
            return None
        if array.dtype not in (np.float32, np.float16):
            return None
    held = [len(row) for row in cache.ids]
    if max(h + len(new) for h, new in zip(held, ids, strict=True)) > min(
        cache.n_positions, config.n_positions
    ):
        return None  # the plain path says what is wrong
    total = sum(map(len, ids))
    if total == len(ids) and keep is None:
        tokens = np.array([(new[0], b, held[b]) for b, new in enumerate(ids)])
        z = _read(buffers, config, cache, tokens, np.arange(len(ids)), one_each=True)
    else:
        keep = [1] * len(ids) if keep is None else keep
        tokens = np.array(
            [
                (id, b, held[b] + t, len(new) - t <= keep[b])
                for b, new in enumerate(ids)
                for t, id in enumerate(new)
            ]
        )
        parts, is_prompt = [], total > SMALL * len(ids)
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            # A chunk without an answer computes one, which is left out below.
            last = np.flatnonzero(chunk[:, 3])
            found = _read(
                buffers,
                config,
                cache,
                np.ascontiguousarray(chunk[:, :3]),
                last if len(last) else np.zeros(1, np.int64),
                is_prompt=is_prompt,
            )
            parts.append(found[: len(last)])
        z = np.concatenate(parts)
    for row, new in zip(cache.ids, ids, strict=True):
        row.extend(new)
    return z


def _read(
    buffers: Buffers,
    config: Any,
    cache: Any,
    tokens: np.ndarray,
    last: np.ndarray,
    one_each: bool = False,
    is_prompt: bool = False,
) -> np.ndarray:
    """Logits after the tokens `last` of tokens (M, 3): id, row, position."""
    M = len(tokens)
    if one_each:
        blocks = np.empty((M, 6), np.int64)
        blocks[:, 0] = tokens[:, 1]
        blocks[:, 1] = last
        blocks[:, 2] = last + 1
        blocks[:, 3], blocks[:, 4] = 0, 1
        blocks[:, 5] = tokens[:, 2] + 1
    else:
        ends = np.flatnonzero(np.diff(tokens[:, 1], append=-1)) + 1
        found = []
        for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            row, S = tokens[begin, 1], tokens[end - 1, 2] + 1
            found += [
                (row, begin, end, first, min(first + QUERIES, end - begin), S)
                for first in range(0, end - begin, QUERIES)
            ]
        blocks = np.array(found[::-1])  # the longest first: they see the most keys
    k, v = cache.k, cache.v
    if k.dtype == np.float16:
        k, v = k.view(np.uint16), v.view(np.uint16)
    with LOCK:
        room, sync = _room(buffers, config, M, len(last), is_prompt)
        read = Read(tokens, blocks, last, sync)
        run(tier_isa(buffers.dtype), read, _weights(buffers, config), k, v, room)
        z = room.z[: len(last), : config.vocab_size].copy()
    return z


def _weights(buffers: Buffers, config: Any) -> Weights:
    """The kernel's arguments that never change."""
    if "weights" not in buffers.room:
        scale = [attention_scale(config, i) for i in range(config.n_layer)]
        numbers = [config.n_embd, config.inner_dim, buffers.head.outputs]
        numbers += [padded(n, buffers.dtype) for n in (config.n_embd, config.inner_dim)]
        table, head = buffers.table, buffers.head
        buffers.room["weights"] = Weights(
            table.data,
            table.scales,
            buffers.wpe,
            buffers.data,
            buffers.scales,
            buffers.vectors,
            buffers.ln_f.reshape(-1),
            head.data,
            head.scales,
            np.array(numbers),
            np.array(scale, np.float32),
            np.float32(config.layer_norm_epsilon),
        )
    return buffers.room["weights"]


def _room(
    buffers: Buffers, config: Any, M: int, B: int, is_prompt: bool
) -> tuple[Room, np.ndarray]:
    """Scratch for M tokens, kept for the next step of that size."""
    threads, isa = get_num_threads(), tier_isa(buffers.dtype)
    key = M, B, threads, isa, is_prompt
    if buffers.room.get("key") != key:
        C, inner = config.n_embd, config.inner_dim
        copies = threads if M <= SMALL else 1
        K = -(-max(C, inner) // 64) * 64
        one = new_narrowed(M, K, buffers.dtype, isa, is_prompt)
        narrowed = [zeros((copies, *a.shape), a.dtype) for a in one]
        buffers.room.update(
            key=key,
            scratch=Room(
                zeros((M, _stride(C)), np.float32),
                zeros((copies, M, _stride(C)), np.float32),
                _results(M, _stride(_columns(3 * C))),
                _results(M, _stride(_columns(inner))),
                zeros((M, _stride(C)), np.float32),
                _results(M, _stride(_columns(C))),
                *narrowed,
                _results(B, _columns(config.vocab_size)),
                zeros((threads, scratch_size(config.head_dim)), np.float32),
            ),
            sync=new_sync(4 * PHASES * config.n_layer + 4),
        )
    return buffers.room["scratch"], buffers.room["sync"]


def _results(M: int, width: int) -> np.ndarray:
    """Room for what a product writes: whole tiles, though M rows count."""
    return zeros((whole_rows(M), width), np.float32)[:M]


def _columns(m: int) -> int:
    return -(-m // PANEL) * PANEL


def _stride(n: int) -> int:
    """64 for the filling of int8, 16 so that rows do not share a cache set."""
    return -(-n // 64) * 64 + 16
