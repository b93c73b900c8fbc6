"""Engine: a backend with what training needs besides, as one value.

The way back is npgpt.training.backward, or faster functions under the same names; each
is a field, so that an engine is changed as a backend is: LoRA and mixed precision give
it another linear map and another derivative of that (`_replace`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

from npgpt.backend import Backend, get_backend
from npgpt.training import backward, blocked_backward, optim

# Where the ENGINE of a backend's own twins is: a name, as in npgpt.backend.PLUGS.
PLUGS = {"numba": "npgpt.kernels.engine"}


class Engine(NamedTuple):
    """A backend, the derivatives of its functions, and AdamW's update.

    >>> from npgpt.backend import NUMPY
    >>> Engine(NUMPY).split_heads is backward.split_heads
    True
    """

    backend: Backend
    softmax: Callable = backward.softmax
    cross_entropy: Callable = blocked_backward.cross_entropy
    gelu: Callable = blocked_backward.gelu
    layer_norm: Callable = blocked_backward.layer_norm
    embedding: Callable = blocked_backward.embedding
    linear: Callable = blocked_backward.linear
    split_heads: Callable = backward.split_heads
    attention_scores: Callable = backward.attention_scores
    attention_means: Callable = backward.attention_means
    attention: Callable = blocked_backward.attention
    update: Callable = optim.update
    # linear and its derivative in bfloat16, if not npgpt.training.mixed's
    products: tuple[Callable, Callable] | None = None


def get_engine(backend: str | Backend | Engine) -> Engine:
    """The engine of a backend, of its name, or the one given; raises BackendError.

    >>> get_engine("numpy").update is optim.update
    True
    """
    if isinstance(backend, Engine):
        return backend
    backend = get_backend(backend)
    if backend.name not in PLUGS:
        return Engine(backend)
    return importlib.import_module(PLUGS[backend.name]).ENGINE._replace(backend=backend)
