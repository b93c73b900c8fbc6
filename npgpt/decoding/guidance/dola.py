"""DoLa: a model that contrasts its last layer with one of its own early ones.

The formula is npgpt.decoding.guidance.formulas.dola. Layers that were not trained to
predict by themselves, as GPT-2's, are a weaker amateur than those of the paper's
models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.guidance import formulas
from npgpt.decoding.guidance.guided import Wrapper
from npgpt.errors import DecodingError
from npgpt.interface import DeepModel
from npgpt.shapes import Logits


class Dola(Wrapper):
    """A model that contrasts its last layer with the least similar of its early ones.

    layers: "low", "high" or the numbers of the candidate layers, 0 being the embedding
    and n_layer the last. Early states go through the final norm before the output head
    (Transformers 4 left it out: norm=False).
    """

    main: DeepModel

    def __init__(
        self,
        model: DeepModel,
        layers: str | Sequence[int] = "high",
        alpha: float = 0.1,
        norm: bool = True,
        divergence: Callable[[Logits, Logits], float] | None = None,
    ):
        super().__init__(model)
        self.deep = model
        self.layers = dola_layers(model.config, layers)
        self.alpha, self.norm, self.divergence = alpha, norm, divergence

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> KVCache:
        """An empty cache of the model."""
        return self.main.new_cache(batch, n_positions)

    def next_logits(self, ids: Sequence[Sequence[int]], cache: KVCache) -> np.ndarray:
        """Contrasted logits after each row's last id, (B, V)."""
        return np.concatenate(self.all_logits(ids, cache, [1] * len(ids)))

    def all_logits(
        self,
        ids: Sequence[Sequence[int]],
        cache: KVCache,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Contrasted logits after each row's last keep[row] ids."""
        layers = [*self.layers, self.config.n_layer]
        rows = self.deep.layer_logits(ids, cache, layers, keep, norm=self.norm)
        return [
            np.stack(
                [formulas.dola(z[-1], z[:-1], self.alpha, self.divergence) for z in row]
            )
            for row in rows
        ]


def dola_layers(config: GPT2Config, layers: str | Sequence[int]) -> list[int]:
    """The candidate layers of DoLa: Transformers' "low" and "high", or a checked list.

    Every second layer of the lower or the upper half; of more than 40 layers, of the 20
    lowest or highest. With tied embeddings "low" begins at layer 2 (of two layers at
    1): the embedding itself would predict the token just read.

    >>> from npgpt import GPT2Config
    >>> dola_layers(GPT2Config(n_layer=12), "low")
    [2, 4]
    """
    N = config.n_layer
    if isinstance(layers, str):
        first = min(2, N - 1) if config.tie_word_embeddings else 0
        middle, last = (N // 2, N // 2) if N <= 40 else (20, N - 20)
        low = range(first, middle, 2) if first != N // 2 else [first]
        ranges = {"low": low, "high": range(last, N, 2)}
        if layers not in ranges:
            raise DecodingError(
                f"dola_layers must be 'low', 'high' or a list of layers, not {layers!r}"
            )
        layers = list(ranges[layers])
    layers = list(layers)
    if not layers:
        raise DecodingError(f"dola_layers names no layer of this model's {N}")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < N:
            raise DecodingError(
                f"dola_layers: layer {layer!r} is not one of 0 to {N - 1}"
            )
    return layers
