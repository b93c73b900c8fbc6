"""Laws of the forward pass, and its numbers against transformers and PyTorch."""

import base64
import itertools
import json
from dataclasses import replace

import array_api_strict as strict
import numpy as np
import pytest
from helpers import CASES, TINY, relative_error, tiny_params, token_ids, unit_tensors

from npgpt import GPT2, ContextOverflowError, DecodingError, GPT2Config, gpt2
from npgpt.backend import NUMPY
from npgpt.inside.recipes import taps
from npgpt.storage.checkpoint import from_tensors
from npgpt.taps import Recorder

STRICT = replace(NUMPY, name="array-api-strict", xp=strict)
# Relative to the largest value of a tensor. float64 leaves rounding only; the fixtures'
# intermediates are stored as float32; float32 arithmetic loses 3 digits to sums of 64
# unit-scale products and to softmax at scores of 10 and more.
FLOAT64, STORED, FLOAT32 = 1e-12, 1e-6, 2e-4


def recorder():
    """A tap that keeps a copy of everything."""
    return Recorder(copy=np.array)


@pytest.mark.parametrize("case", CASES)
def test_matches_reference(backend, case, tiny_reference):
    config = CASES[case]
    expected = tiny_reference[f"{case}/logits"]
    ids = token_ids(config, 2, 7)
    single = GPT2(tiny_params(config), backend=backend).logits(ids)
    assert single.dtype == np.float32
    assert relative_error(single, expected) < FLOAT32
    if "float64" not in backend.dtypes:
        return
    double = GPT2(tiny_params(config), backend=backend, dtype="float64").logits(ids)
    # transformers computes the upcast case in float32 only
    tolerance = FLOAT32 if config.reorder_and_upcast_attn else FLOAT64
    assert relative_error(double, expected) < tolerance


@pytest.mark.parametrize("case", CASES)
def test_every_intermediate_matches_reference(case, tiny_reference):
    config, record = CASES[case], recorder()
    GPT2(tiny_params(config), dtype="float64").logits(token_ids(config, 2, 7), record)
    names = {name.format(i=i) for name in taps() for i in range(config.n_layer)}
    assert set(record.arrays) == names
    tolerance = FLOAT32 if config.reorder_and_upcast_attn else STORED
    for name, array in record.arrays.items():
        expected = tiny_reference[f"{case}/tap:{name}"]
        expected = np.broadcast_to(expected, array.shape) if name == "wpe" else expected
        seen = expected > -np.inf
        assert ((array > -np.inf) == seen).all(), name
        assert relative_error(array[seen], expected[seen]) < tolerance, name


def test_tap_axes_are_as_listed():
    record = recorder()
    config = replace(TINY, n_inner=24)
    GPT2(tiny_params(config)).logits(token_ids(config, 3, 5), record)
    sizes = dict(b=3, t=5, s=5, h=2, d=8, c=16, v=40, m=24)
    for pattern, axes in taps().items():
        shape = record.arrays[pattern.format(i=1)].shape
        expected = tuple(sizes[axis] for axis in axes.split())
        if pattern == "wpe":
            expected = (1, *expected[1:])
        assert shape == expected, pattern


def test_a_tap_changes_nothing_by_looking():
    model, ids = GPT2(tiny_params()), token_ids(TINY, 2, 7)
    np.testing.assert_allclose(
        model.logits(ids), model.logits(ids, recorder()), rtol=1e-5, atol=1e-5
    )


def test_a_tap_can_replace():
    model, ids = GPT2(tiny_params()), token_ids(TINY, 1, 6)

    def ablate(name, array):
        return 0 * array if name == "h.1.resid" else array

    z = model.logits(ids, ablate)
    norm = model.params.ln_f
    assert np.allclose(z[0, 0], norm.bias @ model.params.lm_head.weight.T, atol=1e-5)
    assert not np.allclose(model.logits(ids), z)


def test_a_tap_that_returns_something_else_is_one_sentence():
    model = GPT2(tiny_params())
    for wrong, what in ((None, "NoneType"), (np.zeros(3), "an array")):
        sentence = f"tap <lambda> returned {what}.* for h.0.ln_1"
        with pytest.raises(DecodingError, match=sentence):
            model.logits([1, 2], tap=lambda n, x, w=wrong: w if n == "h.0.ln_1" else x)


def test_tap_asks_only_for_what_it_wants():
    seen = []

    class Weights:
        def wants(self, name):
            return name == "h.0.attn.weights"

        def __call__(self, name, array):
            seen.append(name)
            return array

    GPT2(tiny_params()).logits(token_ids(TINY, 1, 4), Weights())
    assert "h.0.attn.weights" in seen
    assert "h.1.attn.weights" not in seen


def test_nothing_is_written_between_two_taps():
    kept = {}

    def hold(name, array):
        kept[name] = (array, array.copy())
        return array

    GPT2(tiny_params()).logits(token_ids(TINY, 2, 5), hold)
    for name, (array, copy) in kept.items():
        assert (array == copy).all(), name


@pytest.mark.parametrize("case", ["plain", "gelu_erf", "own_head"])
def test_whole_forward_pass_on_any_array_api_library(case):
    config = CASES[case]
    ids = token_ids(config, 2, 9)
    model = GPT2(tiny_params(config), backend=STRICT)
    cache = model.new_cache(2)
    first = gpt2.hidden_states(model.params, ids[:, :5], cache, backend=STRICT)
    rest = gpt2.hidden_states(model.params, ids[:, 5:], cache, backend=STRICT)
    z = strict.concat(
        [gpt2.logits(model.params, x, backend=STRICT) for x in (first, rest)], axis=1
    )
    expected = GPT2(tiny_params(config)).logits(ids)
    assert relative_error(np.asarray(z), expected) < FLOAT32
    # rows of different length, with a mask by row
    cache.crop([3, 7])
    mask = strict.asarray(np.ones((1, 2, 9), bool))
    ragged = gpt2.hidden_states(
        model.params, ids[:, :2], cache, backend=STRICT, mask=mask
    )
    assert isinstance(ragged, type(rest))


def test_cache_changes_nothing(backend):
    model = GPT2(tiny_params(), backend=backend)
    ids = token_ids(TINY, 2, TINY.n_positions)
    whole = model.logits(ids)
    for split in range(1, TINY.n_positions):
        cache = model.new_cache(2)
        parts = [
            gpt2.hidden_states(model.params, part, cache, backend=backend)
            for part in (ids[:, :split], ids[:, split:])
        ]
        z = np.concatenate(
            [
                backend.to_numpy(gpt2.logits(model.params, part, backend=backend))
                for part in parts
            ],
            axis=1,
        )
        assert relative_error(z, whole) < FLOAT32, split


def test_cache_token_by_token_changes_nothing(backend):
    model = GPT2(tiny_params(), backend=backend)
    ids = token_ids(TINY, 1, TINY.n_positions)
    whole, cache = model.logits(ids)[0], model.new_cache(1)
    for t in range(TINY.n_positions):
        z = model.next_logits([[int(ids[0, t])]], cache)[0]
        assert relative_error(z, whole[t]) < FLOAT32, t


def test_batch_equals_single(backend):
    model = GPT2(tiny_params(), backend=backend)
    ids = token_ids(TINY, 4, 9)
    z = model.logits(ids)
    for row in range(4):
        assert relative_error(z[row], model.logits(ids[row])[0]) < FLOAT32


def test_ragged_rows_equal_single_rows(backend):
    model = GPT2(tiny_params(), backend=backend)
    ids = token_ids(TINY, 1, 12)[0].tolist()
    rows = [ids[:3], ids[2:9], ids[5:6]]
    more = [ids[4:6], ids[:1], ids[7:12]]
    cache = model.new_cache(3)
    z = model.next_logits(rows, cache), model.next_logits(more, cache)
    assert cache.ids == [a + b for a, b in zip(rows, more, strict=True)]
    for i, (a, b) in enumerate(zip(rows, more, strict=True)):
        whole = model.logits(a + b)[0]
        assert relative_error(z[0][i], whole[len(a) - 1]) < FLOAT32
        assert relative_error(z[1][i], whole[-1]) < FLOAT32


def test_left_padding_with_positions_and_mask_equals_no_padding():
    model, ids = GPT2(tiny_params()), token_ids(TINY, 1, 5)
    padded = np.concatenate([np.zeros((1, 3), np.int64), ids], axis=1)
    positions = np.maximum(np.arange(8) - 3, 0)[None]
    mask = (np.arange(8) >= 3)[None, None, :] | np.eye(8, dtype=bool)[None]
    hidden = gpt2.hidden_states(
        model.params, padded, backend=NUMPY, positions=positions, mask=mask
    )
    z = gpt2.logits(model.params, hidden, backend=NUMPY)
    assert relative_error(z[:, 3:], model.logits(ids)) < FLOAT32
    wrong = model.logits(padded)[:, 3:]
    assert relative_error(wrong, model.logits(ids)) > 0.01


def test_a_token_tree_equals_its_branches():
    model = GPT2(tiny_params())
    stem, left, right = [3, 1, 4], [1, 5], [9, 2]
    tree = np.array([[*stem, *left, *right]])
    positions = np.array([[0, 1, 2, 3, 4, 3, 4]])
    mask = np.tril(np.ones((7, 7), bool))
    mask[5:, 3:5] = False  # the right branch does not see the left one
    cache = model.new_cache(1)
    hidden = gpt2.hidden_states(
        model.params, tree, cache, backend=NUMPY, positions=positions, mask=mask[None]
    )
    z = gpt2.logits(model.params, hidden, backend=NUMPY)[0]
    assert relative_error(z[3:5], model.logits(stem + left)[0, 3:]) < FLOAT32
    assert relative_error(z[5:], model.logits(stem + right)[0, 3:]) < FLOAT32
    cache.gather([[0, 1, 2, 5, 6]])
    assert cache.ids == [stem + right]
    after = model.next_logits([[7]], cache)[0]
    assert relative_error(after, model.logits([*stem, *right, 7])[0, -1]) < FLOAT32


def test_hidden_states_by_argument_are_those_of_the_tap():
    model, ids, record = GPT2(tiny_params()), token_ids(TINY, 1, 5), recorder()
    last, states = gpt2.hidden_states(
        model.params, ids, backend=NUMPY, output_hidden_states=True, tap=record
    )
    names = ["embed", "h.0.resid", "ln_f"]
    assert len(states) == TINY.n_layer + 1
    for state, name in zip(states, names, strict=True):
        assert (state == record.arrays[name]).all()
    assert last is states[-1]


def test_first_layers_alone_are_a_shallower_model():
    deep = tiny_params(replace(TINY, n_layer=3))
    shallow = deep._replace(config=replace(TINY, n_layer=1), h=deep.h[:1])
    ids = token_ids(TINY, 1, 5)
    early = gpt2.hidden_states(deep, ids, backend=NUMPY, layers=1)
    assert (early == gpt2.hidden_states(shallow, ids, backend=NUMPY)).all()


def test_tied_head_is_one_array():
    model = GPT2(tiny_params(), dtype="float64")
    assert model.params.lm_head.weight is model.params.wte.weight


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([[40]], "token id 40 is not in the vocabulary, 0 to 39"),
        ([[-1]], "token id -1"),
        ([[]], r"token ids must be \(B, T\)"),
        ([[0.5]], "whole numbers"),
        ([[[1]]], r"must be \(B, T\)"),
    ],
)
def test_bad_ids_are_refused(ids, sentence):
    with pytest.raises(DecodingError, match=sentence):
        GPT2(tiny_params()).logits(np.array(ids))


def test_more_positions_than_the_model_has_are_refused():
    with pytest.raises(ContextOverflowError, match="position 24 is outside"):
        GPT2(tiny_params()).logits(np.zeros((1, 25), int))


def test_a_query_that_may_see_nothing_is_refused():
    mask = np.zeros((1, 2, 2), bool)
    with pytest.raises(DecodingError, match="at least one key"):
        gpt2.hidden_states(tiny_params(), np.array([[1, 2]]), backend=NUMPY, mask=mask)


# gpt-nano-sort: a real trained model whose intermediates PyTorch recorded


def decoded(value):
    flat = np.frombuffer(base64.b64decode(value["data"]), np.float32)
    return flat.reshape(value["shape"])


def nano(shared):
    config = GPT2Config(
        vocab_size=3,
        n_positions=11,
        n_embd=48,
        n_layer=3,
        n_head=3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    path = shared / "gpt-nano-sort" / "gpt-nano-sort-model.json"
    tensors = {}
    for name, value in json.loads(path.read_text()).items():
        if name == "config":
            continue
        x = decoded(value)
        linear = ".attn.c_" in name or ".mlp.c_" in name
        tensors[name] = x.T if linear and x.ndim == 2 else x  # minGPT stores (out, in)
    return GPT2(from_tensors(config, tensors))


def test_nano_matches_pytorch(shared):
    path = shared / "gpt-nano-sort" / "gpt-nano-sort-t0-partials.json"
    golden = {
        name: decoded(value)
        for name, value in json.loads(path.read_text()).items()
        if name != "config"
    }
    record = recorder()
    nano(shared).logits(golden["idx"].astype(int), record)
    taps = record.arrays
    for theirs, ours in {
        "tok_emb": "wte",
        "pos_emb": "wpe",
        "x": "embed",
        "ln1": "h.0.ln_1",
        "q": "h.0.attn.q",
        "k": "h.0.attn.k",
        "v": "h.0.attn.v",
        "att": "h.0.attn.scores",
        "attSm": "h.0.attn.weights",
        "yProj": "h.0.attn.out",
        "attnResid": "h.0.resid_mid",
        "ln2": "h.0.ln_2",
        "fc": "h.0.mlp.pre",
        "gelu": "h.0.mlp.act",
        "mlp": "h.0.mlp.out",
        "mlpResid": "h.0.resid",
        "block0": "h.0.resid",
        "block1": "h.1.resid",
        "block2": "h.2.resid",
        "ln_f": "ln_f",
        "lm_head": "logits",
    }.items():
        expected = golden[theirs]
        seen = expected > -np.inf
        assert ((taps[ours] > -np.inf) == seen).all()
        assert relative_error(taps[ours][seen], expected[seen]) < 1e-5, theirs


def test_nano_sorts_all_inputs(shared):
    model = nano(shared)
    inputs = [list(x) for x in itertools.product(range(3), repeat=6)]
    results = model.generate(inputs, max_new_tokens=6)
    assert len(results) == 729
    for given, result in zip(inputs, results, strict=True):
        assert result.ids == sorted(given)


def test_unit_weights_are_of_unit_scale():
    tensors = unit_tensors(TINY)
    assert 0.9 < tensors["wte.weight"].std() < 1.1
    assert 0.45 < tensors["h.0.mlp.c_fc.weight"].std() < 0.55
