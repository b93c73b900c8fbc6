"""Weights as other programs write them are the same model, or refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from helpers import TINY, tiny_params, token_ids, unit_tensors

from npgpt import GPT2, CheckpointError, Tokenizer
from npgpt.cli import main
from npgpt.storage import checkpoint, hub, weights
from npgpt.support.notes import Note

IDS = token_ids(TINY, 1, 6)
EXPECTED = GPT2(tiny_params()).logits(IDS)


def write(folder, tensors, config=TINY):
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def logits(folder, dtype="float32"):
    return GPT2.from_pretrained(folder, dtype=dtype).logits(IDS)


def renamed(rename):
    return {rename(name): x for name, x in unit_tensors(TINY).items()}


def test_of_tied_tables_either_one_is_enough(tmp_path):
    # safetensors.torch.save_model keeps lm_head.weight and drops wte.weight
    tensors = renamed(lambda name: f"transformer.{name}")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    assert (logits(write(tmp_path, tensors)) == EXPECTED).all()


def test_tables_that_are_not_tied_must_both_be_there(tmp_path):
    config = replace(TINY, tie_word_embeddings=False)
    tensors = unit_tensors(config)
    del tensors["wte.weight"]
    with pytest.raises(CheckpointError, match=r"wte.weight \(40, 16\) is missing"):
        logits(write(tmp_path, tensors, config))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.transformer.{name}",  # torch.compile
        lambda name: f"module.transformer.{name}",  # DataParallel
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.transformer.{name}",
        lambda name: f"pretrained_model.transformer.{name}",  # TRL
        lambda name: name.replace("h.1.", "h.1._orig_mod."),  # of one block only
    ],
)
def test_names_of_wrappers_are_taken_away(tmp_path, rename):
    assert (logits(write(tmp_path, renamed(rename))) == EXPECTED).all()


def test_a_strange_prefix_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="n_layer 2, the weights hold 0 blocks"):
        logits(write(tmp_path, renamed(lambda name: f"net.{name}")))
    tensors = unit_tensors(TINY)
    tensors["net.wpe.weight"] = tensors.pop("wpe.weight")
    with pytest.raises(
        CheckpointError, match=r"there is a net\.wpe\.weight: take 'net"
    ):
        logits(write(tmp_path, tensors))


@pytest.mark.parametrize(
    "head",
    [
        "v_head.summary.weight",
        "value_head.weight",
        "multiple_choice_head.summary.weight",
        "score.weight",
        "classifier.weight",
        "qa_outputs.weight",
    ],
)
def test_heads_for_other_tasks_are_passed_over_and_named(tmp_path, head):
    tensors = renamed(lambda name: f"transformer.{name}")
    tensors[head] = np.ones((2, 16), np.float32)
    write(tmp_path, tensors)
    with pytest.warns(Note, match=f"tensor {head} is of a head for another task"):
        assert (logits(tmp_path) == EXPECTED).all()


def test_an_index_may_list_masks_and_their_shards_may_hold_them(tmp_path):
    tensors = renamed(lambda name: f"transformer.{name}")
    for i in range(2):
        mask = np.ones((1, 1, 24, 24), np.uint8)
        tensors[f"transformer.h.{i}.attn.bias"] = mask
        tensors[f"transformer.h.{i}.attn.masked_bias"] = np.full((), -1e4, np.float32)
    names = sorted(tensors)
    index = {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}
    for i in range(2):
        part = {name: tensors[name] for name in names[i::2]}
        safetensors.numpy.save_file(part, tmp_path / f"{i}.safetensors")
    index["transformer.h.7.attn.bias"] = "0.safetensors"  # listed, and nowhere
    (tmp_path / weights.INDEX).write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    assert (logits(tmp_path) == EXPECTED).all()


def test_float64_files_load_in_the_precision_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        name: x + 1e-9 * rng.standard_normal(x.shape)
        for name, x in unit_tensors(TINY).items()
    }
    write(tmp_path, tensors)
    for name, x in checkpoint.named_tensors(checkpoint.load(tmp_path)).items():
        assert (x == tensors[name].astype(np.float32)).all(), name
    wide = checkpoint.load(tmp_path, "float64")
    for name, x in checkpoint.named_tensors(wide).items():
        assert (x == tensors[name]).all(), name
    exact = GPT2(checkpoint.from_tensors(TINY, tensors), dtype="float64").logits(IDS)
    assert (logits(tmp_path, "float64") == exact).all()
    np.testing.assert_allclose(logits(tmp_path), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "fits", "over"),
    [
        ("float16", 65519.0, 65520.0),
        ("bfloat16", 3.3961774e38, 3.3961776e38),
        ("float32", 3.4028235677973362e38, 3.4028235677973366e38),
    ],
)
def test_narrowing_that_overflows_is_refused_by_tensor_name(
    tmp_path, dtype, fits, over
):
    tensors = {k: x.astype(np.float64) for k, x in unit_tensors(TINY).items()}
    for sign in (1, -1):
        tensors["h.1.mlp.c_fc.bias"][3] = sign * fits
        checkpoint.save(checkpoint.from_tensors(TINY, tensors), tmp_path, dtype)
        saved = checkpoint.load(tmp_path).h[1].mlp.c_fc.bias
        assert np.isfinite(saved).all()
        tensors["h.1.mlp.c_fc.bias"][3] = sign * over
        before = (tmp_path / "model.safetensors").read_bytes()
        with pytest.raises(CheckpointError) as refusal:
            checkpoint.save(checkpoint.from_tensors(TINY, tensors), tmp_path, dtype)
        assert f"tensor h.1.mlp.c_fc.bias holds {sign * over:.6g}" in str(refusal.value)
        assert f"the largest {dtype} is" in str(refusal.value)
        assert (tmp_path / "model.safetensors").read_bytes() == before
    tensors["h.1.mlp.c_fc.bias"][3] = np.inf  # was so before
    checkpoint.save(checkpoint.from_tensors(TINY, tensors), tmp_path, dtype)


def test_what_is_too_large_is_refused_at_load_too(tmp_path):
    tensors = {k: x.astype(np.float64) for k, x in unit_tensors(TINY).items()}
    tensors["wpe.weight"][0, 0] = 1e300
    write(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"tensor wpe\.weight holds 1e\+300"):
        checkpoint.load(tmp_path)
    assert checkpoint.load(tmp_path, "float64").wpe.weight[0, 0] == 1e300
    tensors["wpe.weight"][0, 0] = 3.4e38
    write(tmp_path, tensors)
    assert checkpoint.load(tmp_path).wpe.weight[0, 0] == np.float32(3.4e38)
    with pytest.raises(CheckpointError, match=r"wpe\.weight .* the largest bfloat16"):
        checkpoint.load(tmp_path, "bfloat16")


KEPT = {
    "n_ctx": 99,
    "summary_type": "mean",
    "my_own": {"a": [1]},
    "id2label": {"0": "x"},
}


@pytest.mark.parametrize("form", [[], ["--packed"]])
def test_what_is_not_used_is_kept(tmp_path, form):
    if form:
        pytest.importorskip("numba")
    source, out = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    for file in hub.resolve("tales-mini").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((source / "config.json").read_text()), **KEPT}
    config |= {"dtype": "float64", "torch_dtype": "float64"}
    (source / "config.json").write_text(json.dumps(config))
    files = {
        "generation_config.json": b'{"top_k": 7, "my_own": 1}',
        "tokenizer_config.json": b'{"chat_template": "x", "model_max_length": 9}',
        "special_tokens_map.json": b'{"pad_token": "[PAD]"}',
        "chat_template.jinja": "{{ é }}".encode(),
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    command = ["convert", str(source), str(out), "--dtype", "bfloat16", *form]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert_kept(out, files)
    if not form:
        GPT2.from_pretrained(out).save_pretrained(tmp_path / "c")
        assert_kept(tmp_path / "c", files)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def converted(*words):
    return CliRunner().invoke(main, ["convert", *map(str, words)])


def test_a_folder_that_holds_a_model_is_replaced_as_a_whole_or_not_at_all(
    tmp_path, monkeypatch
):
    assert converted("tales-mini", tmp_path, "--dtype", "float32").exit_code == 0
    for name, text in {"added_tokens.json": "{}", "notes.txt": "mine"}.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    done = converted("tales", tmp_path)
    assert done.exit_code == 1
    assert "holds a model already (config.json)" in done.output
    assert contents(tmp_path) == before
    with monkeypatch.context() as broken:
        full = OSError(28, "No space left on device")
        broken.setattr(Tokenizer, "save", lambda *_: (_ for _ in ()).throw(full))
        done = converted("tales", tmp_path, "--force")
        assert "cannot be written" in done.output
        assert contents(tmp_path) == before
        assert converted("tales", tmp_path / "new").exit_code == 1
        assert not (tmp_path / "new").exists()
    done = converted("tales", tmp_path, "--force")
    assert done.exit_code == 0, done.output
    assert set(contents(tmp_path)) == {*before} - {"added_tokens.json"}
    assert contents(tmp_path)["notes.txt"] == b"mine"
    assert GPT2.from_pretrained(tmp_path).config.n_layer == 6
    assert converted(tmp_path, tmp_path, "--dtype", "float16", "--force").exit_code == 0


def test_what_another_tokenizer_left_is_not_read_beside_a_new_one(tmp_path):
    model = GPT2.from_pretrained("tales-mini")
    (tmp_path / "added_tokens.json").write_text('{"king": 7}')
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "added_tokens.json").exists()
    assert GPT2.from_pretrained(tmp_path).encode("a king") == model.encode("a king")


def assert_kept(folder, files):
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in KEPT} == KEPT
    assert config["dtype"] in ("bfloat16", "float32")
    assert "torch_dtype" not in config
    for name, content in files.items():
        kept = (folder / name).read_bytes()
        assert kept == content or json.loads(kept) == json.loads(content)
