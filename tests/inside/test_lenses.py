"""Every lens is a law: sums that are exact, numbers that must be 0 or 1, symmetries."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params, token_ids, unit_tensors

from npgpt import GPT2, InsideError
from npgpt.block import Reading, norm
from npgpt.inside.lenses import (
    Grid,
    ablation,
    attribution,
    gradient_input,
    head_scores,
    integrated_gradients,
    logit_lens,
    patching,
    rollout,
    score_parts,
)
from npgpt.inside.lenses.attribution import WRITTEN, normed, parts
from npgpt.inside.lenses.interventions import aligned
from npgpt.ops import log_softmax
from npgpt.storage.checkpoint import from_tensors

IDS = token_ids(TINY, 1, 9)[0].tolist()
OTHER = token_ids(TINY, 1, 9, seed=5)[0].tolist()
ASKED = dict(token=3, against=5)


@pytest.fixture
def tiny():
    return GPT2(tiny_params(TINY))


@pytest.fixture(params=CASES)
def any_model(request):
    return GPT2(tiny_params(CASES[request.param]))


def model_of(**tensors):
    """The tiny model with some tensors replaced."""
    every = unit_tensors(TINY)
    for name, array in tensors.items():
        every[name.replace("__", ".")][...] = array
    return GPT2(from_tensors(TINY, every))


def test_parts_add_up_to_the_stream_and_its_norm(any_model):
    n = any_model.config.n_layer
    names = [*WRITTEN, "embed", "h.*.resid", "ln_f", "ln_f.rstd"]
    with any_model.trace(names) as trace:
        any_model.logits([IDS])
    for layers in range(n + 1):
        stream = f"h.{layers - 1}.resid" if layers else "embed"
        for t in (0, 4, 8):
            found = parts(trace, layers, t)
            assert len(found.names) == len(found.arrays)
            np.testing.assert_allclose(
                found.arrays.sum(0), trace[stream].array[0, t], rtol=1e-4, atol=1e-4
            )
    after = normed(trace, "ln_f", found, 8).sum(0) + trace.parameter("ln_f.bias")
    np.testing.assert_allclose(after, trace["ln_f"].array[0, 8], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asked", [{}, dict(token=3), ASKED])
def test_attribution_adds_up_to_the_logit(any_model, asked):
    z = any_model.logits([IDS])[0]
    for at in (0, 3, -1):
        found = attribution(any_model, IDS, at=at, **asked)
        token = asked.get("token", int(z[at].argmax()))
        logit = z[at, token] - (z[at, 5] if "against" in asked else 0)
        assert found.law.value == pytest.approx(logit, rel=1e-6)
        assert found.law.total == pytest.approx(found.values.sum())
        assert found.law.agrees, found.law
        config = any_model.config
        assert len(found.rows) == 3 + config.n_layer * (config.n_head + 2)


def test_a_lead_is_the_difference_of_two_attributions(tiny):
    lead = attribution(tiny, IDS, token=3, against=5)
    one, other = (attribution(tiny, IDS, token=v) for v in (3, 5))
    np.testing.assert_allclose(lead.values, one.values - other.values, atol=1e-6)
    turned = attribution(tiny, IDS, token=5, against=3)
    np.testing.assert_array_equal(lead.values, -turned.values)


def test_in_float64_the_residue_is_of_float64(tiny):
    double = GPT2(tiny_params(TINY), dtype="float64")
    assert abs(attribution(double, IDS).law.residue) < 1e-12
    assert abs(score_parts(double, IDS, "h.1.attn.scores[1,8,2]").law.residue) < 1e-12
    assert attribution(double, IDS).law.agrees


def test_a_head_that_writes_nothing_is_credited_with_nothing():
    every = unit_tensors(TINY)
    D = TINY.head_dim
    every["h.1.attn.c_proj.weight"][D:] = 0  # head 1
    model = GPT2(from_tensors(TINY, every))
    found = attribution(model, IDS, token=3)
    assert found["h.1.attn.context[h=1]", "<3>"] == 0
    assert found["h.1.attn.context[h=0]", "<3>"] != 0
    off = ablation(model, IDS, token=3)
    assert off["layer 1", "head 1"] == 0
    assert off["layer 1", "head 0"] != 0


def test_the_last_layer_reads_as_the_model_does(any_model):
    z = any_model.logits([IDS])[0]
    found = logit_lens(any_model, IDS)
    p = np.exp(log_softmax(z.astype(np.float64)))
    np.testing.assert_allclose(found.values[-1], p.max(-1), rtol=1e-5)
    assert found.texts[-1] == tuple(f"<{id}>" for id in z.argmax(-1))
    assert found.law.agrees
    assert len(found.rows) == 1 + 2 * any_model.config.n_layer


def test_every_layer_is_read_with_statistics_of_its_own(tiny):
    """Not those of the last layer, which attribution freezes."""
    with tiny.trace(["h.0.resid", "ln_f.rstd"]) as trace:
        tiny.logits([IDS])
    reading = Reading(TINY, tiny.backend)
    z = norm(trace["h.0.resid"].array, tiny.params.ln_f, reading)
    z = (z @ tiny.params.lm_head.weight.T)[0]
    p = np.exp(log_softmax(z))
    found = logit_lens(tiny, IDS, token=3)
    row = found.rows.index("h.0.resid")
    np.testing.assert_allclose(found.values[row], p[:, 3], rtol=1e-5)
    ranks = [f"#{1 + int((one > one[3]).sum())}" for one in z]
    assert list(found.texts[row]) == ranks
    lead = logit_lens(tiny, IDS, **ASKED)
    np.testing.assert_allclose(lead.values[row], z[:, 3] - z[:, 5], rtol=1e-4)


def test_the_lens_and_attribution_end_in_the_same_number(tiny):
    lens, made = logit_lens(tiny, IDS, **ASKED), attribution(tiny, IDS, **ASKED)
    assert lens.values[-1, -1] == pytest.approx(made.law.total, abs=1e-5)


@pytest.mark.parametrize("layer", [0, -1])
def test_a_score_is_the_sum_of_its_table(any_model, layer):
    config = any_model.config
    layer %= config.n_layer
    with any_model.trace("h.*.attn.scores") as trace:
        any_model.logits([IDS])
    for h, t, s in ((0, 8, 2), (1, 5, 5), (1, 3, 0)):
        address = f"h.{layer}.attn.scores[h={h},t={t},s={s}]"
        found = score_parts(any_model, IDS, address)
        assert found.law.value == trace[address]
        assert found.law.agrees, found.law
        assert found.rows == found.columns
        assert len(found.rows) == 3 + layer * (config.n_head + 2)
    assert found.rows[-1] == "biases"


def test_the_score_of_a_shared_projection_is_a_symmetric_table():
    """Queries and keys made alike: who asks and who answers may change places."""
    every, C = unit_tensors(TINY), TINY.n_embd
    for kind in ("weight", "bias"):
        array = every[f"h.1.attn.c_attn.{kind}"]
        array[..., C : 2 * C] = array[..., :C]
    model = GPT2(from_tensors(TINY, every))
    table = score_parts(model, IDS, "h.1.attn.scores[h=1,t=6,s=6]").values
    np.testing.assert_allclose(table, table.T, atol=1e-9)


def test_a_part_that_is_not_there_leaves_its_row_and_column_empty():
    every = unit_tensors(TINY)
    every["h.0.mlp.c_proj.weight"][...] = 0
    every["h.0.mlp.c_proj.bias"][...] = 0
    model = GPT2(from_tensors(TINY, every))
    found = score_parts(model, IDS, "h.1.attn.scores[h=0,t=7,s=3]")
    at = found.rows.index("h.0.mlp.out")
    assert not found.values[at].any()
    assert not found.values[:, at].any()


def test_what_is_resampled_from_the_prompt_itself_changes_nothing(any_model):
    found = ablation(any_model, IDS, how="resample", other=IDS, **ASKED)
    config = any_model.config
    assert found.shape == (config.n_layer, config.n_head + 1)
    assert not found.values.any()


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_an_ablation_is_the_model_without_that_number(tiny, how):
    """Against a tap that writes the same by hand; c_proj's bias stays."""
    other = None if how == "zero" else OTHER
    source = {}

    def keep(name, array):
        source[name] = np.array(array[0])
        return array

    tiny.logits([IDS if other is None else OTHER], keep)

    def without(place, head):
        def tap(name, array):
            if name != place:
                return array
            there = source[place]
            put = {"zero": 0 * there, "resample": there}.get(how)
            if put is None:
                put = np.broadcast_to(there.mean(-2, keepdims=True), there.shape)
            array = array.copy()
            array[0, head] = put[head]
            return array

        return log_softmax(tiny.logits([IDS], tap)[0, 6])[3]

    found = ablation(tiny, IDS, how=how, other=other, token=3, at=6)
    base = log_softmax(tiny.logits([IDS])[0, 6])[3]
    for i in range(TINY.n_layer):
        for h in range(TINY.n_head):
            expected = without(f"h.{i}.attn.context", h) - base
            assert found[f"layer {i}", f"head {h}"] == pytest.approx(expected, abs=1e-5)
        expected = without(f"h.{i}.mlp.act", slice(None)) - base
        assert found[f"layer {i}", "mlp"] == pytest.approx(expected, abs=1e-5)


def test_patching_what_is_the_same_restores_nothing_and_all_restores_all(any_model):
    clean, corrupted = IDS, [*IDS[:4], (IDS[4] + 7) % TINY.vocab_size, *IDS[5:]]
    found = patching(any_model, clean, corrupted, **ASKED)
    assert found.rows[0] == "embed"
    assert found.shape == (1 + any_model.config.n_layer, len(clean))
    assert not found.values[:, :4].any()  # before they part, both are one
    assert found.values[-1, -1] == pytest.approx(1, abs=1e-6)
    assert not found.values[-1, :-1].any()  # nobody looks at these any more
    assert found.values[0, 4] == pytest.approx(1, abs=1e-6)  # all that differs
    assert not found.values[0, 5:].any()


@pytest.mark.parametrize("what", ["resid", "resid_mid", "attn", "mlp", "heads"])
def test_noise_is_the_other_side_of_denoise(tiny, what):
    one = patching(tiny, IDS, OTHER, what=what, direction="noise", **ASKED)
    two = patching(tiny, OTHER, IDS, what=what, direction="denoise", **ASKED)
    np.testing.assert_allclose(one.values, 1 - two.values, atol=1e-6)
    assert one.rows == two.rows


def test_prompts_of_unlike_length_are_aligned_at_both_ends(tiny):
    a, b = [1, 2, 3, 9, 8], [1, 2, 4, 5, 9, 8]
    assert aligned(a, b) == [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)]
    assert aligned([1, 2], [1, 2, 3]) == [(0, 0), (1, 1)]
    assert aligned([5], [7]) == [(0, 0)]
    assert aligned([1, 1], [1, 1, 1]) == [(0, 0), (1, 1)]
    found = patching(tiny, a, b, **ASKED)
    assert found.shape == (3, 5)
    assert found.values[-1, -1] == pytest.approx(1, abs=1e-6)
    with pytest.raises(InsideError, match="5 tokens; here"):
        patching(tiny, a, b, what="heads", **ASKED)


def looking(offsets):
    """Per head of layer 0, a model whose queries find the key so far before them."""
    config = replace(TINY, n_embd=64, n_head=2, n_positions=24)
    every = unit_tensors(config)
    C, D = config.n_embd, config.head_dim
    for name in ("wte.weight", "h.0.attn.c_attn.bias", "h.0.ln_1.bias"):
        every[name][...] = 0
    every["h.0.ln_1.weight"][...] = 1
    every["wpe.weight"][...] = np.eye(24, C)
    weight = every["h.0.attn.c_attn.weight"]
    weight[...] = 0
    for h, offset in enumerate(offsets):
        for place in range(24):
            if place >= offset:
                weight[place, h * D + (place - offset) % D] = 40
            weight[place, C + h * D + place % D] = 40
    return GPT2(from_tensors(config, every))


def test_heads_that_look_at_one_place_are_found():
    """Built by hand: head 0 looks one back; head 1 n back, or n - 1 back."""
    n = 8
    previous, duplicate, induction = head_scores(looking([1, n]), length=n)
    assert previous["layer 0", "head 0"] > 0.9
    assert duplicate["layer 0", "head 1"] > 0.9
    assert max(duplicate["layer 0", "head 0"], induction["layer 0", "head 0"]) < 0.1
    *_, induction = head_scores(looking([1, n - 1]), length=n)
    assert induction["layer 0", "head 1"] > 0.9


def test_heads_that_look_everywhere_alike_have_the_scores_of_chance():
    every = unit_tensors(TINY)
    for i in range(TINY.n_layer):
        every[f"h.{i}.attn.c_attn.weight"][:, : TINY.n_embd] = 0  # no query
        every[f"h.{i}.attn.c_attn.bias"][: TINY.n_embd] = 0
    model, n = GPT2(from_tensors(TINY, every)), 6
    previous, duplicate, induction = head_scores(model, length=n, rows=2)
    chance = np.mean([1 / (t + 1) for t in range(1, 2 * n + 1)])  # with bos
    later = np.mean([1 / (t + 1) for t in range(n + 1, 2 * n + 1)])
    np.testing.assert_allclose(previous.values, chance, rtol=1e-5)
    np.testing.assert_allclose(duplicate.values, later, rtol=1e-5)
    np.testing.assert_allclose(induction.values, later, rtol=1e-5)


def test_scores_of_heads_are_the_same_for_the_same_seed(tiny):
    one, two, other = (head_scores(tiny, length=6, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one.values, two.values)
    assert (one.values != other.values).any()
    # Without a length as many as fit.
    assert "(4 texts of 11 random tokens" in head_scores(tiny)[0].text()


def test_rollout_is_a_causal_distribution(any_model):
    n = any_model.config.n_layer
    for layers in range(n + 1):
        rolled = rollout(any_model, IDS, layers=layers).values
        np.testing.assert_allclose(rolled.sum(-1), 1, rtol=1e-5)
        assert not np.triu(rolled, 1).any()
        assert (rolled >= 0).all()
    np.testing.assert_array_equal(rollout(any_model, IDS, layers=0), np.eye(len(IDS)))
    np.testing.assert_array_equal(rolled, rollout(any_model, IDS))
    with any_model.trace("h.*.attn.weights") as trace:
        any_model.logits([IDS])
    first, second = (
        (trace[f"h.{i}.attn.weights"].array[0].mean(0) + np.eye(len(IDS))) / 2
        for i in (0, 1)
    )
    for layers, expected in ((1, first), (2, second @ first)):
        found = rollout(any_model, IDS, layers=layers)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-7)


def answer(model, wte, asked, at=-1):
    """f by plain differences: the measure with other token embeddings."""

    def tap(name, array):
        return wte[None].astype(array.dtype) if name == "wte" else array

    z = model.logits([IDS], tap)[0, at]
    if "against" in asked:
        return z[asked["token"]] - z[asked["against"]]
    return log_softmax(z)[asked["token"]]


@pytest.mark.parametrize("asked", [dict(token=3), ASKED])
def test_gradient_times_input_is_the_slope_along_each_embedding(asked):
    model = GPT2(tiny_params(TINY), dtype="float64")
    wte = model.params.wte.weight[IDS]
    found = gradient_input(model, IDS, at=6, **asked)
    for t in (0, 3, 6):
        ends = []
        for h in (1e-5, -1e-5):
            moved = wte.copy()
            moved[t] *= 1 + h
            ends.append(answer(model, moved, asked, at=6))
        slope = (ends[0] - ends[1]) / 2e-5
        assert found.values[t, 0] == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert not found.values[7:].any()  # what comes later has no part in it


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("asked", [dict(token=3), ASKED])
def test_integrated_gradients_are_complete(asked, baseline):
    config = replace(TINY, layer_norm_epsilon=0.1)  # a path without a sharp bend
    model = GPT2(tiny_params(config), dtype="float64")
    wte = model.params.wte.weight[IDS]
    start = np.zeros_like(wte)
    if baseline == "mean":
        start += model.params.wte.weight.mean(0)
    change = answer(model, wte, asked) - answer(model, start, asked)
    residues = []
    for points in (4, 256):
        found = integrated_gradients(
            model, IDS, points=points, baseline=baseline, **asked
        )
        assert found.law.value == pytest.approx(change)
        assert found.law.total == pytest.approx(found.values.sum())
        residues.append(abs(found.law.residue))
    assert residues[1] < 1e-3 * np.abs(found.values).sum()
    assert residues[1] < residues[0]
    assert found.law.agrees


def test_points_of_a_path_are_read_some_at_a_time(tiny, monkeypatch):
    whole = integrated_gradients(tiny, IDS, points=9, token=3)
    monkeypatch.setattr("npgpt.inside.lenses.gradients.AT_ONCE", 4)
    parts = integrated_gradients(tiny, IDS, points=9, token=3)
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-4, atol=1e-5)


def test_lenses_of_a_model_on_another_backend_are_those_of_numpy():
    pytest.importorskip("numba")
    params = tiny_params(TINY)
    ours, numba = GPT2(params), GPT2(params, backend="numba")
    for lens in (
        lambda m: logit_lens(m, IDS),
        lambda m: attribution(m, IDS, token=3),
        lambda m: score_parts(m, IDS, "h.1.attn.scores[h=1,t=6,s=2]"),
        lambda m: ablation(m, IDS, token=3),
        lambda m: patching(m, IDS, OTHER, **ASKED),
        lambda m: head_scores(m, length=6)[2],
        lambda m: rollout(m, IDS),
        lambda m: gradient_input(m, IDS, token=3),
        lambda m: integrated_gradients(m, IDS, token=3, points=4),
    ):
        # the same functions; arrays that lie elsewhere are added up in another order
        np.testing.assert_allclose(lens(ours).values, lens(numba).values, atol=1e-9)
    assert numba.backend.name == "numba"


def test_a_grid_says_what_it_is(tales):
    found = attribution(tales, "The king", token=" was")
    assert repr(found).startswith("Grid(attribution: 39 x 1, largest")
    text = str(found)
    assert text.splitlines()[0] == found.caption
    assert len(text.splitlines()) == 42
    assert "residue" in text.splitlines()[-1]
    html = found._repr_html_()
    assert html.count("<tr>") == 40
    assert "<script" not in html
    plain = found.to_json()
    assert math.fsum(x for row in plain["values"] for x in row) == pytest.approx(
        plain["law"]["total"]
    )
    with pytest.raises(ValueError, match="read-only"):
        found.values[0] = 1


def test_a_wide_grid_is_in_blocks_and_a_large_sum_shows_its_largest(tiny):
    wide = Grid("a", "b", ("row",), tuple(f"{n}" for n in range(40)), np.ones((1, 40)))
    assert max(map(len, wide.text(60).splitlines())) <= 60
    assert wide.text(60).count("row") > 2
    found = score_parts(tiny, IDS, "h.1.attn.scores[h=1,t=6,s=2]")
    many = replace(found, rows=found.rows * 3, values=np.tile(found.values, (3, 1)))
    lines = many.text().splitlines()
    assert len(lines) == 24
    assert lines[-2].startswith(f"{many.values.size - 20} others")
    shown = sum(float(line.split()[-1]) for line in lines[2:-1])
    assert shown == pytest.approx(3 * found.law.total, abs=0.02)


@pytest.mark.parametrize(
    ("lens", "sentence"),
    [
        (lambda m: logit_lens(m, IDS, at=9), "token 9 is not there"),
        (lambda m: logit_lens(m, IDS, token=40), "ids are 0 to 39"),
        (lambda m: logit_lens(m, IDS, token=" a"), "no tokenizer"),
        (lambda m: logit_lens(m, IDS, token=1.5), "its text or its id"),
        (lambda m: attribution(m, IDS, token=3, against=3), "are the same"),
        (lambda m: score_parts(m, IDS, "h.0.attn.weights[0,1,1]"), "is no score"),
        (lambda m: score_parts(m, IDS, "h.0.attn.scores[0,1,2]"), "is hidden"),
        (lambda m: score_parts(m, IDS, "h.9.attn.scores[0,1,2]"), "layers 0 to 1"),
        (lambda m: score_parts(m, IDS, "h.0.attn.scores[0,1]"), "also needs"),
        (lambda m: ablation(m, IDS, how="off"), "how is zero, mean, resample"),
        (lambda m: ablation(m, IDS, how="resample"), "give other"),
        (lambda m: ablation(m, IDS, other=OTHER), "zero needs no other"),
        (lambda m: ablation(m, IDS, how="resample", other=[1]), "9 and 1 tokens"),
        (lambda m: patching(m, IDS, IDS), "no difference to restore"),
        (lambda m: patching(m, IDS, OTHER, what="q"), "what is resid"),
        (lambda m: patching(m, IDS, OTHER, direction="up"), "denoise or noise"),
        (lambda m: head_scores(m, length=12), "2 to 11"),
        (lambda m: head_scores(m, length=4, rows=0), "1 or more"),
        (lambda m: rollout(m, IDS, layers=3), "0 to 2"),
        (lambda m: rollout(m, IDS, layers=True), "0 to 2"),
        (lambda m: integrated_gradients(m, IDS, points=0), "1 to 4096"),
        (lambda m: integrated_gradients(m, IDS, baseline="one"), "zero or mean"),
    ],
)
def test_a_wrong_question_is_one_sentence(tiny, lens, sentence):
    with pytest.raises(InsideError, match=sentence):
        lens(tiny)


def test_a_text_that_is_no_token_is_one_sentence(tales):
    with pytest.raises(InsideError, match="is not one token but 2"):
        logit_lens(tales, "The king", token=" king was")
    with pytest.raises(InsideError, match="not one token but 0"):
        logit_lens(tales, "The king", token="")
