"""What a config costs: parameters by part, FLOPs a token, bytes of memory.

Computed from the config alone, so it works for models whose weights are not here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from npgpt.config import GPT2Config
from npgpt.errors import CheckpointError
from npgpt.storage.checkpoint import expected_shapes
from npgpt.support.arguments import checked

_PARTS = (  # checkpoint name contains -> part of the model
    ("wte", "token embeddings"),
    ("wpe", "position embeddings"),
    (".attn.", "attention"),
    (".mlp.", "mlp"),
    ("ln_", "layer norms"),
    ("lm_head", "output head"),
)


@dataclass(frozen=True)
class ModelInfo:
    """Sizes of a model. FLOPs count a multiplication and an addition as two."""

    parameters: int
    parameters_by_part: dict[str, int]
    flops_per_token: int  # one new token at an empty context
    flops_per_token_full: int  # one new token at a full context
    kv_bytes_per_token: int
    weight_bytes: int
    kv_bytes: int  # one row at full context

    @property
    def memory_bytes(self) -> int:
        """Weights and one full KV cache."""
        return self.weight_bytes + self.kv_bytes


@checked(CheckpointError)
def describe(config: GPT2Config, itemsize: int = 4) -> ModelInfo:
    """Sizes of a model whose weights and cache take `itemsize` bytes a number.

    >>> describe(GPT2Config()).parameters
    124439808
    """
    by_part: dict[str, int] = {}
    # One block stands for all: a config may claim billions of layers.
    for name, shape in expected_shapes(replace(config, n_layer=1)).items():
        part = next(part for key, part in _PARTS if key in name)
        times = config.n_layer if name.startswith("h.") else 1
        by_part[part] = by_part.get(part, 0) + times * math.prod(shape)
    C, L = config.n_embd, config.n_layer
    matrices = L * (4 * C * C + 2 * C * config.inner_dim) + C * config.vocab_size
    scores = 2 * L * 2 * C  # q k^T and weights v, for each position that is seen
    parameters = sum(by_part.values())
    kv_token = 2 * L * C * itemsize
    return ModelInfo(
        parameters=parameters,
        parameters_by_part=by_part,
        flops_per_token=2 * matrices + scores,
        flops_per_token_full=2 * matrices + scores * config.n_positions,
        kv_bytes_per_token=kv_token,
        weight_bytes=parameters * itemsize,
        kv_bytes=kv_token * config.n_positions,
    )
