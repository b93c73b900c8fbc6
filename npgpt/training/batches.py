"""Windows of a long row of token ids: what each step of training reads.

The order is drawn from a counter-based generator (Philox) keyed by the seed and the
epoch: batch number n is the same whether or not the batches before it were made.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import TrainingError

ORDER, START = range(2)  # what a draw is for


def batch(
    ids: np.ndarray, index: int, B: int, T: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Batch number `index`: windows (B, T) and what follows each id, (B, T).

    An epoch is all windows that follow one another from a random place (the end is
    joined to the beginning), in random order; every id is seen once before any twice.

    >>> x, y = batch(np.arange(8), 0, 2, 4, seed=0)
    >>> bool((y == (x + 1) % 8).all()), sorted(x.ravel().tolist())
    (True, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    n, starts = len(ids) // T, []
    for row in range(index * B, index * B + B):
        epoch, i = divmod(row, n)
        order, offset = _epoch(n, len(ids), seed, epoch)
        starts.append(offset + order[i] * T)
    at = np.array(starts)[:, None] + np.arange(T + 1)
    windows = np.take(ids, at, mode="wrap").astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


@lru_cache(maxsize=2)
def _epoch(n: int, size: int, seed: int, epoch: int) -> tuple[np.ndarray, int]:
    """The order of an epoch's windows, and where the first of them begins."""

    def draw(purpose: int) -> np.random.Generator:
        philox = np.random.Philox(key=seed, counter=[0, epoch, 0, purpose])
        return np.random.Generator(philox)

    return draw(ORDER).permutation(n), int(draw(START).integers(size))


def check_data(
    train_ids: np.ndarray,
    validation_ids: np.ndarray,
    model: GPT2Config,
    context: int,
) -> None:
    """Raise TrainingError unless these ids can train this model."""
    if context > model.n_positions:
        raise TrainingError(
            f"context {context} is longer than the model's n_positions "
            f"{model.n_positions}"
        )
    for name, ids in (("training", train_ids), ("validation", validation_ids)):
        check_row(name, ids, context + 1 if name == "training" else 2, model)


def check_row(name: str, ids: np.ndarray, least: int, model: GPT2Config) -> None:
    """Raise TrainingError unless these are `least` ids of this model, or more."""
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TrainingError(f"the {name} ids must be one row of whole numbers")
    if len(ids) < least:
        raise TrainingError(
            f"the {name} text has {len(ids)} tokens, at least {least} are needed; "
            "give more text, or a shorter context"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= model.vocab_size:
        raise TrainingError(
            f"the {name} text holds token id {low if low < 0 else high}, the "
            f"model's vocabulary ends at {model.vocab_size - 1}; use its tokenizer"
        )
