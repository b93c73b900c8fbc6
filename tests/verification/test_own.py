"""A learner's functions, each called by itself: every mistake is caught and blamed."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mistakes import MISTAKES, TABLE

from npgpt import NpgptError, ops
from npgpt.verification.alone import BY_ITSELF, CASES, alone
from npgpt.verification.checks import first_divergence
from npgpt.verification.own import OWN, REPLACEABLE, own_file, own_functions, signature

NPGPT = str(Path(sys.executable).parent / "npgpt")


def first_wrong(text, tmp_path):
    """The function that is blamed, and why."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    try:
        wrong = first_divergence(list(alone(own_file(path))))
    except NpgptError as error:
        where, _, what = str(error).partition(": ")
        assert where.startswith(str(path))
        return what.split()[0], str(error)
    return wrong and wrong.check.removesuffix(BY_ITSELF), wrong and wrong.why


def run(text, tmp_path, *args):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return subprocess.run(
        [NPGPT, "verify", "tales-mini", "--ops", str(path), *args],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("name", "what"), MISTAKES)
def test_every_mistake_is_blamed_on_its_function(name, what, tmp_path):
    blamed, why = first_wrong(MISTAKES[name, what], tmp_path)
    assert blamed == name, why


def test_there_are_ten_mistakes_a_function():
    functions = [n for n, f in vars(ops).items() if inspect.isfunction(f)]
    here = [n for n in functions if getattr(ops, n).__module__ == "npgpt.ops"]
    assert (
        list(OWN) == list(CASES) == list(TABLE) == [n for n in here if n != "namespace"]
    )
    for name in OWN:
        assert sum(function == name for function, _ in MISTAKES) >= 10


def test_ours_is_right(tmp_path):
    assert first_wrong(inspect.getsource(ops), tmp_path) == (None, None)


BLOG = """
import numpy as np
def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)
def attention(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))
    T, S = scores.shape[-2:]
    scores = np.where(np.tri(T, S, S - T) > 0, scores, np.float32(-1e9))
    return softmax(scores) @ v
"""
STABLE = BLOG.replace("np.exp(x)", "np.exp(x - x.max(axis=-1, keepdims=True))")


def test_a_function_may_have_fewer_options(tmp_path):
    done = run(STABLE, tmp_path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["check"] for check in json.loads(done.stdout)["checks"]}
    assert {"softmax by itself", "attention by itself"} <= checks


def test_what_a_model_hides_is_seen_by_itself(tmp_path):
    done = run(BLOG, tmp_path)
    assert done.returncode == 1
    assert "softmax by itself is wrong:" in done.stdout
    assert "scores of 1000 and of -1000: nan where 0.665241 is right" in done.stdout
    assert "tensors agree all the same" in done.stdout
    result = json.loads(run(BLOG, tmp_path, "--json").stdout)
    assert (result["ok"], result["function"], result["first"]) == (
        False,
        "softmax",
        None,
    )


def test_a_mask_from_the_wrong_corner_is_blamed_on_attention(tmp_path):
    done = run(STABLE.replace("np.tri(T, S, S - T)", "np.tri(T, S)"), tmp_path)
    assert done.returncode == 1
    assert "attention by itself is wrong:\n  two new positions of five: " in done.stdout
    assert "linear" not in done.stdout


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("attention(q, k, v)", "attention(q, k, v)"),
        ("attention(q, k, v, mask)", "attention(q, k, v, mask)"),
        ("attention(q, k, v, mask=None)", "attention(q, k, v, mask)"),
        ("attention(a, b, c, **kwargs)", "attention(a, b, c, **kwargs)"),
        ("layer_norm(x, g, b)", "layer_norm(x, g, b)"),
        ("layer_norm(x, g, b, eps=1e-5)", "layer_norm(x, g, b, eps)"),
        ("layer_norm(x, gain, *, bias, epsilon)", "layer_norm(x, gain, bias, epsilon)"),
        ("linear(inputs, w, b)", "linear(inputs, w, b)"),
        ("softmax(x, axis=-1)", "softmax(x)"),
        ("softmax(*args)", "softmax(*args)"),
        ("causal_mask(T, S)", "causal_mask(T, S)"),
    ],
)
def test_a_function_is_called_with_what_it_accepts(own, said, tmp_path):
    name = own.partition("(")[0]
    inner = said.partition("(")[2]
    order = ["x", "weight", "bias", "epsilon"]
    if name == "layer_norm":  # keywords by their own names
        names = inner.rstrip(")").split(", ")
        inner = (
            ", ".join(n if i < 2 else f"{order[i]}={n}" for i, n in enumerate(names))
            + ")"
        )
    call = f"{name}({inner}".replace("mask)", "mask=mask, causal=mask is None)")
    text = f"from npgpt import ops\ndef {own}:\n    return ops.{call}\n"
    assert first_wrong(text, tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("linear(x, weight)", "linear has no bias, and is called with one; write"),
        ("softmax(x, axis)", "missing a required argument: 'axis'); write softmax(x)"),
        ("attention(qkv)", "attention has no k, and is called with one; write"),
        ("causal_mask(T)", "causal_mask has no S, and is called with one"),
    ],
)
def test_a_signature_that_does_not_fit_is_told_the_right_one(own, sentence, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"def {own}:\n    return 0\n")
    with pytest.raises(NpgptError) as told:
        list(alone(own_file(path)))
    assert sentence in str(told.value)


def test_the_line_of_the_file_is_named(tmp_path):
    text = "import numpy as np\n\ndef gelu(x):\n    y = x\n    y *= 2\n    return y\n"
    done = run(text, tmp_path)
    assert "mine.py, line 5: gelu raised ValueError" in done.stderr
    assert "may not write into what it is given" in done.stderr
    assert "as in gelu(x)" in done.stderr
    for text, line in (("\n\ndef f(:", 3), ("a = 1\nb = a / 0", 2)):
        assert f"mine.py, line {line}: " in run(text, tmp_path).stderr


def test_an_error_of_the_model_does_not_hide_what_is_wrong_by_itself(tmp_path):
    text = BLOG + "def layer_norm(x, g, b):\n    return x[..., 1:]\n"
    done = run(text, tmp_path)
    assert done.returncode == 1
    assert "softmax by itself is wrong:" in done.stdout
    assert "layer_norm returned an array of" in done.stderr


def test_the_help_shows_the_signatures():
    done = subprocess.run([NPGPT, "verify", "--help"], capture_output=True, text=True)
    for name in REPLACEABLE:
        assert f"  {signature(name)}\n" in done.stdout


def test_other_functions_are_called_by_themselves_alone(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MISTAKES["cross_entropy", "in bits"])
    assert own_functions(path).cross_entropy is not own_file(path)["cross_entropy"]
    assert first_wrong(path.read_text(), tmp_path)[0] == "cross_entropy"
