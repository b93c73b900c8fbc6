"""Parameters -> what the kernels want: packed once at load, in a few large arrays.

Matrices of all blocks lie in one array (L, numbers), so the kernel of a whole step
needs no table of addresses; biases and norms in another. The tree that comes back has
the shape of GPT2Params, its leaves being views into these arrays, and carries the
arrays themselves as `buffers`. A tree that was rebuilt from parts (fewer blocks, say)
has no buffers and runs function by function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from npgpt.block import MLP, Affine, Attention, Block
from npgpt.gpt2 import GPT2Params, Weight
from npgpt.kernels.packed import SCALE, STORED, Packed, own, pack, sizes, zeros
from npgpt.support.files import forget

LARGE = 300_000_000  # parameters, from which packing shows its progress


@dataclass(frozen=True)
class Buffers:
    """All numbers of a model, as the step kernel reads them."""

    dtype: str
    data: np.ndarray  # (L, numbers): c_attn, attn.c_proj, c_fc, mlp.c_proj
    scales: np.ndarray  # (L, numbers), no numbers unless int8
    vectors: np.ndarray  # (L, numbers) float32: norms and biases
    table: Packed  # (V, C)
    head: Packed  # (V, C), the same object where tied
    wpe: np.ndarray  # (n_positions, C) float32
    ln_f: np.ndarray  # (2, C) float32
    room: dict[Any, Any] = field(default_factory=dict)  # scratch of the last shapes

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.data, self.scales, self.vectors, self.table, self.head
        return restored, (self.dtype, *parts, self.wpe, self.ln_f)  # no scratch

    @property
    def nbytes(self) -> int:
        """Bytes of everything, tied arrays once."""
        tables = self.table.nbytes + self.head.nbytes * (self.head is not self.table)
        arrays = (self.data, self.scales, self.vectors, self.wpe, self.ln_f)
        return tables + sum(array.nbytes for array in arrays)

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that one decoded token reads: the blocks and the head."""
        return self.data.nbytes + self.scales.nbytes + self.head.nbytes


class PackedParams(GPT2Params):
    """GPT2Params whose matrices are Packed; `buffers` holds them together."""

    buffers: Buffers | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.buffers is None:
            return super().__reduce_ex__(protocol)
        return assemble, (self.config, self.buffers)  # what are views stay views


def restored(dtype: str, *parts: Any) -> Buffers:
    """Buffers out of a pickle, or copied: their arrays lie as `prepare` lays them."""
    data, scales, vectors, table, head, wpe, ln_f = parts
    data, scales, vectors, wpe, ln_f = map(own, (data, scales, vectors, wpe, ln_f))
    return Buffers(dtype, data, scales, vectors, table, head, wpe, ln_f)


def matrices(config: Any) -> tuple[tuple[int, int], ...]:
    """Inputs and outputs of a block's four matrices, in the order of the buffer."""
    C, inner = config.n_embd, config.inner_dim
    return (C, 3 * C), (C, C), (C, inner), (inner, C)


def vector_lengths(config: Any) -> tuple[int, ...]:
    """Norm 1, its shift, the biases, norm 2 and its shift: where, in this order."""
    C, inner = config.n_embd, config.inner_dim
    return C, C, 3 * C, C, C, C, inner, C


def prepare(params: GPT2Params, dtype: str, xp: ModuleType) -> PackedParams:
    """Pack every matrix as float32, bfloat16 or int8 (npgpt.kernels.packed says how).

    Vectors (biases, norms) and position embeddings stay float32.
    """
    config = params.config
    if isinstance(params, PackedParams) and params.buffers is not None:
        if params.buffers.dtype == dtype:
            return params
        params = unpacked(params)
    # The largest first, while nothing else is in memory
    table = pack(params.wte.weight, dtype, is_table=True)
    forget(params.wte.weight)
    tied = params.lm_head.weight is params.wte.weight
    head = table if tied else pack(params.lm_head.weight, dtype, is_table=True)
    shapes, lengths = matrices(config), vector_lengths(config)
    parts = [sizes(n, m, dtype) for n, m in shapes]
    data = zeros((config.n_layer, sum(d for d, _ in parts)), STORED[dtype])
    scales = zeros((config.n_layer, sum(s for _, s in parts)), SCALE)
    vectors = np.zeros((config.n_layer, sum(lengths)), np.float32)
    show = _progress(config)
    for i, block in enumerate(show(params.h)):
        at = scale_at = 0
        for (n, s), affine in zip(parts, _affines(block), strict=True):
            out = data[i, at : at + n], scales[i, scale_at : scale_at + s]
            pack(affine.weight, dtype, out=out)
            at, scale_at = at + n, scale_at + s
        for into, vector in zip(
            _cut(vectors[i], lengths), _vectors(block), strict=True
        ):
            into[:] = vector
        forget(block.mlp.c_proj.weight)
    wpe = np.array(params.wpe.weight, np.float32)
    ln_f = np.array([params.ln_f.weight, params.ln_f.bias], np.float32)
    return assemble(
        config, Buffers(dtype, data, scales, vectors, table, head, wpe, ln_f)
    )


def assemble(config: Any, buffers: Buffers) -> PackedParams:
    """The tree of views into these buffers."""
    dtype, shapes = buffers.dtype, matrices(config)
    parts = [sizes(n, m, dtype) for n, m in shapes]
    blocks = []
    for i in range(config.n_layer):
        weights = [
            Packed(d, s, n, m, dtype)
            for d, s, (n, m) in zip(
                _cut(buffers.data[i], [d for d, _ in parts]),
                _cut(buffers.scales[i], [s for _, s in parts]),
                shapes,
                strict=True,
            )
        ]
        w1, b1, qkv, proj, w2, b2, fc, out = _cut(
            buffers.vectors[i], vector_lengths(config)
        )
        blocks.append(
            Block(
                Affine(w1, b1),
                Attention(Affine(weights[0], qkv), Affine(weights[1], proj)),
                Affine(w2, b2),
                MLP(Affine(weights[2], fc), Affine(weights[3], out)),
            )
        )
    wte = Weight(buffers.table)
    head = wte if buffers.head is buffers.table else Weight(buffers.head)
    tree = PackedParams(
        config, wte, Weight(buffers.wpe), tuple(blocks), Affine(*buffers.ln_f), head
    )
    tree.buffers = buffers
    return tree


def unpacked(params: GPT2Params) -> GPT2Params:
    """Plain float32 arrays again, as they were rounded."""
    table = np.asarray(params.wte.weight)
    tied = params.lm_head.weight is params.wte.weight
    blocks = tuple(
        Block(
            block.ln_1,
            Attention(*(Affine(np.asarray(a.weight), a.bias) for a in block.attn)),
            block.ln_2,
            MLP(*(Affine(np.asarray(a.weight), a.bias) for a in block.mlp)),
        )
        for block in params.h
    )
    wte = Weight(table)
    head = wte if tied else Weight(np.asarray(params.lm_head.weight))
    return GPT2Params(params.config, wte, params.wpe, blocks, params.ln_f, head)


def _affines(block: Block) -> tuple[Affine, ...]:
    return (*block.attn, *block.mlp)


def _vectors(block: Block) -> tuple[Any, ...]:
    attn, mlp = block.attn, block.mlp
    biases = attn.c_attn.bias, attn.c_proj.bias
    return (*block.ln_1, *biases, *block.ln_2, mlp.c_fc.bias, mlp.c_proj.bias)


def _cut(array: np.ndarray, lengths: Any) -> Iterator[np.ndarray]:
    ends = np.cumsum(lengths).tolist()
    return iter(array[end - n : end] for n, end in zip(lengths, ends, strict=True))


def _progress(config: Any) -> Callable:
    """A bar on stderr for large models, where someone sees it."""
    matrices_size = sum(n * m for n, m in matrices(config)) * config.n_layer
    if matrices_size < LARGE or not sys.stderr.isatty():
        return lambda blocks: blocks
    from tqdm import tqdm

    return lambda blocks: tqdm(
        blocks, desc="packing weights", unit="block", leave=False
    )
