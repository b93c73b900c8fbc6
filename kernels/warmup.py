"""Run every kernel once on tiny inputs: it is compiled now, or was already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npgpt import kernels
from npgpt.config import GPT2Config
from npgpt.gpt2 import GPT2Params
from npgpt.kernels.compiling import compile_seconds, on_compile
from npgpt.kernels.forward import run
from npgpt.model import GPT2
from npgpt.storage.checkpoint import expected_shapes, from_tensors
from npgpt.training.engine import get_engine
from npgpt.training.gradients import loss_and_gradients
from npgpt.training.mixed import mixed_engine
from npgpt.training.optim import adamw, new_moments

TINY = GPT2Config(
    vocab_size=40,
    n_positions=80,
    n_embd=32,
    n_layer=1,
    n_head=2,
    bos_token_id=0,
    eos_token_id=None,
)


def warm_up(
    dtypes: Sequence[str], say: Callable[[str], Any] = lambda line: None
) -> tuple[float, str]:
    """Seconds spent compiling, and the folder that keeps the result."""
    on_compile(None)  # it is what was asked for
    before = compile_seconds()
    large = np.ones((9, 2000), np.float32)
    say("functions")
    for x in (large, large[:1]):
        kernels.softmax(x)
        kernels.gelu(x)
        kernels.layer_norm(np.tile(x, 2), np.tile(x[0], 2), np.tile(x[0], 2))
    kernels.cross_entropy(large, np.zeros(9, np.int64))
    tensors = {
        name: np.ones(shape, np.float32)
        for name, shape in expected_shapes(TINY).items()
    }
    for dtype in dtypes:
        say(f"weights, attention and the whole step in {dtype}")
        model = GPT2(from_tensors(TINY, tensors), backend="numba", dtype=dtype)
        model.logits([[1, 2, 3]])
        cache = model.new_cache()
        model.next_logits([list(range(10))], cache)
        model.next_logits([[1]], cache)
        if dtype != "int8":
            say(f"training in {dtype}")
            _train(from_tensors(TINY, tensors), dtype)
    stats = getattr(run, "_cache", None)
    where = getattr(stats, "cache_path", None) or str(Path(kernels.__file__).parent)
    return compile_seconds() - before, where


def _train(params: GPT2Params, dtype: str) -> None:
    engine = get_engine("numba")
    engine = engine if dtype == "float32" else mixed_engine(engine)
    ids = np.arange(40).reshape(2, 20)
    _, grads = loss_and_gradients(params, ids, ids, backend=engine)
    moments = new_moments(params)
    adamw(params, grads, moments, 1, learning_rate=1e-3, update=engine.update)
