"""TrainConfig: every number that a training run is made with, checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from npgpt.errors import TrainingError
from npgpt.support.arguments import check_fields, shown

_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("steps batch_size accumulate context eval_every eval_tokens save_every",
     lambda n: n >= 1, "at least 1"),
    ("learning_rate epsilon", lambda x: 0 < x < math.inf, "above 0"),
    ("clip_norm", lambda x: x > 0, "above 0"),
    ("warmup_steps final_fraction weight_decay", lambda x: 0 <= x < math.inf,
     "at least 0"),
    ("dropout", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("betas", lambda pair: all(0 <= x < 1 for x in pair), "in [0, 1)"),
    ("seed", lambda n: 0 <= n < 2**64, "in [0, 2^64)"),
    ("dtype", lambda name: name in ("float32", "bfloat16"), "float32 or bfloat16"),
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """How long, on how much at once, and how fast. Steps count from 1."""

    steps: int = 1000
    batch_size: int = 8  # windows of one forward pass
    accumulate: int = 1  # such passes for one step
    context: int = 256  # ids of a window
    learning_rate: float = 1e-3  # at its peak
    warmup_steps: int = 50
    final_fraction: float = 0.1  # of the peak, at the end of the cosine
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    decay_all: bool = False  # biases and norms too
    clip_norm: float = 1.0
    dropout: float = 0.0
    dtype: str = "float32"  # of what products take; bfloat16: npgpt.training.mixed
    seed: int = 0
    eval_every: int = 100  # steps between validations
    eval_tokens: int = 50_000  # of the validation array at most
    save_every: int = 100  # steps between checkpoints

    def __post_init__(self):
        check_fields(self, TrainingError)
        for names, holds, what in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if not holds(value):
                    raise TrainingError(f"{name} must be {what}, not {shown(value)}")

    @property
    def tokens_per_step(self) -> int:
        """Ids that one step learns from."""
        return self.batch_size * self.accumulate * self.context
