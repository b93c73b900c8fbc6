"""The forward pass as every thread of the team goes through it, phase by phase.

    embed; for each block norm, product, attention, product, norm, product, product;
    norm, head

`run` starts the team and ends it. Its arguments are named tuples of arrays, checked and
sized by npgpt.kernels.step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from npgpt.kernels.compiling import inner_kernel, kernel, stay_apart
from npgpt.kernels.narrow import SMALL, Inputs
from npgpt.kernels.packed import GROUP
from npgpt.kernels.phases import (
    GELU,
    PLAIN,
    QKV,
    RESIDUAL,
    After,
    Arrays,
    attend_all,
    embed,
    narrow_rows,
    norm_rows,
    product,
)
from npgpt.kernels.strips import Matrix, columns

PHASES = 3  # of each of a block's four products: attention, inputs, the product


class Weights(NamedTuple):
    """What never changes: npgpt.kernels.prepare.Buffers, and the model's numbers."""

    table: Arrays
    table_scales: Arrays
    wpe: Arrays
    data: Arrays  # (L, numbers)
    scales: Arrays
    vectors: Arrays
    ln_f: Arrays  # (2 C,)
    head: Arrays
    head_scales: Arrays
    numbers: Arrays  # C, inner, vocabulary, and C and inner with their filling
    scale: Arrays  # of the attention scores, (L,)
    epsilon: np.float32


class Room(NamedTuple):
    """Scratch for M tokens; copies: 1, or the threads where each works for itself."""

    x: Arrays  # (M, C), the residual stream
    normed: Arrays  # (copies, M, C)
    qkv: Arrays
    hidden: Arrays
    context: Arrays
    result: Arrays
    q: Arrays  # (copies, M or 0, K) narrowed inputs; scales and sums of their groups
    q_scale: Arrays
    q_start: Arrays
    z: Arrays  # (B, V)
    scratch: Arrays  # (threads, numbers) for attention


@inner_kernel
def _inputs(a, room, mine, K):
    """Rows of a as a product takes them: with room for what they are narrowed to."""
    many = min(len(a), room.q.shape[1])
    if room.q.itemsize > 1 and len(a) <= SMALL:
        many = np.int64(0)
    return Inputs(
        a,
        room.q[mine, :many, :K],
        room.q_scale[mine, :many, : K // GROUP],
        room.q_start[mine, :many],
    )


@inner_kernel
def _forward(thread, isa, read, w, k_cache, v_cache, room):
    """What each thread of the team does."""
    stay_apart()
    C, inner, V = w.numbers[0], w.numbers[1], w.numbers[2]
    KC, KI = w.numbers[3], w.numbers[4]
    M, threads = len(read.tokens), len(room.scratch)
    private = len(room.normed) > 1
    mine = thread if private else 0
    sync, a, rows = read.sync, room.normed[mine], np.arange(M)
    embed(read, w.table, w.table_scales, KC, w.wpe, room.x)
    for layer in range(len(w.data)):
        after = After(room.x, k_cache[layer], v_cache[layer])
        at, s_at, vector = np.int64(0), np.int64(0), w.vectors[layer]
        for part in range(4):
            phase = 1 + (4 * layer + part) * PHASES
            if part % 2 == 0:
                what = QKV if part == 0 else GELU
                m, c = (3 * C, room.qkv) if part == 0 else (inner, room.hidden)
                K, inputs = KC, _inputs(a, room, mine, KC)
                ln, vector = vector[: 2 * C], vector[2 * C :]
                norm_rows(sync, phase, private, room.x, rows, ln, w.epsilon, inputs)
            else:
                what, m, c = RESIDUAL, C, room.result
                if part == 1:
                    attend_all(
                        read,
                        phase,
                        isa,
                        room.qkv,
                        after.k,
                        after.v,
                        w.scale[layer],
                        room.context,
                        room.scratch[thread],
                    )
                    K, inputs = KC, _inputs(room.context, room, mine, KC)
                else:
                    K, inputs = KI, _inputs(room.hidden, room, mine, KI)
                if inputs.q.shape[0]:
                    narrow_rows(sync, phase + 1, private, inputs)
            matrix = Matrix(w.data[layer], at, w.scales[layer], s_at, K, m)
            product(
                read, phase + 2, isa, what, threads, matrix, inputs, c, vector, after
            )
            vector = vector[m:]
            at += K * columns(m)
            s_at += K // GROUP * columns(m)
    phase = 1 + 4 * len(w.data) * PHASES
    B, none = len(read.last), np.int64(0)
    inputs = _inputs(a[:B], room, mine, KC)
    norm_rows(sync, phase, private, room.x, read.last, w.ln_f, w.epsilon, inputs)
    matrix = Matrix(w.head, none, w.head_scales, none, KC, V)
    after = After(room.x, k_cache[0], v_cache[0])
    product(
        read,
        phase + 2,
        isa,
        np.int64(PLAIN),
        threads,
        matrix,
        inputs,
        room.z,
        w.ln_f,
        after,
    )


@kernel(parallel=True)
def run(isa, read, w, k_cache, v_cache, room):
    """One step, or one chunk of prompts: the team starts here, and ends."""
    read.sync[:] = 0
    for thread in prange(len(room.scratch)):
        _forward(np.int64(thread), isa, read, w, k_cache, v_cache, room)
