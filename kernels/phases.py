"""The phases of a step, as every thread of the team goes through them.

Kernels only; npgpt.kernels.step says what they are for and calls `run`. Arrays come in
checked and sized. A phase that all threads share takes its tasks from `sync`; a private
one is done by every thread for itself, into arrays of its own.
"""

from __future__ import annotations

import numpy as np
from npgpt.kernels.attention import NO_MASK, attend
from npgpt.kernels.compiling import kernel, stay_apart
from npgpt.kernels.elementwise import gelu_one, narrow
from npgpt.kernels.embedding import table_row
from npgpt.kernels.layer_norm import norm_row
from npgpt.kernels.linear import ROWS, quantise_row, strip
from npgpt.kernels.packed import PANEL
from npgpt.kernels.team import claim, claim_next, wait
from numba import prange

PHASES = 9  # of a block
QKV, GELU, RESIDUAL, PLAIN = range(4)  # what follows a product


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
def _product(
    sync,
    phase,
    isa,
    what,
    data,
    at,
    scales,
    scales_at,
    K,
    m,
    threads,
    a,
    q,
    q_scale,
    q_start,
    c,
    bias,
    x,
    tokens,
    k_cache,
    v_cache,
    C,
    D,
):
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
        strip(
            isa,
            data,
            at,
            scales,
            scales_at,
            K,
            first,
            last,
            top,
            bottom,
            a,
            q,
            q_scale,
            q_start,
            c,
        )
        if what != PLAIN:
            _finish(
                what,
                c,
                bias,
                x,
                top,
                bottom,
                first * PANEL,
                min(m, last * PANEL),
                tokens,
                k_cache,
                v_cache,
                C,
                D,
            )
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
        attend(
            qkv[begin:end, h * D : (h + 1) * D],
            k_cache[row, h],
            v_cache[row, h],
            mask,
            True,
            0,
            scale,
            first,
            last,
            end - begin,
            S,
            context[begin:end, h * D : (h + 1) * D],
            scratch,
        )
        task = claim_next(sync, phase, count)
    wait(sync, phase, count)


@kernel
def _blocks(
    thread,
    isa,
    tokens,
    blocks,
    last,
    table,
    table_scales,
    wpe,
    data,
    scales,
    vectors,
    ln_f,
    head,
    head_scales,
    numbers,
    scale,
    epsilon,
    k_cache,
    v_cache,
    x,
    normed,
    qkv,
    hidden,
    context,
    result,
    q,
    q_scale,
    q_start,
    z,
    scratch,
    sync,
):
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
        _product(
            sync,
            phase + 1,
            isa,
            after[QKV],
            w,
            at,
            s,
            s_at,
            KC,
            3 * C,
            threads,
            a,
            qC,
            qC_scale,
            q_start,
            qkv,
            vector,
            x,
            tokens,
            k,
            v,
            C,
            D,
        )
        at += KC * _columns(3 * C)
        s_at += KC // 64 * _columns(3 * C)
        vector = vector[3 * C :]
        _attend(
            sync, phase + 2, blocks, qkv, k, v, scale[layer], C, D, none, context, room
        )
        if int8:
            _quantise(sync, phase + 3, private, context, qC, qC_scale, q_start)
        _product(
            sync,
            phase + 4,
            isa,
            after[RESIDUAL],
            w,
            at,
            s,
            s_at,
            KC,
            C,
            threads,
            context,
            qC,
            qC_scale,
            q_start,
            result,
            vector,
            x,
            tokens,
            k,
            v,
            C,
            D,
        )
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
        _product(
            sync,
            phase + 6,
            isa,
            after[GELU],
            w,
            at,
            s,
            s_at,
            KC,
            inner,
            threads,
            a,
            qC,
            qC_scale,
            q_start,
            hidden,
            vector,
            x,
            tokens,
            k,
            v,
            C,
            D,
        )
        at += KC * _columns(inner)
        s_at += KC // 64 * _columns(inner)
        vector = vector[inner:]
        if int8:
            _quantise(sync, phase + 7, private, hidden, qI, qI_scale, q_start)
        _product(
            sync,
            phase + 8,
            isa,
            after[RESIDUAL],
            w,
            at,
            s,
            s_at,
            KI,
            C,
            threads,
            hidden,
            qI,
            qI_scale,
            q_start,
            result,
            vector,
            x,
            tokens,
            k,
            v,
            C,
            D,
        )
    phase = 1 + len(data) * PHASES
    _norm_rows(
        sync, phase, private, int8, x, last, ln_f, epsilon, a, qC, qC_scale, q_start
    )
    B = len(last)
    _product(
        sync,
        phase + 1,
        isa,
        after[PLAIN],
        head,
        zero,
        head_scales,
        zero,
        KC,
        V,
        threads,
        a[:B],
        qC[:B],
        qC_scale[:B],
        q_start[:B],
        z,
        vectors[0],
        x,
        tokens,
        k_cache[0],
        v_cache[0],
        C,
        D,
    )


@kernel(parallel=True)
def run(
    isa,
    tokens,
    blocks,
    last,
    table,
    table_scales,
    wpe,
    data,
    scales,
    vectors,
    ln_f,
    head,
    head_scales,
    numbers,
    scale,
    epsilon,
    k_cache,
    v_cache,
    x,
    normed,
    qkv,
    hidden,
    context,
    result,
    q,
    q_scale,
    q_start,
    z,
    scratch,
    sync,
):
    """One step, or one chunk of prompts: the team starts here, and ends."""
    sync[:] = 0
    for thread in prange(len(scratch)):
        _blocks(
            np.int64(thread),
            isa,
            tokens,
            blocks,
            last,
            table,
            table_scales,
            wpe,
            data,
            scales,
            vectors,
            ln_f,
            head,
            head_scales,
            numbers,
            scale,
            epsilon,
            k_cache,
            v_cache,
            x,
            normed,
            qkv,
            hidden,
            context,
            result,
            q,
            q_scale,
            q_start,
            z,
            scratch,
            sync,
        )
