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
token only. Equal to the plain path up to rounding: tests/test_kernels_step.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import get_num_threads, prange

from npgpt.gpt2 import attention_scale
from npgpt.kernels.attention import NO_MASK, QUERIES, attend, scratch_size
from npgpt.kernels.compiling import LOCK, kernel, report, stay_apart
from npgpt.kernels.elementwise import gelu_one, narrow
from npgpt.kernels.embedding import table_row
from npgpt.kernels.layer_norm import norm_row
from npgpt.kernels.linear import ROWS, new_quantised, quantise_row, strip
from npgpt.kernels.packed import PANEL, padded
from npgpt.kernels.prepare import Buffers, PackedParams, matrices
from npgpt.kernels.team import claim, claim_next, new_sync, wait
from npgpt.kernels.tiers import isa as tier_isa

CHUNK = 1024  # tokens read at once: their activations take 30 MB at the 124M shape
SMALL = 8  # rows up to which each thread prepares its own inputs
PHASES = 9  # of a block
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
QKV, GELU, RESIDUAL, PLAIN = range(4)  # what follows a product


def decode_step(
    params: Any, ids: Sequence[Sequence[int]], cache: Any
) -> np.ndarray | None:
    """Read each row's new ids (at least one); logits (B, V) after its last.

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
    if sum(map(len, ids)) == len(ids):
        tokens = np.array([(new[0], b, held[b]) for b, new in enumerate(ids)])
        z = _read(buffers, config, cache, tokens, len(ids))
    else:
        tokens = np.array(
            [
                (id, b, held[b] + t)
                for b, new in enumerate(ids)
                for t, id in enumerate(new)
            ]
        )
        z = np.empty((len(ids), config.vocab_size), np.float32)
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            found = _read(buffers, config, cache, chunk, None)
            z[np.unique(chunk[:, 1])] = found
    for row, new in zip(cache.ids, ids, strict=True):
        row.extend(new)
    return z


def _read(
    buffers: Buffers, config: Any, cache: Any, tokens: np.ndarray, one_each: int | None
) -> np.ndarray:
    """Logits after the last token of each row in tokens (M, 3): id, row, position."""
    M = len(tokens)
    if one_each:
        blocks = np.empty((M, 6), np.int64)
        blocks[:, 0] = tokens[:, 1]
        blocks[:, 1] = last = np.arange(M)
        blocks[:, 2] = last + 1
        blocks[:, 3], blocks[:, 4] = 0, 1
        blocks[:, 5] = tokens[:, 2] + 1
    else:
        ends = np.flatnonzero(np.diff(tokens[:, 1], append=-1)) + 1
        last, found = ends - 1, []
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
        room = _room(buffers, config, M, len(last))
        _step(tier_isa(), tokens, blocks, last, *_weights(buffers, config), k, v, *room)
        z = room[-3][: len(last), : config.vocab_size].copy()
    report()
    return z


def _weights(buffers: Buffers, config: Any) -> tuple:
    """The kernel's arguments that never change."""
    if "weights" not in buffers.room:
        scale = [attention_scale(config, i) for i in range(config.n_layer)]
        numbers = [config.n_embd, config.n_head, config.inner_dim, buffers.head.outputs]
        numbers += [padded(n, buffers.dtype) for n in (config.n_embd, config.inner_dim)]
        table, head = buffers.table, buffers.head
        buffers.room["weights"] = (
            table.data, table.scales, buffers.wpe, buffers.data, buffers.scales,
            buffers.vectors, buffers.ln_f, head.data, head.scales, np.array(numbers),
            np.array(scale, np.float32), np.float32(config.layer_norm_epsilon),
        )  # fmt: skip
    return buffers.room["weights"]


def _room(buffers: Buffers, config: Any, M: int, B: int) -> tuple:
    """Scratch for M tokens, kept for the next step of that size."""
    threads = get_num_threads()
    key = M, B, threads
    if buffers.room.get("key") != key:
        C, inner = config.n_embd, config.inner_dim
        columns = lambda m: -(-m // PANEL) * PANEL
        # 64 for the filling of int8, 16 so that rows do not share a cache set
        stride = lambda n: -(-n // 64) * 64 + 16
        copies = threads if M <= SMALL else 1
        K = -(-max(C, inner) // 64) * 64
        many = M if buffers.dtype == "int8" else 0
        quantised = [np.stack([a] * copies) for a in new_quantised(many, K)]
        buffers.room.update(
            key=key,
            scratch=(
                np.zeros((M, stride(C)), np.float32),
                np.zeros((copies, M, stride(C)), np.float32),
                np.zeros((M, stride(columns(3 * C))), np.float32),
                np.zeros((M, stride(columns(inner))), np.float32),
                np.zeros((M, stride(C)), np.float32),
                np.zeros((M, stride(columns(C))), np.float32),
                *quantised,
                np.zeros((B, columns(config.vocab_size)), np.float32),
                np.zeros((threads, scratch_size(config.head_dim)), np.float32),
                new_sync(PHASES * config.n_layer + 3),
            ),
        )
    return buffers.room["scratch"]


@kernel
def _columns(m):
    return (m + PANEL - 1) // PANEL * PANEL


@kernel
def _norm_rows(
    sync, phase, private, int8, x, rows, ln, epsilon, out, q, q_scale, q_start
):
    """Normalise these rows of x; alone for oneself, or shared with the team."""
    stay_apart()
    count = len(rows)
    task = np.int64(0) if private else claim(sync, phase, count)
    while 0 <= task < count:
        norm_row(x[rows[task]], ln[0], ln[1], epsilon, out[task])
        if int8:
            quantise_row(out[task], q[task], q_scale[task], q_start[task])
        task = task + 1 if private else claim_next(sync, phase, count)
    if not private:
        wait(sync, phase, count)


@kernel
def _quantise(sync, phase, private, x, q, q_scale, q_start):
    """The same for inputs that need no norm."""
    stay_apart()
    count = len(x)
    task = np.int64(0) if private else claim(sync, phase, count)
    while 0 <= task < count:
        quantise_row(x[task], q[task], q_scale[task], q_start[task])
        task = task + 1 if private else claim_next(sync, phase, count)
    if not private:
        wait(sync, phase, count)


@kernel
def _finish(what, c, bias, x, top, bottom, low, high, tokens, k_cache, v_cache, C, D):
    """What follows a product, on the strip of columns low .. high - 1."""
    stay_apart()
    for r in range(top, bottom):
        if what == RESIDUAL:
            for j in range(low, high):
                x[r, j] += c[r, j] + bias[j]
        elif what == GELU:
            for j in range(low, high):
                c[r, j] = gelu_one(c[r, j] + bias[j])
        else:
            row, position = tokens[r, 1], tokens[r, 2]
            for j in range(low, high):
                c[r, j] += bias[j]
            for j in range(max(low, C), min(high, 2 * C)):
                h, d = (j - C) // D, (j - C) % D
                k_cache[row, h, position, d] = narrow(c[r, j], k_cache[0, 0, 0, 0])
            for j in range(max(low, 2 * C), high):
                h, d = (j - 2 * C) // D, (j - 2 * C) % D
                v_cache[row, h, position, d] = narrow(c[r, j], v_cache[0, 0, 0, 0])


@kernel
def _product(sync, phase, isa, what, data, at, scales, scales_at, K, m, threads,
             a, q, q_scale, q_start, c, bias, x, tokens, k_cache, v_cache, C, D):  # fmt: skip
    """c = a W, then _finish, in tasks of a strip of panels by a block of rows."""
    stay_apart()
    M, panels = len(a), (m + PANEL - 1) // PANEL
    size = max(1, min(16, panels // (8 * threads)))
    strips, blocks = (panels + size - 1) // size, (M + ROWS - 1) // ROWS
    count = strips * blocks
    task = claim(sync, phase, count)
    while task >= 0:
        top, first = task // strips * ROWS, task % strips * size
        bottom, last = min(M, top + ROWS), min(panels, first + size)
        strip(isa, data, at, scales, scales_at, K, first, last, top, bottom,
              a, q, q_scale, q_start, c)  # fmt: skip
        if what != PLAIN:
            _finish(what, c, bias, x, top, bottom, first * PANEL, min(m, last * PANEL),
                    tokens, k_cache, v_cache, C, D)  # fmt: skip
        task = claim_next(sync, phase, count)
    wait(sync, phase, count)


@kernel
def _attend(
    sync, phase, blocks, qkv, k_cache, v_cache, scale, C, D, mask, context, scratch
):
    """Attention of all heads and blocks of queries, as tasks."""
    stay_apart()
    H = C // D
    count = len(blocks) * H
    task = claim(sync, phase, count)
    while task >= 0:
        block, h = blocks[task // H], task % H
        row, begin, end = block[0], block[1], block[2]
        first, last, S = block[3], block[4], block[5]
        attend(qkv[begin:end, h * D : (h + 1) * D], k_cache[row, h], v_cache[row, h],
               mask, True, 0, scale, first, last, end - begin, S,
               context[begin:end, h * D : (h + 1) * D], scratch)  # fmt: skip
        task = claim_next(sync, phase, count)
    wait(sync, phase, count)


@kernel
def _blocks(thread, isa, tokens, blocks, last, table, table_scales, wpe, data, scales,
            vectors, ln_f, head, head_scales, numbers, scale, epsilon, k_cache, v_cache,
            x, normed, qkv, hidden, context, result, q, q_scale, q_start, z, scratch, sync):  # fmt: skip
    """What each thread of the team does: all phases of all blocks, in order."""
    stay_apart()
    M, threads, int8 = len(tokens), len(scratch), data.itemsize == 1
    C, H, inner = numbers[0], numbers[1], numbers[2]
    V, KC, KI = numbers[3], numbers[4], numbers[5]
    # not literals, for each of which Numba would compile once more
    zero, after = np.int64(0), np.arange(4)
    D, private, none = C // H, len(normed) > 1, NO_MASK[0]
    mine = thread if private else 0
    a, room, rows = normed[mine], scratch[thread], np.arange(M)
    # quantised inputs of width C and of width inner, in the same bytes
    qC, qC_scale = q[mine][:, :KC], q_scale[mine][:, : KC // 64]
    qI, qI_scale = q[mine][:, :KI], q_scale[mine][:, : KI // 64]
    q_start = q_start[mine]
    task = claim(sync, 0, M)
    while task >= 0:
        table_row(table, table_scales, KC, tokens[task, 0], x[task, :C])
        for i in range(C):
            x[task, i] += wpe[tokens[task, 2], i]
        task = claim_next(sync, 0, M)
    wait(sync, 0, M)
    for layer in range(len(data)):
        phase = 1 + layer * PHASES
        vector, at, s_at = vectors[layer], zero, zero
        k, v, w, s = k_cache[layer], v_cache[layer], data[layer], scales[layer]
        ln = vector[: 2 * C].reshape(2, C)
        vector = vector[2 * C :]
        _norm_rows(
            sync, phase, private, int8, x, rows, ln, epsilon, a, qC, qC_scale, q_start
        )
        _product(sync, phase + 1, isa, after[QKV], w, at, s, s_at, KC, 3 * C, threads,
                 a, qC, qC_scale, q_start, qkv, vector, x, tokens, k, v, C, D)  # fmt: skip
        at += KC * _columns(3 * C)
        s_at += KC // 64 * _columns(3 * C)
        vector = vector[3 * C :]
        _attend(
            sync, phase + 2, blocks, qkv, k, v, scale[layer], C, D, none, context, room
        )
        if int8:
            _quantise(sync, phase + 3, private, context, qC, qC_scale, q_start)
        _product(sync, phase + 4, isa, after[RESIDUAL], w, at, s, s_at, KC, C, threads,
                 context, qC, qC_scale, q_start, result, vector, x, tokens, k, v, C, D)  # fmt: skip
        at += KC * _columns(C)
        s_at += KC // 64 * _columns(C)
        vector = vector[C:]
        ln = vector[: 2 * C].reshape(2, C)
        vector = vector[2 * C :]
        _norm_rows(
            sync,
            phase + 5,
            private,
            int8,
            x,
            rows,
            ln,
            epsilon,
            a,
            qC,
            qC_scale,
            q_start,
        )
        _product(sync, phase + 6, isa, after[GELU], w, at, s, s_at, KC, inner, threads,
                 a, qC, qC_scale, q_start, hidden, vector, x, tokens, k, v, C, D)  # fmt: skip
        at += KC * _columns(inner)
        s_at += KC // 64 * _columns(inner)
        vector = vector[inner:]
        if int8:
            _quantise(sync, phase + 7, private, hidden, qI, qI_scale, q_start)
        _product(sync, phase + 8, isa, after[RESIDUAL], w, at, s, s_at, KI, C, threads,
                 hidden, qI, qI_scale, q_start, result, vector, x, tokens, k, v, C, D)  # fmt: skip
    phase = 1 + len(data) * PHASES
    _norm_rows(
        sync, phase, private, int8, x, last, ln_f, epsilon, a, qC, qC_scale, q_start
    )
    B = len(last)
    _product(sync, phase + 1, isa, after[PLAIN], head, zero, head_scales, zero, KC, V, threads,
             a[:B], qC[:B], qC_scale[:B], q_start[:B], z, vectors[0], x, tokens,
             k_cache[0], v_cache[0], C, D)  # fmt: skip


@kernel(parallel=True)
def _step(isa, tokens, blocks, last, table, table_scales, wpe, data, scales, vectors,
          ln_f, head, head_scales, numbers, scale, epsilon, k_cache, v_cache, x, normed,
          qkv, hidden, context, result, q, q_scale, q_start, z, scratch, sync):  # fmt: skip
    sync[:] = 0
    for thread in prange(len(scratch)):
        _blocks(np.int64(thread), isa, tokens, blocks, last, table, table_scales, wpe, data, scales,
                vectors, ln_f, head, head_scales, numbers, scale, epsilon, k_cache, v_cache,
                x, normed, qkv, hidden, context, result, q, q_scale, q_start, z, scratch, sync)  # fmt: skip
