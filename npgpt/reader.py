"""Other ways to read than GPT2.next_logits: logits at many positions, layers, trees.

Speculative decoding wants the logits after several tokens of one reading, contrastive
search the hidden states, DoLa every layer's own prediction, token trees a mask. Each
function takes the model (npgpt.model.GPT2 has them as methods), reads behind what the
cache holds, and leaves choosing tokens to npgpt.decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt import gpt2
from npgpt.cache import KVCache
from npgpt.errors import DecodingError
from npgpt.rows import (
    Rows,
    by_chunk,
    by_row,
    check_cache,
    check_rows,
    fill_up,
    read_hidden,
    read_states,
)
from npgpt.shapes import Float
from npgpt.support.arguments import checked, is_list, shown


def all_logits(
    model: Any,
    ids: Rows,
    cache: KVCache,
    keep: Sequence[int] | None = None,
) -> list[Float[np.ndarray, "_ V"]]:
    """Read each row's new ids; the logits after its last keep[row] of them (after all).

    One array (keep[row], V) a row; rows may differ in length.
    """
    check_rows(ids, cache)
    keep = _kept(keep, ids)
    if all(len(new) == 1 for new in ids) and 0 not in keep:
        return list(model.next_logits(ids, cache)[:, None])
    if model.backend.decode_step is not None:
        for new in ids:
            gpt2.check_ids([new], model.config)
        z = model.backend.decode_step(model.params, ids, cache, keep)
        if z is not None:
            return np.split(z, np.cumsum(keep)[:-1])
    return _ends(model, read_hidden(model, ids, cache), keep)


def first_logits(
    model: Any, ids: Rows, cache: KVCache, layers: int
) -> tuple[Float[np.ndarray, "B V"], list[Any]]:
    """Read each row's new ids by the first `layers` blocks alone (early exit).

    Logits after its last id, through ln_f and the output head; and what these blocks
    made of each row's ids, (T, C), for `rest_logits` to go on from. The cache counts
    the ids as read: crop it before anything else reads behind them.
    """
    check_rows(ids, cache)
    _check_layers([layers], model)
    filled, alone = fill_up(model, ids, cache)
    if alone:
        found = by_row(
            ids, cache, lambda new, one: first_logits(model, [new], one, layers)
        )
        return np.concatenate([z for z, _ in found]), [x for _, (x,) in found]
    padded, ends, lengths = filled
    exit = _Kept(f"h.{layers - 1}.resid")
    hidden = by_chunk(model, padded, cache, layers=layers, tap=exit)
    cache.crop(ends)
    states = model.backend.xp.concat(exit.arrays, axis=1)
    cut = [(h[:n], x[:n]) for h, x, n in zip(hidden, states, lengths, strict=True)]
    z = _heads(model, [h[-1:] for h, _ in cut])
    return np.concatenate(z), [x for _, x in cut]


def rest_logits(
    model: Any,
    ids: Rows,
    states: Sequence[Sequence[Any]],
    cache: KVCache,
    layers: int,
    keep: Sequence[int],
) -> list[Float[np.ndarray, "_ V"]]:
    """all_logits of ids that `first_logits` has read, by the other blocks.

    states[row] lists what it returned for a row, call by call, at least for these ids.
    The cache is cropped to what all blocks have read, which leaves the first blocks'
    keys and values where they are.
    """
    filled, alone = fill_up(model, ids, cache)
    if alone:  # rows would have to be moved, and lose those keys and values
        return all_logits(model, ids, cache, keep)
    padded, ends, lengths = filled
    shape = (*padded.shape, model.config.n_embd)
    x = model.backend.xp.zeros(shape, dtype=states[0][0].dtype)
    for row, parts in enumerate(states):
        known = model.backend.xp.concat(parts)[: len(ids[row])]
        x[row, : len(known), :] = known
    hidden = by_chunk(model, padded, cache, after=(layers, x))
    cache.crop(ends)
    return _ends(model, [h[:n] for h, n in zip(hidden, lengths, strict=True)], keep)


def next_hidden(
    model: Any, ids: Rows, cache: KVCache
) -> tuple[Float[np.ndarray, "B V"], list[Float[np.ndarray, "_ C"]]]:
    """Logits after each row's last new id, and the hidden states of all its new ids.

    Hidden states are the last layer's, after ln_f.
    """
    check_rows(ids, cache)
    hidden = read_hidden(model, ids, cache)
    z = _heads(model, [h[-1:] for h in hidden])
    return np.concatenate(z), [model.backend.to_numpy(h) for h in hidden]


@checked(DecodingError)
def layer_logits(
    model: Any,
    ids: Rows,
    cache: KVCache,
    layers: Sequence[int],
    keep: Sequence[int] | None = None,
    *,
    norm: bool = False,
) -> list[Float[np.ndarray, "_ n V"]]:
    """What chosen layers alone would predict: their hidden state through the head.

    layers counts as Hugging Face's hidden_states do: 0 is the embedding, n_layer the
    last, after ln_f. Earlier states go to the head as they are, or with `norm` through
    ln_f. One array (keep[row], len(layers), V) a row.
    """
    check_rows(ids, cache)
    keep = _kept(keep, ids)
    _check_layers(layers, model)
    states = read_states(model, ids, cache)
    xp, final = model.backend.xp, model.config.n_layer
    rows = []
    for row, n in enumerate(keep):
        chosen = []
        for layer in layers:
            x = states[layer][row]
            x = x[len(x) - n :]
            if norm and layer < final:
                ln, epsilon = model.params.ln_f, model.config.layer_norm_epsilon
                x = model.backend.layer_norm(x, ln.weight, ln.bias, epsilon)
            chosen.append(x)
        rows.append(xp.stack(chosen, axis=1))  # (n, layers, C)
    return [
        z.reshape(len(x), len(layers), -1)
        for z, x in zip(
            _heads(model, [x.reshape(-1, x.shape[-1]) for x in rows]), rows, strict=True
        )
    ]


def tree_logits(
    model: Any, ids: Sequence[int], parents: Sequence[int], cache: KVCache
) -> Float[np.ndarray, "B T V"]:
    """Read one token tree behind every row; the logits after each of its nodes.

    parents[i] < i is the node before node i, or -1 for the end of what the cache holds.
    A node sees the text and its own ancestors alone, at the position of its depth. Keep
    the branch that was accepted with `cache.gather`.
    """
    check_cache(cache)
    check_rows([ids] * cache.batch, cache)
    T, lengths = len(ids), cache.lengths
    S = int(lengths.max()) + T
    ancestors = tree_mask(parents)
    if len(ancestors) != T:
        raise DecodingError(f"{T} ids in a tree of {len(ancestors)} nodes")
    depth = ancestors.sum(1) - 1
    mask = np.zeros((cache.batch, T, S), bool)
    for row, length in enumerate(lengths.tolist()):
        mask[row, :, :length] = True
        mask[row, :, length : length + T] = ancestors
    hidden = gpt2.hidden_states(
        model.params,
        np.repeat(gpt2.check_ids([ids], model.config), cache.batch, axis=0),
        cache,
        backend=model.backend,
        positions=lengths[:, None] + depth,
        mask=model.backend.xp.asarray(mask),
    )
    z = gpt2.logits(model.params, hidden, backend=model.backend)
    return model.backend.to_numpy(z)


@checked(DecodingError)
def tree_mask(parents: Sequence[int]) -> np.ndarray:
    """Who is an ancestor of whom, itself included: (T, T), True where i may see j.

    >>> tree_mask([-1, 0, 0]).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    mask = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise DecodingError(f"tree node {node} cannot hang below node {parent}")
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


class _Kept:
    """A tap that keeps the arrays of one name."""

    def __init__(self, name: str):
        self.name = name
        self.arrays: list[Any] = []

    def __call__(self, name: str, array: Any) -> Any:
        if name == self.name:
            self.arrays.append(array)
        return array

    def wants(self, name: str) -> bool:
        return name == self.name


def _kept(keep: Sequence[int] | None, ids: Rows) -> list[int]:
    """How many of each row's new ids logits are wanted after: of all where None."""
    lengths = [len(new) for new in ids]
    if keep is None:
        return lengths
    if not is_list(keep) or len(keep) != len(ids):
        raise DecodingError(f"keep must be a number for each row, not {shown(keep)}")
    for n, length in zip(keep, lengths, strict=True):
        if not isinstance(n, int | np.integer) or not 0 <= n <= length:
            raise DecodingError(f"cannot keep {shown(n)} of {length} new ids")
    return list(keep)


def _check_layers(layers: Sequence[int], model: Any) -> None:
    final = model.config.n_layer
    if not is_list(layers) or not len(layers):
        raise DecodingError(f"layers must be a list of layers, not {shown(layers)}")
    for layer in layers:
        if not isinstance(layer, int | np.integer) or not 0 <= layer <= final:
            raise DecodingError(f"layer {shown(layer)} is not one of 0 to {final}")


def _ends(model: Any, hidden: Sequence[Any], keep: Sequence[int]) -> list[np.ndarray]:
    """Logits after each row's last keep[row] positions."""
    return _heads(model, [h[len(h) - n :] for h, n in zip(hidden, keep, strict=True)])


def _heads(model: Any, hidden: Sequence[Any]) -> list[np.ndarray]:
    """Logits of each row's hidden states (T, C), in one product for all rows."""
    together = model.backend.xp.concat(list(hidden), axis=0)[None]
    z = model.backend.to_numpy(
        gpt2.logits(model.params, together, backend=model.backend)
    )
    return np.split(z[0], np.cumsum([len(h) for h in hidden])[:-1])
