"""What several tests share: tiny models whose weights any machine can make again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.config import GPT2Config
from npgpt.storage.checkpoint import expected_shapes, from_tensors

FIXTURES = Path(__file__).parent / "fixtures"

TINY = GPT2Config(
    vocab_size=40,
    n_positions=24,
    n_embd=16,
    n_layer=2,
    n_head=2,
    bos_token_id=0,
    eos_token_id=None,
)

CASES = {  # every option of config.json that changes the numbers
    "plain": TINY,
    "four_heads": replace(TINY, n_head=4),
    "n_inner": replace(TINY, n_inner=24),
    "epsilon": replace(TINY, layer_norm_epsilon=0.1),
    "unscaled": replace(TINY, scale_attn_weights=False),
    "inverse_layer": replace(TINY, scale_attn_by_inverse_layer_idx=True, n_layer=3),
    "upcast": replace(TINY, reorder_and_upcast_attn=True),
    "own_head": replace(TINY, tie_word_embeddings=False),
    "gelu_erf": replace(TINY, activation_function="gelu"),
    "relu": replace(TINY, activation_function="relu"),
}


ADAMW = dict(  # of the ten recorded steps
    learning_rate=1e-2, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1
)


def unit_tensors(config: GPT2Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 tensors of every name that the config implies, of unit scale.

    Uniform numbers of deviation 1 (matrices 0.5, norm scales around 1) from the raw
    bits of Philox, which no NumPy version changes. Weights of the usual 0.02 would
    hide wrong formulas behind absolute tolerances.
    """
    tensors = {}
    for name, shape in expected_shapes(config).items():
        key = np.random.Philox(key=seed, counter=[0, zlib.crc32(name.encode()), 0, 0])
        bits = key.random_raw(int(np.prod(shape)))
        x = ((bits >> 11) * 2.0**-53 * 2 - 1) * 3**0.5
        if len(shape) == 2 and name not in ("wte.weight", "wpe.weight"):
            x = 0.5 * x
        if ".ln_" in f".{name}" and name.endswith(".weight"):
            x = 1 + 0.5 * x
        tensors[name] = x.reshape(shape).astype(np.float32)
    return tensors


def tiny_params(config: GPT2Config = TINY, seed: int = 0):
    """Parameters of a tiny model."""
    return from_tensors(config, unit_tensors(config, seed))


def token_ids(config: GPT2Config, B: int, T: int, seed: int = 0) -> np.ndarray:
    """Ids (B, T) within the vocabulary, the same on every machine."""
    bits = np.random.Philox(key=seed + 1).random_raw(B * T)
    return (bits % config.vocab_size).astype(np.int64).reshape(B, T)


def same_tokens(a: list[int], b: list[int], gaps: list[float]) -> bool:
    """Whether two greedy runs agree up to the first step that is a float tie.

    gaps[i] is the difference of the two largest logits at step i; two float paths may
    part where it is under 1e-4.
    """
    for x, y, gap in zip(a, b, gaps, strict=True):
        if gap < 1e-4:
            return True
        if x != y:
            return False
    return True


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the reference's largest value."""
    return float(np.abs(x - reference).max() / np.abs(reference).max())


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """For thousands of samples of one law: checking shapes would take most of the time.

    The same code runs with checked shapes in the tests that need a few texts.
    """
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
