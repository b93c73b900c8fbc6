"""Scaling laws: how large a model and how many tokens, for so many FLOPs.

The published fits of the loss L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al.
2022). N counts all parameters, D tokens, C = 6 N D FLOPs; losses are in nats a token,
and compare only within one text and vocabulary: the exponents compare.
npgpt.scaling.fit fits the law to one's own runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import DataError
from npgpt.scaling.sizes import describe
from npgpt.support.arguments import checked


def training_flops(config: GPT2Config, tokens: float, context: int) -> float:
    """Multiplications and additions of a training run: three times the forward pass.

    Unlike 6 N D it counts attention, and embeddings only as the output head.
    """
    info = describe(config)
    step = info.flops_per_token_full - info.flops_per_token
    per_position = step / max(1, config.n_positions - 1)
    return 3 * tokens * (info.flops_per_token + per_position * (context - 1) / 2)


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats a token.

    >>> law = LAWS["replication"]
    >>> round(law.loss(70e9, 1.4e12), 4), [f"{x:.3g}" for x in law.optimum(5.76e23)]
    (1.9739, ['7.22e+10', '1.33e+12'])
    """

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, N: Any, D: Any) -> Any:
        """The loss after D tokens of a model of N parameters."""
        return self.E + self.A / N**self.alpha + self.B / D**self.beta

    @property
    def exponent(self) -> float:
        """a of N_opt ~ C^a: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of the least loss for C = 6 N D FLOPs.

        N = G (C/6)^a with G = (alpha A / (beta B))^(1 / (alpha + beta)), D = C / 6 N.
        """
        ratio = self.alpha * self.A / (self.beta * self.B)
        N = ratio ** (1 / (self.alpha + self.beta)) * (flops / 6) ** self.exponent
        return N, flops / (6 * N)


LAWS = {
    "approach 3": Law(1.69, 406.4, 0.34, 410.7, 0.28),  # as Hoffmann et al. print it
    "approach 3, unrounded": Law(1.6934, 406.4, 0.3392, 410.7, 0.2849),  # their TeX
    "replication": Law(
        1.8172, 482.01, 0.3478, 2085.43, 0.3658
    ),  # Besiroglu et al. 2024
}
# Compute-optimal (N, D) by Hoffmann et al.'s tables 3 and A3.
_SIZES = (400e6, 1e9, 10e9, 67e9, 175e9, 280e9, 520e9, 1e12, 10e12)
_TOKENS = {
    "approach 1": (
        8e9,
        20.2e9,
        205.1e9,
        1.5e12,
        3.7e12,
        5.9e12,
        11e12,
        21.2e12,
        216.2e12,
    ),
    "approach 2": (
        7.7e9,
        20e9,
        219.5e9,
        1.7e12,
        4.3e12,
        7.1e12,
        13.4e12,
        26.5e12,
        292e12,
    ),
}
EXPONENTS = {  # a of N_opt ~ C^a, as the papers print it
    "Kaplan et al. 2020": 0.73,
    "Chinchilla, approach 1": 0.50,
    "Chinchilla, approach 2": 0.49,
    "Chinchilla, approach 3": 0.46,
    "replication 2024": 0.5126,
}


@dataclass(frozen=True)
class Answer:
    """How large a model, how many tokens; the loss where the method predicts one."""

    method: str
    parameters: float
    tokens: float
    loss: float | None = None


@checked(DataError)
def compute_optimal(flops: float, own: Law | None = None) -> list[Answer]:
    """Every published answer, and one's own law's, for a training of so many FLOPs.

    >>> for answer in compute_optimal(1e21)[:2]:
    ...     print(f"{answer.parameters:.2g} {answer.tokens:.2g}")
    2.9e+09 5.8e+10
    2.8e+09 5.9e+10
    """
    if not (math.isfinite(flops) and flops > 0):
        raise DataError(f"the number of FLOPs must be positive, not {flops}")
    answers = []
    for name, tokens in _TOKENS.items():
        # The tables are power laws up to rounding: a line through their logarithms.
        budget = np.log(6 * np.array(_SIZES) * np.array(tokens))
        slope, start = np.polyfit(budget, np.log(_SIZES), 1)
        N = math.exp(start + slope * math.log(flops))
        answers.append(Answer(name, N, flops / (6 * N)))
    laws = LAWS | ({} if own is None else {"our runs": own})
    for name, law in laws.items():
        N, D = law.optimum(flops)
        answers.append(Answer(name, N, D, float(law.loss(N, D))))
    return answers
