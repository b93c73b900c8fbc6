"""The phases of a step, each a number of tasks that the team shares.

Kernels only; npgpt.kernels.forward puts them in order. Arrays come in checked and
sized. A phase that all threads share takes its tasks from `sync`; a private one is done
by every thread for itself, into arrays of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npgpt.kernels.attention import NO_MASK, attend
from npgpt.kernels.compiling import inner_kernel, stay_apart
from npgpt.kernels.elementwise import gelu_one, narrow
from npgpt.kernels.embedding import table_row
from npgpt.kernels.layer_norm import norm_row
from npgpt.kernels.narrow import narrow_row
from npgpt.kernels.packed import PANEL
from npgpt.kernels.strips import ROWS, strip, strip_size
from npgpt.kernels.team import claim, claim_next, wait

QKV, RESIDUAL, GELU, PLAIN = range(4)  # what follows a product
SOME = 8  # rows of a task that goes row by row
Arrays = np.ndarray


class Read(NamedTuple):
    """What is to be read: (M, 3) id, row, position; blocks of queries; last tokens."""

    tokens: Arrays
    blocks: Arrays  # (n, 6): row, begin, end, first, last, S
    last: Arrays  # the token of each row whose logits are wanted
    sync: Arrays  # counters of npgpt.kernels.team


class After(NamedTuple):
    """Where the results of a product go: the residual stream, or the cache."""

    x: Arrays  # (M, C)
    k: Arrays  # (B, H, n_positions, D) of this layer
    v: Arrays


@inner_kernel
def embed(read, table, table_scales, K, wpe, x):
    """Token and position embeddings: the first phase."""
    stay_apart()
    count, C = len(read.tokens), wpe.shape[1]
    task = claim(read.sync, 0, count)
    while task >= 0:
        row = x[task, :C]
        table_row(table, table_scales, K, read.tokens[task, 0], row)
        position = read.tokens[task, 2]
        for i in range(C):
            row[i] += wpe[position, i]
        task = claim_next(read.sync, 0, count)
    wait(read.sync, 0, count)


@inner_kernel
def norm_rows(sync, phase, private, x, rows, ln, epsilon, inputs):
    """Normalise these rows of x into inputs.a, and narrow them for the product."""
    stay_apart()
    count, C = (len(rows) + SOME - 1) // SOME, len(ln) // 2
    task = np.int64(0) if private else claim(sync, phase, count)
    while 0 <= task < count:
        for r in range(task * SOME, min(len(rows), task * SOME + SOME)):
            norm_row(x[rows[r]], ln[:C], ln[C:], epsilon, inputs.a[r])
            if inputs.q.shape[0]:
                narrow_row(inputs, r)
        task = task + 1 if private else claim_next(sync, phase, count)
    if not private:
        wait(sync, phase, count)


@inner_kernel
def narrow_rows(sync, phase, private, inputs):
    """Narrow inputs that need no norm."""
    stay_apart()
    rows = len(inputs.a)
    count = (rows + SOME - 1) // SOME
    task = np.int64(0) if private else claim(sync, phase, count)
    while 0 <= task < count:
        for r in range(task * SOME, min(rows, task * SOME + SOME)):
            narrow_row(inputs, r)
        task = task + 1 if private else claim_next(sync, phase, count)
    if not private:
        wait(sync, phase, count)


@inner_kernel
def _finish(what, c, bias, after, tokens, top, bottom, low, high):
    """What follows a product, on the strip of columns low .. high - 1."""
    stay_apart()
    D = after.k.shape[3]
    C = after.k.shape[1] * D
    b = bias[low:high]
    for r in range(top, bottom):
        part_c = c[r, low:high]
        if what == RESIDUAL:
            x = after.x[r, low:high]
            for j in range(len(b)):
                x[j] += part_c[j] + b[j]
        elif what == GELU:
            for j in range(len(b)):
                part_c[j] = gelu_one(part_c[j] + b[j])
        else:
            row, position = tokens[r, 1], tokens[r, 2]
            for j in range(len(b)):
                part_c[j] += b[j]
            for part, cache in ((1, after.k), (2, after.v)):
                j, end = max(low, part * C), min(high, part * C + C)
                while j < end:
                    h, d = (j - part * C) // D, (j - part * C) % D
                    to = cache[row, h, position]
                    n = min(end - j, D - d)
                    for i in range(n):
                        to[d + i] = narrow(c[r, j + i], to[0])
                    j += n


@inner_kernel
def product(read, phase, isa, what, threads, matrix, inputs, c, bias, after):
    """c = a W, then _finish, in tasks of a strip of panels by a block of rows."""
    stay_apart()
    M, m = len(inputs.a), matrix.m
    panels = (m + PANEL - 1) // PANEL
    size = strip_size(panels, M, threads)
    strips, blocks = (panels + size - 1) // size, (M + ROWS - 1) // ROWS
    count = strips * blocks
    task = claim(read.sync, phase, count)
    while task >= 0:
        top, first = task % blocks * ROWS, task // blocks * size
        bottom, last = min(M, top + ROWS), min(panels, first + size)
        strip(isa, matrix, first, last, top, bottom, inputs, c)
        if what != PLAIN:
            low, high = first * PANEL, min(m, last * PANEL)
            _finish(what, c, bias, after, read.tokens, top, bottom, low, high)
        task = claim_next(read.sync, phase, count)
    wait(read.sync, phase, count)


@inner_kernel
def attend_all(read, phase, isa, qkv, k, v, scale, context, scratch):
    """Attention of all heads and blocks of queries, as tasks."""
    stay_apart()
    H, D = k.shape[1], k.shape[3]
    count = len(read.blocks) * H
    task = claim(read.sync, phase, count)
    while task >= 0:
        block, h = read.blocks[task // H], task % H
        row, begin, end = block[0], block[1], block[2]
        attend(
            isa,
            qkv[begin:end, h * D : (h + 1) * D],
            k[row, h],
            v[row, h],
            NO_MASK[0],
            True,
            0,
            scale,
            block[3],
            block[4],
            end - begin,
            block[5],
            context[begin:end, h * D : (h + 1) * D],
            scratch,
        )
        task = claim_next(read.sync, phase, count)
    wait(read.sync, phase, count)
