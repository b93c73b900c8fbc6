"""Other ways to read: several positions, layers, trees; the cache they edit."""

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params

from npgpt import GPT2, DecodingError, rows
from npgpt.reader import tree_mask

PROMPTS = [[5, 9, 5, 9, 5], [1, 2], [3, 4, 5, 6, 7, 8, 3, 4]]


@pytest.fixture(scope="module", params=["plain", "inverse_layer", "own_head"])
def model(request):
    return GPT2(tiny_params(CASES[request.param]), dtype="float64")


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_all_logits_are_those_of_one_reading(model):
    cache = model.new_cache(3)
    model.next_logits([p[:1] for p in PROMPTS], cache)
    z = model.all_logits([p[1:] for p in PROMPTS], cache)
    for row, prompt in zip(z, PROMPTS, strict=True):
        close(row, model.logits(prompt)[0, 1:])
    cache = model.new_cache(3)
    z = model.all_logits(PROMPTS, cache, [2, 1, 3])
    for row, prompt, n in zip(z, PROMPTS, (2, 1, 3), strict=True):
        close(row, model.logits(prompt)[0, -n:])
    assert cache.ids == PROMPTS


def test_rows_that_cannot_be_filled_up_are_read_alone(backend):
    """A cache may have fewer places than the model has positions."""
    model = GPT2(tiny_params(), backend=backend)
    rows, more = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2]], [[9], [3, 4, 5, 6, 7]]
    expected = [
        model.logits(row + new)[0, -1] for row, new in zip(rows, more, strict=True)
    ]
    for read in (model.next_logits, model.all_logits, model.next_hidden):
        cache = model.new_cache(2, n_positions=10)
        model.next_logits(rows, cache)
        z = read(more, cache)
        z = z[0] if isinstance(z, tuple) else z
        for row, last in zip(z, expected, strict=True):
            last_of = row[-1] if row.ndim == 2 else row
            np.testing.assert_allclose(last_of, last, rtol=2e-3, atol=2e-4)
        assert cache.ids == [a + b for a, b in zip(rows, more, strict=True)]


def test_all_logits_reach_the_last_position(model):
    room = model.config.n_positions
    long = [(7 * i) % 40 for i in range(room)]
    cache = model.new_cache(2)
    model.next_logits([long[:-2], [1, 2]], cache)
    z = model.all_logits(
        [long[-2:], [3, 4, 5]], cache
    )  # filled up, row 0 would overflow
    close(z[0], model.logits(long)[0, -2:])
    close(z[1], model.logits([1, 2, 3, 4, 5])[0, -3:])


def test_early_exit_and_layers_agree(model):
    N = model.config.n_layer
    layers = model.layer_logits(PROMPTS, model.new_cache(3), range(N + 1), norm=True)
    for n in range(1, N + 1):
        exits, _ = model.first_logits(PROMPTS, model.new_cache(3), n)
        for a, b in zip(exits, layers, strict=True):
            close(a, b[-1, n])
    close(layers[0][:, N], model.logits(PROMPTS[0])[0])


@pytest.mark.parametrize("chunk", [2, 256])
def test_the_other_layers_go_on_from_the_first(model, chunk, monkeypatch):
    monkeypatch.setattr(rows, "PREFILL_CHUNK", chunk)
    plain = model.new_cache(3)
    expected = model.all_logits(PROMPTS, plain, [2, 1, 3])
    unread = [p[1:] for p in PROMPTS]
    for n in range(1, model.config.n_layer):
        cache = model.new_cache(3)
        model.next_logits([p[:1] for p in PROMPTS], cache)
        # in two readings; row 1 has read more in the end than it will keep
        pieces = [[t[:1] for t in unread], [t[1:] or [7] for t in unread]]
        states = [model.first_logits(piece, cache, n)[1] for piece in pieces]
        cache.crop([1] * 3)
        parts = list(zip(*states, strict=True))
        found = model.rest_logits(unread, parts, cache, n, [2, 1, 3])
        for row, prompt in enumerate(PROMPTS):
            close(found[row], expected[row])
            close(cache.k[:, row, :, : len(prompt)], plain.k[:, row, :, : len(prompt)])
        assert cache.ids == PROMPTS


def test_the_other_layers_reach_the_last_position(model):
    room = model.config.n_positions
    texts = [[(7 * i) % 40 for i in range(room)], [1, 2, 3, 4, 5]]
    cache = model.new_cache(2)
    model.next_logits([texts[0][:-2], texts[1][:2]], cache)
    unread = [texts[0][-2:], texts[1][2:]]  # row 0 cannot be filled up
    _, states = model.first_logits(unread, cache, 1)
    cache.crop([room - 2, 2])
    z = model.rest_logits(unread, [[x] for x in states], cache, 1, [2, 3])
    for row, text in zip(z, texts, strict=True):
        close(row, model.logits(text)[0, -len(row) :])


def test_next_hidden_is_what_the_head_reads(model):
    z, hidden = model.next_hidden(PROMPTS, model.new_cache(3))
    for row, h, prompt in zip(z, hidden, PROMPTS, strict=True):
        assert len(h) == len(prompt)
        close(h @ model.params.lm_head.weight.T, model.logits(prompt)[0])
        close(row, model.logits(prompt)[0, -1])


def test_a_tree_is_all_its_branches_at_once(model):
    tokens, parents = [11, 12, 13, 14, 15, 16], [-1, 0, 0, 1, 1, 2]
    cache = model.new_cache(3)
    model.next_logits(PROMPTS, cache)
    z = model.tree_logits(tokens, parents, cache)
    branches = [[11], [11, 12], [11, 13], [11, 12, 14], [11, 12, 15], [11, 13, 16]]
    for row, prompt in zip(z, PROMPTS, strict=True):
        for node, branch in zip(row, branches, strict=True):
            close(node, model.logits(prompt + branch)[0, -1])
    # keep the branch 11 12 15 of every row, and read on
    cache.gather([[*range(len(p)), len(p), len(p) + 1, len(p) + 4] for p in PROMPTS])
    z = model.next_logits([[17]] * 3, cache)
    for row, prompt in zip(z, PROMPTS, strict=True):
        close(row, model.logits([*prompt, 11, 12, 15, 17])[0, -1])


def test_tree_mask_refuses_what_is_no_tree():
    with pytest.raises(DecodingError):
        tree_mask([0])
    with pytest.raises(DecodingError):
        tree_mask([-1, 2])


def test_a_copied_row_is_the_other_row():
    model = GPT2(tiny_params(TINY), dtype="float64")
    texts = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6, 7], [9]]
    for target in range(4):
        for source in range(4):
            cache = model.new_cache(4)
            model.next_logits(texts, cache)
            cache.copy_row(target, source)
            assert cache.ids[target] == texts[source]
            z = model.next_logits([[8]] * 4, cache)
            close(z[target], model.logits([*texts[source], 8])[0, -1])
