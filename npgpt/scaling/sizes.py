"""What a config costs: parameters by part, FLOPs a token, bytes of memory.

Computed from the config alone, so it works for models whose weights are not here: the
published checkpoints, and the models of the GPT papers by their shapes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from npgpt.config import GPT2Config
from npgpt.errors import CheckpointError
from npgpt.storage import hub
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


def matrix_numbers(config: GPT2Config) -> int:
    """Weights that a decoding step reads: all matrices, and the table of logits.

    >>> matrix_numbers(GPT2Config())
    123532032
    """
    scores = 2 * config.n_layer * config.n_embd
    return describe(config).flops_per_token // 2 - scores


# The published sizes


CHECKPOINTS = {  # openai-community/* and distilbert/distilgpt2
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    "distilgpt2": GPT2Config(n_layer=6),
}


@checked(CheckpointError)
def find_config(name: str) -> GPT2Config:
    """The config of a published checkpoint or size, without any file, or of a folder.

    >>> find_config("gpt2-xl").n_layer, find_config("tales").n_layer
    (48, 6)
    >>> find_config("gpt3-175b").n_embd
    12288
    """
    if name in CHECKPOINTS and name not in hub.bundled():
        return CHECKPOINTS[name]
    for model in PUBLISHED:
        if model.name == name:
            return model.config
    return GPT2Config.from_file(hub.resolve(name, weights=False) / "config.json")


@dataclass(frozen=True)
class Published:
    """One model of the GPT papers by its shape; the MLP is four times as wide."""

    name: str
    layers: int
    heads: int
    width: int
    context: int
    vocab: int
    tokens: float | None = None  # seen in training, where it was published
    final_norm: bool = True

    @property
    def parameters(self) -> int:
        """V C + T C + L (12 C^2 + 13 C) + 2 C; the last for the final norm."""
        return (self.vocab + self.context) * self.width + self.without_embeddings

    @property
    def without_embeddings(self) -> int:
        """L (12 C^2 + 13 C) + 2 C: Kaplan et al.'s N."""
        C = self.width
        return self.layers * (12 * C * C + 13 * C) + 2 * C * self.final_norm

    @property
    def flops(self) -> float | None:
        """Of training: 6 N D. None where D is not known."""
        return None if self.tokens is None else 6 * self.parameters * self.tokens

    @property
    def config(self) -> GPT2Config:
        """A GPT-2 of this shape, which has a final norm in any case."""
        end = self.vocab - 1
        return GPT2Config(
            vocab_size=self.vocab,
            n_positions=self.context,
            n_embd=self.width,
            n_layer=self.layers,
            n_head=self.heads,
            bos_token_id=end,
            eos_token_id=end,
        )

    def kv_bytes_per_token(self, itemsize: int = 2) -> int:
        """Keys and values of one token in all layers, by default in 16 bits."""
        return 2 * self.layers * self.width * itemsize

    def summary(self) -> dict[str, Any]:
        """The row of the table."""
        row = asdict(self)
        del row["final_norm"]
        return row | {
            "parameters": self.parameters,
            "without_embeddings": self.without_embeddings,
            "flops": self.flops,
            "kv_bytes_per_token": self.kv_bytes_per_token(),
        }


def _gpt3(name: str, layers: int, heads: int, width: int) -> Published:
    return Published(f"gpt3-{name}", layers, heads, width, 2048, 50257, 300e9)


# Radford et al. 2018, 2019; Brown et al. 2020, table 2.1, with its two slips mended: XL
# has 16 heads (24 of 128 are not 2048), 13B is 5120 wide (40 heads of 128).
PUBLISHED = (
    Published("gpt1", 12, 12, 768, 512, 40478, final_norm=False),
    Published("gpt2", 12, 12, 768, 1024, 50257),
    Published("gpt2-medium", 24, 16, 1024, 1024, 50257),
    Published("gpt2-large", 36, 20, 1280, 1024, 50257),
    Published("gpt2-xl", 48, 25, 1600, 1024, 50257),
    _gpt3("small", 12, 12, 768),
    _gpt3("medium", 24, 16, 1024),
    _gpt3("large", 24, 16, 1536),
    _gpt3("xl", 24, 16, 2048),
    _gpt3("2.7b", 32, 32, 2560),
    _gpt3("6.7b", 32, 32, 4096),
    _gpt3("13b", 40, 40, 5120),
    _gpt3("175b", 96, 96, 12288),
)
