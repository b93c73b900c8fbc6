"""How a model reads: new ids of every row behind what a cache holds, and what is asked.

The logits after the last id, after several (speculative decoding), the hidden states
(contrastive search), every layer's own prediction (DoLa), a tree of tokens. Each
function takes the model (npgpt.model.GPT2 has them as methods) and leaves choosing
tokens to npgpt.decoding. All of them fill rows up to one length (npgpt.rows), read a
chunk of positions at a time, and read each row alone where the filling does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt import blocked, gpt2
from npgpt.cache import KVCache
from npgpt.errors import DecodingError
from npgpt.ids import check_ids
from npgpt.rows import (
    Readable,
    Rows,
    by_chunk,
    by_row,
    check_cache,
    check_rows,
    cut,
    fill_up,
    read_hidden,
    read_states,
)
from npgpt.shapes import Array, Float
from npgpt.support.arguments import checked, is_list, shown
from npgpt.taps import CheckedTap, Recorder


def next_logits(model: Readable, ids: Rows, cache: KVCache) -> Float[np.ndarray, "B V"]:
    """Read each row's new ids (at least one) and return the logits after its last.

    Rows may differ in length.
    """
    check_rows(ids, cache)
    z = _in_one_call(model, ids, cache, None)
    if z is not None:
        return z
    filled = fill_up(ids, cache, model.config)
    if filled is None:
        alone = by_row(ids, cache, lambda new, one: next_logits(model, [new], one))
        return np.concatenate(alone)
    last: list[Array] = [None] * len(ids)
    for start, hidden in by_chunk(model, filled.ids, cache):
        for row, length in enumerate(filled.lengths):
            if 0 <= length - 1 - start < hidden.shape[1]:
                last[row] = hidden[row, length - 1 - start, :]
    cache.crop(filled.ends)
    return _last_logits(model, model.backend.xp.stack(last)[:, None, :])


def all_logits(
    model: Readable,
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
        return list(next_logits(model, ids, cache)[:, None])
    z = _in_one_call(model, ids, cache, keep)
    if z is not None:
        return np.split(z, np.cumsum(keep)[:-1])
    return _ends(model, read_hidden(model, ids, cache), keep)


def first_logits(
    model: Readable, ids: Rows, cache: KVCache, layers: int
) -> tuple[Float[np.ndarray, "B V"], list[Array]]:
    """Read each row's new ids by the first `layers` blocks alone (early exit).

    Logits after its last id, through ln_f and the output head; and what these blocks
    made of each row's ids, (T, C), for `rest_logits` to go on from. The cache counts
    the ids as read: crop it before anything else reads behind them.
    """
    check_rows(ids, cache)
    _check_layers([layers], model)
    filled = fill_up(ids, cache, model.config)
    if filled is None:
        found = by_row(
            ids, cache, lambda new, one: first_logits(model, [new], one, layers)
        )
        return np.concatenate([z for z, _ in found]), [x for _, (x,) in found]
    last = f"h.{layers - 1}.resid"
    exit, states, hidden = Recorder([last].__contains__), [], []
    tap = CheckedTap(exit, model.tap)
    for _, part in by_chunk(model, filled.ids, cache, layers=layers, tap=tap):
        hidden.append(part)
        states.append(exit.arrays[last])
    x = cut(model, states, filled)
    cache.crop(filled.ends)
    z = _heads(model, [h[-1:] for h in cut(model, hidden, filled)])
    return np.concatenate(z), x


def rest_logits(
    model: Readable,
    ids: Rows,
    states: Sequence[Sequence[Array]],
    cache: KVCache,
    layers: int,
    keep: Sequence[int],
) -> list[Float[np.ndarray, "_ V"]]:
    """all_logits of ids that `first_logits` has read, by the other blocks.

    states[row] lists what it returned for a row, call by call, at least for these ids.
    The cache is cropped to what all blocks have read, which leaves the first blocks'
    keys and values where they are.
    """
    filled = fill_up(ids, cache, model.config)
    if filled is None:  # rows would have to be moved, and lose those keys and values
        return all_logits(model, ids, cache, keep)
    shape = (*filled.ids.shape, model.config.n_embd)
    x = model.backend.xp.zeros(shape, dtype=states[0][0].dtype)
    for row, parts in enumerate(states):
        known = model.backend.xp.concat(parts)[: len(ids[row])]
        x[row, : len(known), :] = known
    hidden = [h for _, h in by_chunk(model, filled.ids, cache, after=(layers, x))]
    cache.crop(filled.ends)
    return _ends(model, cut(model, hidden, filled), keep)


def next_hidden(
    model: Readable, ids: Rows, cache: KVCache
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
    model: Readable,
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
    ln, epsilon = model.params.ln_f, model.config.layer_norm_epsilon
    rows = []
    for row, n in enumerate(keep):
        chosen = []
        for layer in layers:
            x = states[layer][row]
            x = x[len(x) - n :]
            if norm and layer < model.config.n_layer:
                x = model.backend.layer_norm(x, ln.weight, ln.bias, epsilon)
            chosen.append(x)
        rows.append(model.backend.xp.stack(chosen, axis=1))  # (n, layers, C)
    z = _heads(model, [x.reshape(-1, x.shape[-1]) for x in rows])
    return [one.reshape(n, len(layers), -1) for one, n in zip(z, keep, strict=True)]


def tree_logits(
    model: Readable, ids: Sequence[int], parents: Sequence[int], cache: KVCache
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
        np.repeat(check_ids([ids], model.config), cache.batch, axis=0),
        cache,
        backend=model.backend,
        positions=lengths[:, None] + depth,
        mask=model.backend.xp.asarray(mask),
        tap=model.tap,
    )
    z = gpt2.logits(model.params, hidden, backend=model.backend, tap=model.tap)
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


def _in_one_call(
    model: Readable, ids: Rows, cache: KVCache, keep: Sequence[int] | None
) -> Float[np.ndarray, "_ V"] | None:
    """The logits by the backend's one kernel for a whole reading, where it has one."""
    if model.backend.decode_step is None:
        return None
    for new in ids:
        check_ids([new], model.config)
    return model.backend.decode_step(model.params, ids, cache, keep)


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


def _check_layers(layers: Sequence[int], model: Readable) -> None:
    final = model.config.n_layer
    if not is_list(layers) or not len(layers):
        raise DecodingError(f"layers must be a list of layers, not {shown(layers)}")
    for layer in layers:
        if not isinstance(layer, int | np.integer) or not 0 <= layer <= final:
            raise DecodingError(f"layer {shown(layer)} is not one of 0 to {final}")


def _ends(
    model: Readable, hidden: Sequence[Array], keep: Sequence[int]
) -> list[np.ndarray]:
    """Logits after each row's last keep[row] positions."""
    return _heads(model, [h[len(h) - n :] for h, n in zip(hidden, keep, strict=True)])


def _heads(model: Readable, hidden: Sequence[Array]) -> list[np.ndarray]:
    """Logits of each row's hidden states (T, C), in one product for all rows."""
    together = model.backend.xp.concat(list(hidden), axis=0)[None]
    z = gpt2.logits(model.params, together, backend=model.backend, tap=model.tap)
    ends = np.cumsum([len(h) for h in hidden])[:-1]
    return np.split(model.backend.to_numpy(z)[0], ends)


def _last_logits(
    model: Readable, hidden: Float[Array, "B 1 C"]
) -> Float[np.ndarray, "B V"]:
    """Logits of one position a row.

    For a product of a few rows with the output table OpenBLAS copies the table first,
    which costs as much as to read it three times, or four where it fits the cache: so
    few rows go one by one.
    """
    V, C = model.params.lm_head.weight.shape
    few, parts = 4 if V * C < 1 << 23 else 3, [hidden]
    blas = model.backend.xp is np and model.backend.linear is blocked.linear
    if blas and len(hidden) <= few:
        parts = [hidden[row : row + 1] for row in range(len(hidden))]
    z = [
        gpt2.logits(model.params, part, backend=model.backend, tap=model.tap)
        for part in parts
    ]
    return np.concatenate([model.backend.to_numpy(part) for part in z])[:, 0]
