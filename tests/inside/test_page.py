"""The page of a forward pass: what the file holds, how large it is, what is refused."""

import base64
import json
import re
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import CASES, tiny_params, token_ids

import npgpt
from npgpt import GPT2, InsideError
from npgpt.inside.given import GIVEN
from npgpt.inside.page import MOST_TOKENS, SCRIPTS, page, write_page
from npgpt.inside.recipes import recipes

TEXT = "Once upon a time there was an old king who had a daughter, and she"


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


def element(html, id):
    found = re.search(rf'<script type="[\w/-]+" id="{id}">(.*?)</script>', html, re.S)
    return found[1]


def unpacked(html):
    """What a page says, and its arrays: whole, or the lines that it has."""
    contents = json.loads(element(html, "contents"))
    data = np.frombuffer(
        zlib.decompress(base64.b64decode(element(html, "numbers"))), np.uint8
    )
    arrays = {}
    for entry in contents["arrays"]:
        if "same" in entry:
            arrays[entry["name"]] = arrays[entry["same"]]
            continue
        n, size = entry["count"], entry["bytes"]
        planes = data[entry["offset"] :][: n * size].reshape(size, n)
        arrays[entry["name"]] = np.ascontiguousarray(planes.T).view(f"<f{size}")[:, 0]
    return contents, arrays


def traced(model, prompt):
    with model.trace() as trace:
        model.logits([model.encode(prompt)])
    return trace


@pytest.mark.parametrize("case", CASES)
def test_a_page_holds_every_number(case):
    model = GPT2(tiny_params(CASES[case]))
    ids = token_ids(CASES[case], 1, 7)[0].tolist()
    contents, arrays = unpacked(page(model, ids))
    trace = traced(model, ids)
    assert [token["id"] for token in contents["tokens"]] == ids
    assert {tap["name"] for tap in contents["taps"]} == set(recipes(model.config))
    for name in recipes(model.config):
        expected = trace.passes[0].array(name, trace)[0]
        np.testing.assert_array_equal(arrays[name], expected.ravel(), err_msg=name)
    for name in contents["parameters"]:
        expected = trace.parameter(name).ravel()
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name)


def test_parameters_are_as_small_as_the_checkpoint_has_them(mini):
    contents, arrays = unpacked(page(mini, TEXT))
    assert {arrays[name].dtype for name in contents["parameters"]} == {np.dtype("<f2")}
    assert arrays["h.0.attn.q"].dtype == np.float32
    own = [entry["name"] for entry in contents["arrays"] if "same" not in entry]
    assert "lm_head.weight" not in own


def test_the_same_prompt_gives_the_same_bytes(mini, tmp_path):
    sizes = [write_page(mini, TEXT, tmp_path / name) for name in ("a.html", "b.html")]
    one, two = ((tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two
    assert sizes == [len(one)] * 2


def test_sizes_and_the_time_to_write(mini, tales, tmp_path):
    assert len(mini.encode(TEXT)) == 16
    assert write_page(mini, TEXT, tmp_path / "a.html") <= 3e6
    start = time.perf_counter()
    assert write_page(tales, TEXT, tmp_path / "a.html", "focus") <= 5e6
    assert time.perf_counter() - start < 30  # a frozen machine; alone it takes two


def test_focus_holds_one_layer_whole_and_what_the_prompt_needs(tales):
    contents, _ = unpacked(page(tales, TEXT, cell="h.4.mlp.out[t=2,c=3]"))
    assert contents["weights"] == "focus"
    assert contents["start"] == "h.4.mlp.out[t=2,c=3]"
    entries = {entry["name"]: entry for entry in contents["arrays"]}
    matrices = {name for name in entries if name.endswith("c_fc.weight")}
    assert matrices == {"h.4.mlp.c_fc.weight"}
    assert "h.1.ln_1.weight" in entries
    lines = entries["wte.weight"]["lines"]
    assert set(tales.encode(TEXT)) < set(lines) < set(range(4096))


@pytest.mark.parametrize(
    "cell",
    [
        "h.5.mlp.out[t=5,c=3]",
        "h.5.attn.scores[h=1,t=7,s=2]",
        "h.0.attn.v[h=1,t=7,d=2]",
        "logits[t=15,v=77]",
        "h.3.ln_1.variance[t=4]",
        "wte.weight[v=3,c=5]",
        "token[t=3]",
    ],
)
def test_a_cone_holds_what_its_number_is_made_of(tales, cell):
    html = page(tales, TEXT, "cone", cell)
    assert len(html) < 5e6
    contents, arrays = unpacked(html)
    entries = {entry["name"]: entry for entry in contents["arrays"]}
    trace, at = traced(tales, TEXT), cell
    for why in trace.why(cell, depth=200):  # down to a token or a place
        for operand in why.operands:
            name, _, index = operand.address.rstrip("]").partition("[")
            if name in GIVEN or not index:  # a constant has none
                continue
            assert operand.value == found(entries, arrays, name, index), (at, operand)
    assert why.address.startswith(("token", "position", "wte.weight"))
    last = entries["logits"]
    z = trace["logits"].array[0, -1]
    line = last["lines"].index(15)
    np.testing.assert_array_equal(arrays["logits"].reshape(-1, 4096)[line], z)


def test_the_cone_of_a_maximum_goes_on_with_the_largest_score(tales):
    contents, arrays = unpacked(
        page(tales, TEXT, "cone", "h.3.attn.weights.max[h=0,t=4]")
    )
    entries = {entry["name"]: entry for entry in contents["arrays"]}
    scores = traced(tales, TEXT)["h.3.attn.scores"].array[0, 0, 4]
    query = f"h=0,t=4,d={3}"
    assert found(entries, arrays, "h.3.attn.q", query)  # of the one score
    keys = entries["h.3.attn.k"]["lines"]
    assert int(scores.argmax()) in keys
    assert max(keys) <= 4  # no masked one is followed


def found(entries, arrays, name, index):
    """The number at an address in the lines of a page."""
    entry = entries[name]
    entry = entries[entry["same"]] if "same" in entry else entry
    at = [int(part.split("=")[1]) for part in index.split(",")]
    axis, shape = entry["axis"], entry["shape"]
    others = [i for i in range(len(shape)) if i != axis]
    line = 0
    for i in others:
        line = line * shape[i] + at[i]
    lines = arrays[entry["name"]].reshape(-1, shape[axis])
    return float(lines[entry["lines"].index(line), at[axis]])


def test_a_cone_of_a_model_of_the_size_of_gpt2():
    from npgpt.config import GPT2Config
    from npgpt.storage.checkpoint import expected_shapes, from_tensors

    config = GPT2Config(n_layer=12)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32) * np.float32(0.05)
        for name, shape in expected_shapes(config).items()
    }
    model = GPT2(from_tensors(config, tensors))
    ids = rng.integers(0, config.vocab_size, 32).tolist()
    html = page(model, ids, "cone", "h.11.mlp.out[t=31,c=5]")
    assert len(html) <= 5e6
    with pytest.raises(InsideError, match=r"would hold \d+ million numbers"):
        page(model, ids, "all")


def test_nothing_in_a_page_leaves_it_or_can_be_run_in_it(mini):
    html = page(mini, "</script><script>alert(1)</script> @NUMBERS@ <!-- &amp; \u2028")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {
        "default-src", "script-src", "style-src", "base-uri", "form-action",
    }  # fmt: skip
    assert re.fullmatch(r"'sha256-[\w+/=]+'", rules["script-src"])
    assert html.count("<script") == html.count("</script>") == 3
    assert not re.search(r"(src|href)=[\"']?(http|//)", html)
    contents, _ = unpacked(html)
    assert contents["prompt"].startswith("</script><script>alert(1)")


def test_scripts_make_no_markup_of_text():
    folder = Path(npgpt.inside.page.__file__).parent
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
    for name in SCRIPTS:
        text = (folder / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write", text
        )
        assert text.count("\n") <= 300, name


def test_a_model_without_tokenizer_is_shown_by_ids():
    contents, _ = unpacked(page(GPT2(tiny_params()), [3, 1, 4]))
    assert [token["shown"] for token in contents["tokens"]] == ["<3>", "<1>", "<4>"]
    assert contents["texts"] == {}


def test_an_empty_prompt_is_the_beginning_of_a_text(mini):
    contents, _ = unpacked(page(mini, ""))
    assert [token["id"] for token in contents["tokens"]] == [0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(prompt="a b c " * 40), f"at most {MOST_TOKENS} tokens"),
        (dict(weights="half"), "weights must be one of all, focus, cone, not 'half'"),
        (dict(weights="cone"), "a cone needs the cell that it ends in"),
        (dict(cell="h.9.attn.q[h=0,t=0,d=0]"), "this model has layers 0 to 2"),
        (dict(cell="h.0.attn.p[t=0]"), "there is no h.0.attn.p; near it are"),
        (dict(cell="h.0.attn.q[h=0,t=99,d=0]"), "t is 0 to 15"),
        (dict(cell="h.0.attn.q[h=0]"), "the address also needs t"),
        (dict(cell="h.0.attn.q["), "is no address"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(mini, given, sentence):
    with pytest.raises(InsideError, match=re.escape(sentence)):
        page(mini, **{"prompt": TEXT, **given})


# The command


def run(*arguments, cwd, status=0):
    command = [str(Path(sys.executable).parent / "npgpt"), "explain", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_command_writes_the_page(tmp_path, mini):
    done = run(TEXT, "-m", "tales-mini", "-o", "a.html", cwd=tmp_path)
    assert done.stdout == "a.html\n"
    assert "MB" in done.stderr
    write_page(mini, TEXT, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    done = run("a", "-m", "tales-mini", "--json", cwd=tmp_path)
    size = (tmp_path / "page.html").stat().st_size
    assert json.loads(done.stdout) == {"page": "page.html", "bytes": size}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a b c " * 40,), "a page shows at most 64 tokens, and the prompt has"),
        (("a", "--cell", "h.0.nothing[t=0]"), "there is no h.0.nothing"),
        (("a", "--weights", "cone"), "a cone needs the cell"),
        (("a", "-o", "no/folder/page.html"), "cannot be written (No such file"),
        (("a", "-o", "/dev/full"), "/dev/full: cannot be written (No space left"),
    ],
)
def test_command_fails_in_one_sentence(tmp_path, arguments, sentence):
    done = run(*arguments, "-m", "tales-mini", cwd=tmp_path, status=1)
    assert sentence in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.html"))


def test_a_folder_that_takes_no_file_is_named(mini, tmp_path, monkeypatch):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(
        InsideError, match=r"page\.html: cannot be written \(Permission"
    ):
        write_page(mini, "a", tmp_path / "page.html")
