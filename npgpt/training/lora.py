"""LoRA: fine-tune a model by training two thin matrices beside each large one.

    y = x W + b + s (x A) B        W (n, m) stays, A (n, r) and B (r, m) learn

With r of 8 a layer of GPT-2 learns 2 % of its numbers: the gradient of W is never
computed, and AdamW keeps no moments for it. B starts at 0, so the model starts as it
was; A starts at random. s = alpha / r. Afterwards W + s A B is an ordinary weight
(`merge`), and the result an ordinary model.

`attach` puts an Adapted in the place of each weight, `lora_engine` is an engine whose
linear map and its derivative know what that is; `collect` finds the gradients again.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from npgpt.block import Affine
from npgpt.errors import TrainingError
from npgpt.gpt2 import GPT2Params
from npgpt.shapes import Array
from npgpt.support.arguments import check_fields
from npgpt.training.engine import Engine

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True)
class LoraConfig:
    """Rank r, alpha (s = alpha / r), and which matrices of every block learn."""

    rank: int = 8
    alpha: float = 16.0
    matrices: tuple[str, ...] = MATRICES

    def __post_init__(self):
        check_fields(self, TrainingError)
        if self.rank < 1:
            raise TrainingError(f"LoRA's rank must be at least 1, not {self.rank}")
        for name in self.matrices:
            if name not in MATRICES:
                raise TrainingError(
                    f"LoRA matrix {name!r} is not one of {', '.join(MATRICES)}"
                )
        if not self.matrices:
            raise TrainingError(f"LoRA needs a matrix of {', '.join(MATRICES)}")


class Adapter(NamedTuple):
    """A (n, r) and B (r, m) of one matrix."""

    a: Array
    b: Array


class Lora(NamedTuple):
    """All adapters, and how they are used: block i, matrix name -> adapters[i][j]."""

    config: LoraConfig
    adapters: tuple[tuple[Adapter, ...], ...]


class Adapted(NamedTuple):
    """A weight that stays, beside its adapter (None: it just stays)."""

    weight: Array
    adapter: Adapter | None
    scale: float


def new_lora(params: GPT2Params, config: LoraConfig, seed: int, xp: ModuleType) -> Lora:
    """Adapters for a model: A uniform with variance 1 / (3 n), B zero."""

    def new(i: int, name: str) -> Adapter:
        n, m = _affine(params.h[i], name).weight.shape
        counter = [0, i, zlib.crc32(name.encode()), 0]
        rng = np.random.Generator(np.random.Philox(key=seed, counter=counter))
        a = rng.uniform(-1, 1, (n, config.rank)) / n**0.5
        return Adapter(
            xp.asarray(a.astype(np.float32)),
            xp.zeros((config.rank, m), dtype=xp.float32),
        )

    blocks = range(len(params.h))
    return Lora(
        config, tuple(tuple(new(i, n) for n in config.matrices) for i in blocks)
    )


def attach(params: GPT2Params, lora: Lora) -> GPT2Params:
    """The parameters with an Adapted for every weight of the blocks' matrices."""

    def adapted(affine: Affine, adapter: Adapter | None) -> Affine:
        scale = lora.config.alpha / lora.config.rank
        return Affine(Adapted(affine.weight, adapter, scale), affine.bias)

    return _with_matrices(params, lora, MATRICES, adapted)


def merge(params: GPT2Params, lora: Lora) -> GPT2Params:
    """Ordinary parameters: W + s A B for every matrix that learned."""

    def merged(affine: Affine, adapter: Adapter | None) -> Affine:
        scale = lora.config.alpha / lora.config.rank
        if adapter is None:
            return affine
        return Affine(affine.weight + scale * (adapter.a @ adapter.b), affine.bias)

    return _with_matrices(params, lora, lora.config.matrices, merged)


def collect(grads: GPT2Params, lora: Lora) -> Lora:
    """The adapters' gradients out of those of attached parameters."""
    return Lora(
        lora.config,
        tuple(
            tuple(_affine(block, name).weight for name in lora.config.matrices)
            for block in grads.h
        ),
    )


def lora_engine(engine: Engine) -> Engine:
    """The engine with a linear map, and its derivative, for Adapted weights."""
    backend = engine.backend

    def linear(x: Array, weight: Any, bias: Array | None = None) -> Array:
        if not isinstance(weight, Adapted):
            return backend.linear(x, weight, bias)
        y = backend.linear(x, weight.weight, bias)
        if weight.adapter is not None:
            y += weight.scale * backend.linear(
                backend.linear(x, weight.adapter.a), weight.adapter.b
            )
        return y

    def linear_backward(
        dy: Array, x: Array, weight: Any, has_bias: bool = True
    ) -> tuple[Any, Any, Any]:
        if not isinstance(weight, Adapted):
            return engine.linear(dy, x, weight, has_bias)
        dx = backend.linear(dy, weight.weight.T)
        if weight.adapter is None:
            return dx, None, None
        inner = backend.linear(x, weight.adapter.a)
        scaled, (a, b) = weight.scale * dy, weight.adapter
        dinner, db, _ = engine.linear(scaled, inner, b, has_bias=False)
        dx_too, da, _ = engine.linear(dinner, x, a, has_bias=False)
        dx += dx_too
        return dx, Adapter(da, db), None

    backend_too = replace(backend, linear=linear)
    return engine._replace(backend=backend_too, linear=linear_backward)


def _affine(block: Any, name: str) -> Affine:
    part, matrix = name.split(".")
    return getattr(getattr(block, part), matrix)


def _with_matrices(
    params: GPT2Params, lora: Lora, names: tuple[str, ...], change: Any
) -> GPT2Params:
    """The parameters with change(affine, adapter) for these matrices."""
    blocks = []
    for block, adapters in zip(params.h, lora.adapters, strict=True):
        found = dict(zip(lora.config.matrices, adapters, strict=True))
        for name in names:
            part, matrix = name.split(".")
            affine = change(_affine(block, name), found.get(name))
            layer = getattr(block, part)._replace(**{matrix: affine})
            block = block._replace(**{part: layer})
        blocks.append(block)
    return params._replace(h=tuple(blocks))
