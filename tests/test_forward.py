"""Other ways to read: several positions, layers, trees; the cache they edit."""

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params

from npgpt import GPT2, DecodingError
from npgpt.forward import tree_mask

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
        exits = model.all_logits(PROMPTS, model.new_cache(3), layers=n)
        for a, b in zip(exits, layers, strict=True):
            close(a, b[:, n])
    close(layers[0][:, N], model.logits(PROMPTS[0])[0])


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
