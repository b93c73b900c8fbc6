"""A trace holds what the model computed, and every number of it is its recipe."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params, token_ids

import npgpt
from npgpt import GPT2, InsideError
from npgpt.inside.derivatives import derivatives
from npgpt.inside.formula import value
from npgpt.inside.given import PARAMETERS
from npgpt.inside.recipes import RECIPES, recipes, taps
from npgpt.inside.stored import load_trace
from npgpt.inside.why import View, explain
from npgpt.support.leaves import leaves
from npgpt.taps import Recorder
from npgpt.training.gradients import loss_and_gradients
from npgpt.training.traced import trace_gradients


def random_addresses(trace, n, seed=0):
    """Of every name alike: a reading, one of its tokens, the other axes at random."""
    rng = np.random.default_rng(seed)
    names = list(recipes(trace.config))
    for at in range(n):
        name = names[at % len(names)]
        having = [i for i, one in enumerate(trace.passes) if one.has(name, trace)]
        if not having:
            continue
        step = int(rng.choice(having))
        one = trace.passes[step]
        row = int(rng.integers(len(one.ids)))
        t = int(rng.integers(one.start[row], one.end[row]))
        if name.startswith("logits"):
            places = sorted(one.logits)
            row, t = places[int(rng.integers(len(places)))]
        sizes = trace.sizes(step) | {"s": t + 1 if at % 5 else one.S}
        index = {"b": row, "t": t, "step": step}
        for letter in recipes(trace.config)[name].letters[1:]:
            index.setdefault(letter, int(rng.integers(sizes[letter])))
        parts = ",".join(f"{letter}={i}" for letter, i in index.items())
        yield f"{name}[{parts}]"


def holds(trace, n, seed=0):
    seen = set()
    for address in random_addresses(trace, n, seed):
        why = explain(trace, address)
        assert why.agrees, (address, why.value, why.recomputed, why.tolerance)
        assert why.value == trace[address]
        assert why.recomputed == math.fsum(term.value for term in why.terms)
        for operand in why.operands:
            if operand.address[:4] != "sees" and "[" in operand.address:
                assert trace[operand.address] == operand.value, operand
        seen.add(address.partition("[")[0])
    return seen


@pytest.fixture
def tiny():
    return GPT2(tiny_params(TINY))


def test_every_tap_has_a_recipe_and_every_recipe_a_number(tiny):
    recorder = Recorder()
    tiny.logits(token_ids(TINY, 2, 5), recorder)
    layers = range(TINY.n_layer)
    patterns = {name for name in taps()}
    assert set(recorder.arrays) == {
        name.replace("{i}", str(i)) for name in patterns for i in layers
    }
    parameters = {
        name.replace("{i}", str(i)) for name in PARAMETERS for i in layers
    } - {"lm_head.weight"}
    assert parameters == set(leaves(tiny.params))
    assert len(recipes(TINY)) == sum(
        TINY.n_layer if "{i}" in name else 1 for name in RECIPES
    )


@pytest.mark.parametrize("case", CASES)
def test_every_number_is_its_recipe(case):
    model = GPT2(tiny_params(CASES[case]))
    with model.trace() as trace:
        model.logits(token_ids(CASES[case], 2, 7))
    assert len(holds(trace, 1000)) == len(recipes(model.config))


def test_in_float64_too():
    model = GPT2(tiny_params(TINY), dtype="float64")
    with model.trace() as trace:
        model.logits(token_ids(TINY, 1, 6))
    for address in random_addresses(trace, 200):
        why = explain(trace, address)
        assert why.agrees, why
        assert why.tolerance < 1e-11 or not np.isfinite(why.value)


READINGS = {
    "a sample": dict(do_sample=True, seed=3),
    "beams": dict(num_beams=3),
    "several texts": dict(do_sample=True, num_return_sequences=3),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "a tree": dict(lookahead_window=2, lookahead_ngram=2),
    "early exit": dict(assistant_early_exit=1),
    "contrastive": dict(penalty_alpha=0.4, top_k=3),
    "DoLa": dict(dola_layers=[0, 1]),
}


@pytest.mark.parametrize("how", READINGS)
@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[5, 6, 7, 5, 6], [2], [4, 4]]])
def test_every_number_of_a_cached_reading_is_its_recipe(tiny, how, prompts):
    options = dict(max_new_tokens=6, eos_token_id=[], **READINGS[how])
    expected = tiny.generate(prompts, **options)
    with tiny.trace() as trace:
        found = tiny.generate(prompts, **options)
    assert [one.ids for one in np.ravel(found)] == [
        one.ids for one in np.ravel(expected)
    ]
    assert len(trace) > 1
    assert holds(trace, 500) >= set(recipes(TINY)) - {"logits"}


def test_what_a_cache_held_before_is_found(tiny):
    cache = tiny.new_cache(1)
    tiny.next_logits([[3, 1, 4]], cache)
    with tiny.trace() as trace:
        tiny.next_logits([[1, 5]], cache)
    holds(trace, 300)
    why = trace.why("h.0.attn.scores[h=0,t=4,s=1]")
    key = next(x for x in why.operands if ".attn.k[" in x.address)
    assert key.value == pytest.approx(float(cache.k[0, 0, 0, 1, 0]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_model_of_another_backend_is_traced_by_numpy(dtype):
    pytest.importorskip("numba")
    model = GPT2(tiny_params(TINY), backend="numba", dtype=dtype)
    with model.trace() as trace:
        found = model.generate([1, 2, 3], max_new_tokens=3)
    assert trace.path == f"NumPy, in place of numba {dtype}"
    assert trace.path in repr(trace)
    holds(trace, 200)
    assert model.backend.name == "numba"
    if dtype == "float32":
        assert model.generate([1, 2, 3], max_new_tokens=3).ids == found.ids


def test_off_it_costs_nothing_and_leaves_nothing(tiny):
    before = dict(vars(tiny))
    with tiny.trace("h.0.*"):
        tiny.logits([1, 2])
    assert vars(tiny) == before
    with pytest.raises(RuntimeError), tiny.trace():
        raise RuntimeError
    assert vars(tiny) == before


def test_it_looks_without_changing(tiny):
    ids = token_ids(TINY, 2, 6)
    with tiny.trace() as trace:
        z = tiny.logits(ids)
    np.testing.assert_array_equal(trace["logits"], z)
    expected = Recorder(copy=np.array)
    tiny.logits(ids, expected)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(trace[name], array)
    with pytest.raises(ValueError, match="read-only"):
        trace["embed"].array[0] = 1


def test_names_choose_what_is_kept(tiny):
    with tiny.trace(["h.1.attn.*", "ln_f.mean"]) as trace:
        tiny.logits([1, 2])
    assert {n for n in trace.names if "attn" in n} == {
        n for n in recipes(TINY) if n.startswith("h.1.attn") and "{" not in n
    } - {"h.1.attn.c_attn", "h.1.attn.weights.max", "h.1.attn.weights.sum"}
    assert trace["ln_f.mean[t=1]"] == pytest.approx(
        float(np.mean(trace["h.1.resid"].array[0, 1])), rel=1e-5
    )
    with pytest.raises(InsideError, match="was not recorded"):
        trace["h.0.mlp.act"]
    with tiny.trace("h.*.mlp.act") as trace:
        tiny.logits([1, 2])
    assert not [n for n in trace.names if "attn" in n]


def test_patches_are_what_the_model_goes_on_with(tiny):
    ids = token_ids(TINY, 2, 6)
    zero = {"h.1.attn.context[:, 1]": 0}
    with tiny.trace(patch=zero) as trace:
        z = tiny.logits(ids)

    def tap(name, array):
        if name == "h.1.attn.context":
            array = array.copy()
            array[:, 1] = 0
        return array

    np.testing.assert_array_equal(z, tiny.logits(ids, tap))
    assert not np.any(trace["h.1.attn.context"].array[:, 1])
    doubled = {"h.0.mlp.out[b=1,t=2:4]": lambda x: 2 * x}
    with tiny.trace() as plain:
        tiny.logits(ids)
    with tiny.trace(patch=doubled) as trace:
        tiny.logits(ids)
    expected = plain["h.0.mlp.out"].array.copy()
    expected[1, 2:4] *= 2
    np.testing.assert_array_equal(trace["h.0.mlp.out"], expected)


def test_a_patch_of_a_token_fires_in_the_reading_that_reads_it(tiny):
    for t, step in ((1, 0), (4, 2)):
        with tiny.trace(patch={f"h.0.resid[t={t}]": 0.0}) as trace:
            tiny.generate([1, 2, 3], max_new_tokens=5, eos_token_id=[])
        assert trace[f"h.0.resid[t={t},c=0]"] == 0
        assert trace.passes[step].reads(0, t)
        assert trace["h.0.resid[t=0,c=0]"] != 0
    with tiny.trace(patch={"logits[v=7]": 1e4}):
        assert tiny.generate([1, 2], max_new_tokens=3, eos_token_id=[]).ids == [7] * 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("h.0.attn.nothing[0]", "there is no h.0.attn.nothing; near it are"),
        ("h.7.attn.q[h=0,t=0,d=0]", "layers 0 to 1"),
        ("h.0.attn.weights[h=9,t=0,s=0]", "head h=9 is not there; h is 0 to 1"),
        ("h.0.attn.weights[t=0,s=0]", "also needs h (head, 0 to 1)"),
        ("h.0.attn.weights[h=0,t=9,s=0]", "token t=9 is not there; t is 0 to 2"),
        ("h.0.attn.weights[x=0,t=0,s=0]", "has axes b, h, t, s, no x"),
        ("embed[0,0,0,0]", "4 indices, and embed has axes b, t, c"),
        ("embed[t=one,c=0]", "'t=one' is not an index"),
        ("embed[step=4,t=0,c=0]", "step=4 is not there; steps are 0 to 0"),
        ("(embed)", "is no address"),
        ("wte.weight[99,0]", "token id v=99 is not there"),
    ],
)
def test_a_wrong_address_is_one_sentence(tiny, text, sentence):
    with pytest.raises(InsideError) as error:
        tiny.why(text, [1, 2, 3])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(names="attn"), "no tap is called 'attn'"),
        (dict(patch={"h.0.attn.q[t=9]": 0}), "met no number"),
        (dict(patch={"h.0.attn.c_attn": 0}), "cannot be patched"),
        (dict(patch={"wte.weight[0,0]": 0}), "cannot be patched"),
        (dict(patch={"h.0.resid[z=0]": 0}), "has axes b, t, c"),
        (dict(patch={"h.0.resid": np.zeros(3)}), "cannot put"),
        (dict(max_bytes=1000), "holds more than"),
    ],
)
def test_a_trace_that_cannot_be_is_one_sentence(tiny, options, sentence):
    with pytest.raises(InsideError, match=sentence), tiny.trace(**options):
        tiny.logits([1, 2, 3])
    assert "tap" not in vars(tiny)


def test_virtual_numbers_are_what_the_functions_compute_on_their_way(tiny):
    with tiny.trace() as trace:
        tiny.logits([1, 2, 3])
    x = trace["h.0.resid_mid"].array[0]
    np.testing.assert_array_equal(trace["h.0.ln_2.mean"].array[0], x.mean(-1))
    q = trace["h.0.attn.c_attn"].array[0, :, : TINY.n_embd]
    np.testing.assert_allclose(
        q.reshape(3, TINY.n_head, -1).swapaxes(0, 1), trace["h.0.attn.q"].array[0]
    )


def test_formulas_are_computed_alike_by_value_and_by_terms(tiny):
    with tiny.trace() as trace:
        tiny.logits([1, 2, 3])
    for name, bound in recipes(TINY).items():
        index = (0, *(1 for _ in bound.letters[1:]))
        letters = dict(zip(bound.letters, index, strict=True))
        one = trace.passes[0]
        found = value(bound.node, letters, View(trace, one, name))
        assert explain(trace, f"{name}{list(index)}").recomputed == pytest.approx(found)


def test_the_source_is_the_running_line(tiny):
    lines = {}
    with tiny.trace() as trace:
        tiny.logits([1, 2, 3])
    for name, source in trace.sources.items():
        assert source.file in ("npgpt/block.py", "npgpt/gpt2.py"), name
        path = Path(npgpt.__file__).parents[1] / source.file
        text = path.read_text().splitlines()[source.line - 1]
        first = source.text.splitlines()[0]
        assert text[source.column - 1 :].startswith(first), (name, source)
        lines[name] = source.text
    assert lines["h.0.attn.q"].startswith("q, k, v = split_heads(")
    assert lines["h.0.resid_mid"].startswith("x + attend(")
    assert lines["logits"] == "backend.linear(hidden, params.lm_head.weight.T)"
    assert len({tuple(s) for s in itertools.islice(trace.sources.values(), 3)}) == 3


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[5, 6, 7, 5, 6], [2], [4, 4]]])
def test_a_saved_trace_is_the_trace(tiny, tmp_path, prompts):
    cache = tiny.new_cache(len(prompts))
    tiny.next_logits([[7] for _ in prompts], cache)
    with tiny.trace() as trace:
        tiny.next_logits(prompts, cache)
        tiny.generate(prompts, max_new_tokens=3, eos_token_id=[])
    trace.save(tmp_path / "trace.safetensors")
    again = load_trace(tmp_path / "trace.safetensors", tiny)
    for address in random_addresses(trace, 200):
        assert explain(again, address) == explain(trace, address)
    key = trace.passes[0].before[0].arrays["h.0.attn.k"]
    np.testing.assert_array_equal(again.passes[0].before[0].arrays["h.0.attn.k"], key)
    with pytest.raises(InsideError, match="not a trace"):
        load_trace(__file__, tiny)
    with pytest.raises(InsideError, match="cannot be written"):
        trace.save(tmp_path / "nowhere" / "trace")


# the way back


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_is_its_recipe(case):
    config = CASES[case]
    model = GPT2(tiny_params(config))
    trace = trace_gradients(model, token_ids(config, 1, 7)[0].tolist())
    rng, seen = np.random.default_rng(0), set()
    known = derivatives(config)
    for at in range(1000):
        name = list(known)[at % len(known)]
        sizes = trace.sizes()
        index = [int(rng.integers(sizes[letter])) for letter in known[name].letters]
        if "v" in known[name].letters and at % 2:  # of a token of the text
            index[known[name].letters.index("v")] = trace.passes[0].ids[0][at % 7]
        why = explain(trace, f"{name}{index}")
        assert why.agrees, (why, why.ulps, why.tolerance)
        seen.add(name)
    assert seen == set(known)


def test_gradients_are_those_of_training(tiny):
    ids = [3, 1, 4, 1, 5]
    trace = trace_gradients(tiny, ids)
    loss, expected = loss_and_gradients(
        tiny.params,
        np.array([ids[:-1]]),
        np.array([ids[1:]]),
        backend=tiny.backend,
    )
    assert loss > 0
    for name, gradient in leaves(expected).items():
        np.testing.assert_allclose(
            trace.gradients[f"d.{name}"], gradient, atol=1e-6, rtol=1e-4
        )
    a, b = 2, 7
    why = tiny.why(f"h.0.mlp.c_fc.weight[{a},{b}]", ids, grad=True)
    assert why.value == pytest.approx(
        float(expected.h[0].mlp.c_fc.weight[a, b]), rel=1e-4
    )
    assert why.formula == "Σ_b,t ln_2[b,t,c] · d.pre[b,t,m]"
    assert why.doc.startswith("dx = dy W^T, dW = x^T dy")


def test_a_gradient_is_what_a_nudge_does_to_the_loss():
    model, ids = GPT2(tiny_params(TINY), dtype="float64"), [3, 1, 4, 1, 5]

    def loss(patch):
        with model.trace("logits", patch=patch):
            z = model.logits(ids)[0]
        p = np.exp(z - z.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        return -np.mean(np.log(p[np.arange(4), ids[1:]]))

    for name in ("h.0.attn.q", "h.1.resid_mid", "h.1.mlp.act", "h.0.attn.weights"):
        letters = recipes(TINY)[name].letters
        index = [0, *(1 for _ in letters[1:])]
        address = f"{name}{index}"
        gradient = model.why(address, ids, grad=True).value
        step = 1e-5
        up, down = (loss({address: lambda x, s=s: x + s}) for s in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(gradient, rel=1e-4, abs=1e-9)


def test_a_gradient_nobody_asked_for_is_said(tiny):
    with pytest.raises(InsideError, match="ask for grad=True"):
        tiny.why("d.h.0.attn.q[h=0,t=1,d=0]", [1, 2, 3])
    with pytest.raises(InsideError, match="two tokens"):
        tiny.why("embed[t=0,c=0]", [1], grad=True)
