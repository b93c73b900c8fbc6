"""ENGINE: the Numba backend with the twins of training, for npgpt.training.engine."""

from __future__ import annotations

from npgpt.kernels import backward, mixed, optim
from npgpt.kernels.cpu import BACKEND
from npgpt.training.engine import Engine

ENGINE = Engine(
    BACKEND,
    softmax=backward.softmax,
    cross_entropy=backward.cross_entropy,
    gelu=backward.gelu,
    layer_norm=backward.layer_norm,
    embedding=backward.embedding,
    linear=backward.linear,
    split_heads=backward.split_heads,
    attention_scores=backward.attention_scores,
    attention_means=backward.attention_means,
    attention=backward.attention,
    update=optim.update,
    products=(mixed.linear, mixed.linear_backward),
)
