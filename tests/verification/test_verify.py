"""`npgpt verify` agrees with what is right and names what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import CASES, TINY, tiny_params, token_ids

from npgpt import GPT2, NpgptError, ops
from npgpt.inside.recipes import taps
from npgpt.storage import checkpoint, hub
from npgpt.verification import checks, published
from npgpt.verification.checks import first_divergence
from npgpt.verification.distance import vector_error
from npgpt.verification.own import MAKERS, REPLACEABLE, maker, own_functions

NPGPT = str(Path(sys.executable).parent / "npgpt")
RIGHT = """
import numpy as np
def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
"""


@pytest.mark.parametrize("name", hub.bundled())
def test_bundled_models_agree_with_what_was_recorded(name, backend):
    folder = hub.resolve(name)
    params = checkpoint.load(folder)
    found = list(checks.verify(params, backend, reference=folder / checks.REFERENCE))
    assert first_divergence(found) is None
    recorded = [check for check in found if check.check.startswith("as transformers")]
    layers = params.config.n_layer
    assert len(recorded) >= 5 + 12 * layers  # a fused attention has no scores
    assert recorded[-1].tensor == "logits"


def test_float64_is_checked_at_its_own_tolerance():
    found = list(checks.verify(tiny_params(), dtype="float64"))
    assert first_divergence(found) is None
    own = [check for check in found if not check.check.startswith(("numba", "cupy"))]
    assert max(check.tolerance for check in own) < 1e-12


WRONG = {  # a mistake that learners make, the first tensor that shows it
    "layer_norm without epsilon's place": (
        "def layer_norm(x, weight, bias, epsilon=1e-5):\n"
        "    c = x - x.mean(-1, keepdims=True)\n"
        "    return c / (x.std(-1, keepdims=True, ddof=1) + epsilon) * weight + bias",
        "h.0.ln_1",
    ),
    "linear without its bias": (
        "def linear(x, weight, bias=None):\n    return x @ weight",
        "h.0.attn.q",
    ),
    "the other gelu": (
        "from npgpt.activations import gelu_erf\ndef gelu(x):\n    return gelu_erf(x)",
        "h.0.mlp.act",
    ),
    "softmax over the wrong axis": (
        "import numpy as np\n"
        "def softmax(x):\n"
        "    e = np.exp(x - x.max())\n"
        "    return e / e.sum(axis=-2, keepdims=True)",
        "h.0.attn.weights",
    ),
    "attention without the scale": (
        "from npgpt import ops\n"
        "def attention(q, k, v, *, causal=True, mask=None, window=None, scale=None):\n"
        "    return ops.attention(q, k, v, causal=causal, mask=mask, scale=1.0)",
        "h.0.attn.context",
    ),
}


def run(own, tmp_path, *args):
    path = tmp_path / "mine.py"
    path.write_text(own)
    return subprocess.run(
        [NPGPT, "verify", "tales-mini", "--ops", str(path), *args],
        capture_output=True,
        text=True,
    )


def checks_of(own, tmp_path):
    (tmp_path / "mine.py").write_text(own)
    folder = hub.resolve("tales-mini")
    backend = own_functions(tmp_path / "mine.py")
    reference = folder / checks.REFERENCE
    return list(checks.verify(checkpoint.load(folder), backend, reference=reference))


@pytest.mark.parametrize("mistake", WRONG)
def test_the_first_tensor_that_diverges_is_named(mistake, tmp_path):
    own, tensor = WRONG[mistake]
    wrong = first_divergence(checks_of(own, tmp_path))
    assert (wrong.check, wrong.tensor) == ("as transformers 5.23.0", tensor)


def test_the_function_that_made_it_is_named():
    for mistake, (_, tensor) in WRONG.items():
        assert maker(tensor) in mistake
    assert maker("h.11.mlp.act") == "gelu"
    assert maker("logits") == "linear"
    for nobody in ("h.0.resid", "logits[11], split at 1", "logits, row 0", "all"):
        assert maker(nobody) is None


def test_every_tap_has_its_maker():
    assert list(MAKERS) == list(taps())
    made = {name for name in MAKERS.values() if name}
    assert set(REPLACEABLE) <= made
    assert all(callable(getattr(ops, name)) for name in made)


def test_the_command_names_it_and_fails(tmp_path):
    own, tensor = WRONG["the other gelu"]
    done = run(own, tmp_path)
    assert done.returncode == 1
    assert f"first tensor that diverges: {tensor} (as transformers 5.23" in done.stdout
    assert "made by gelu" in done.stdout
    done = run(own, tmp_path, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert (result["ok"], result["first"]) == (False, tensor)


def test_a_mask_from_the_wrong_corner_shows_only_with_a_cache(tmp_path):
    own = (
        "import numpy as np\n"
        "from npgpt import ops\n"
        "def attention(q, k, v, *, causal=True, mask=None, window=None, scale=None):\n"
        "    T, S = q.shape[2], k.shape[2]\n"
        "    if causal:\n"
        "        mask = np.tril(np.ones((1, T, S), bool))\n"  # right only where T == S
        "    return ops.attention(q, k, v, causal=False, mask=mask, scale=scale)\n"
    )
    wrong = first_divergence(checks_of(own, tmp_path))
    assert (wrong.check, wrong.tensor) == (
        "cached, uncached",
        "logits[11], split at 1",
    )


def test_own_functions_that_are_right_pass(tmp_path):
    done = run(RIGHT, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "tensors agree" in done.stdout


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("def soft(x): pass", "defines none of softmax, layer_norm"),
        ("def softmax(x:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def gelu(x): return x @ x", "gelu raised ValueError"),
        ("def gelu(x): return x.shape", "gelu returned a tuple, not an array of"),
        (
            "def gelu(x): return x[0]",
            "gelu returned an array of (12, 384), not (1, 12,",
        ),
    ],
)
def test_own_files_that_cannot_run_are_one_sentence(own, sentence, tmp_path):
    done = run(own, tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_own_file_is_named():
    with pytest.raises(NpgptError, match="nowhere"):
        own_functions("nowhere.py")


def test_weights_that_are_not_finite_are_named():
    params = tiny_params()
    params.h[1].mlp.c_fc.bias[3] = np.nan
    wrong = first_divergence(list(checks.check_weights(params)))
    assert wrong.tensor == "h.1.mlp.c_fc.bias"


def published_of(params):
    """What somebody might publish of a model."""
    model = GPT2(params)
    ids = tuple(token_ids(TINY, 1, 9)[0].tolist())
    new = tuple(model.generate(ids, max_new_tokens=9).ids)
    z = model.logits(ids)[0]
    loss = ops.cross_entropy(z[:-1], np.array(ids[1:]))
    return published.Known(
        greedy=(published.Greedy("x", ids, new, "us"),),
        top_logits=(published.TopLogits(ids, {3: float(z[-1, 3])}),),
        losses=(published.Loss("ids", ids, (1, 8), loss, 1e-4),),
        wte_corners={(-1, -3): tuple(params.wte.weight[-1, -3:].tolist())},
    )


def published_checks(params, facts):
    return list(checks.check_published(GPT2(params), params, facts))


def test_published_values_hold_for_their_weights_and_no_others():
    facts = published_of(tiny_params())
    assert first_divergence(published_checks(tiny_params(), facts)) is None
    others = published_checks(tiny_params(seed=1), facts)
    assert not any(check.ok for check in others)


def test_every_published_value_is_well_formed():
    for model in published.MODELS.values():
        for case in model.greedy:
            assert all(0 <= id < 50257 for id in case.prompt + case.new)
        for loss in model.losses:
            assert len(loss.ids) == loss.shape[0] * loss.shape[1] + 1


def test_published_ids_are_the_published_texts(shared):
    cases = json.loads((shared / "gpt2-golden" / "generations.json").read_text())
    texts = {tuple(case["full_text_ids_retokenised"]) for case in cases}
    for case in published.GREEDY:
        assert case.prompt + case.new in texts
    batch = json.loads((shared / "gpt2-golden" / "llmc_debug_batch.json").read_text())
    assert list(published.LOSSES[1].ids) == batch["tokens"]


def test_vector_error_sees_one_wrong_vector_among_large_ones():
    reference = np.full((10, 4), 1e4)
    reference[3] = 100.0
    x = reference.copy()
    x[3, 0] += 10
    assert vector_error(x, reference) == pytest.approx(0.05)
    masked = np.where(np.eye(4) > 0, -np.inf, 1.0)
    assert vector_error(masked, masked) == 0
    assert vector_error(np.ones((4, 4)), masked) == np.inf
    assert vector_error(np.ones((2, 4)), np.ones((1, 4))) == np.inf


@pytest.mark.parametrize("case", CASES)
def test_healthy_models_agree_with_themselves(case):
    for seed in range(4):
        found = list(checks.verify(tiny_params(CASES[case], seed)))
        assert first_divergence(found) is None


@pytest.mark.parametrize("n_positions", [1, 2, 12])
@pytest.mark.parametrize("mistake", [name for name in WRONG if "softmax" not in name])
def test_a_mistake_is_seen_without_a_recording_too(mistake, n_positions, tmp_path):
    own, tensor = WRONG[mistake]
    (tmp_path / "mine.py").write_text(own)
    backend = own_functions(tmp_path / "mine.py")
    params = tiny_params(replace(TINY, n_positions=n_positions))
    wrong = first_divergence(list(checks.verify(params, backend)))
    if n_positions > 1 or "scale" not in mistake:  # one score's softmax is 1
        assert wrong.check.endswith("float32, NumPy float64")
        assert wrong.tensor == tensor


def test_an_error_is_relative_to_what_the_vector_is_made_from():
    score = np.array([[1e-4]])  # 100 - 99.9999, each exact to seven digits
    assert vector_error(score + 1e-5, score) > 0.05
    assert vector_error(score + 1e-5, score, scale=100.0) < 1e-6
    assert vector_error(score, score, scale=np.nan) != 0  # NaN is not ok


def test_a_deeper_model_tolerates_more():
    deep = GPT2(tiny_params(replace(TINY, n_layer=3)))
    assert checks.tolerance(deep) > checks.tolerance(GPT2(tiny_params()))
