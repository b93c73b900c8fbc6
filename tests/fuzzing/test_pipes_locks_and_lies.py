"""Damage that no fuzzer reaches: pipes, locks, lies about sizes, weights of NaN."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers import TINY, tiny_params, unit_tensors

from npgpt import GPT2, CheckpointError, DecodingError, NpgptError
from npgpt.evaluation import formats, zero_shot
from npgpt.inside import attention
from npgpt.scaling import sizes
from npgpt.storage import checkpoint, hub, weights
from npgpt.storage.tensorfile import read_metadata, read_safetensors
from npgpt.training import loop
from npgpt.training.folder import CHECKPOINT, CURVE
from npgpt.verification import checks, published

NPGPT = str(Path(sys.executable).parent / "npgpt")
FILES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        shutil.copy(hub.resolve("tales-mini") / name, folder)
    return folder


def run(*arguments, status=1, **options):
    done = subprocess.run(
        [NPGPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().rpartition("\n")[2]


def index(folder, shard):
    (folder / "model.safetensors").unlink()
    text = json.dumps({"weight_map": {"wte.weight": shard}})
    (folder / weights.INDEX).write_text(text)


WHAT = ("pipe", "device", "folder", "nothing", "locked")


def spoil(path, what):
    """Put something in the place of a file that is none, or cannot be read."""
    if what != "locked":
        path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    elif what == "nothing":
        path.touch()
    else:
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read every file")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", WHAT)
def test_what_is_no_readable_file_is_refused_at_once(folder, name, what):
    path = folder / name
    spoil(path, what)
    sentence = run("generate", "Once", "-m", folder, "--max-new-tokens", "1")
    assert str(path) in sentence
    if what == "locked":
        assert "Permission denied" in sentence


@pytest.mark.parametrize("what", WHAT)
def test_what_is_no_packed_file_is_refused_at_once(tmp_path, what):
    pytest.importorskip("numba")
    run("convert", "tales-mini", tmp_path, "--packed", "--dtype", "float32", status=0)
    path = tmp_path / weights.PACKED
    spoil(path, what)
    for backend in ("numba", "numpy"):
        ask = ("generate", "Once", "-m", tmp_path, "--backend", backend)
        assert str(tmp_path) in run(*ask, "--max-new-tokens", "1")


@pytest.mark.parametrize("what", WHAT)
def test_what_is_no_recording_is_refused_at_once(folder, what):
    path = folder / checks.REFERENCE
    shutil.copy(hub.resolve("tales-mini") / checks.REFERENCE, path)
    spoil(path, what)
    assert "not a recording of a model" in run("verify", folder)


@pytest.mark.parametrize("name", [CHECKPOINT, CURVE])
@pytest.mark.parametrize("what", WHAT)
def test_what_is_no_training_is_not_resumed(tmp_path, name, what):
    settings = loop.TrainConfig(steps=1, batch_size=1, context=8, warmup_steps=0)
    more = dict(out=tmp_path, resume=True)
    ids = np.arange(90) % 40
    loop.train(tiny_params(), ids, ids, settings, **more)
    spoil(tmp_path / name, what)
    if (name, what) == (CURVE, "nothing"):  # its lines are lost, no more
        loop.train(tiny_params(), ids, ids, settings, **more)
        return
    with pytest.raises(NpgptError, match=name):
        loop.train(tiny_params(), ids, ids, settings, **more)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"run": "{", "step": "1"}, {"run": "[1]", "step": "1"},
     {"run": "null", "step": "1"}, {"run": "{}", "step": "x"}],
)  # fmt: skip
def test_a_damaged_training_is_refused(tmp_path, metadata):
    path = tmp_path / CHECKPOINT
    safetensors.numpy.save_file({"a": np.ones(1, np.float32)}, path, metadata)
    ids = np.arange(90) % 40
    with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
        loop.train(
            tiny_params(),
            ids,
            ids,
            loop.TrainConfig(context=8),
            out=tmp_path,
            resume=True,
        )


def test_a_training_without_its_tensors_is_refused(tmp_path):
    settings = loop.TrainConfig(steps=1, batch_size=1, context=8, warmup_steps=0)
    ids = np.arange(90) % 40
    loop.train(tiny_params(), ids, ids, settings, out=tmp_path)
    path = tmp_path / CHECKPOINT
    metadata = read_metadata(path)
    cut = {name: x[:1] for name, x in read_safetensors(path).items()}
    for tensors in ({"a": np.ones(1, np.float32)}, cut):
        safetensors.numpy.save_file(tensors, path, metadata)
        with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
            loop.train(tiny_params(), ids, ids, settings, out=tmp_path, resume=True)


@pytest.mark.parametrize("what", WHAT)
def test_a_comparison_of_no_readable_weights_is_refused_at_once(folder, tmp_path, what):
    spoil(folder / "model.safetensors", what)
    (tmp_path / "grid.yaml").write_text("- {}\n")
    sentence = run(
        "compare",
        "Once",
        "-m",
        folder,
        "--out",
        tmp_path / "out.jsonl",
        "--grid",
        tmp_path / "grid.yaml",
    )
    assert "model.safetensors" in sentence


def test_pipes_are_refused_as_index_shard_and_pair(folder):
    index(folder, "a.safetensors")
    os.mkfifo(folder / "a.safetensors")
    assert "not an ordinary file" in run("generate", "Once", "-m", folder)
    (folder / weights.INDEX).unlink()
    os.mkfifo(folder / weights.INDEX)
    assert "not an ordinary file" in run("generate", "Once", "-m", folder)
    shutil.copy(hub.resolve("tales-mini") / FILES[2], folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    os.mkfifo(folder / "merges.txt")
    assert "not an ordinary file" in run("generate", "Once", "-m", folder)


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "..", "", "a/b.safetensors"])
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder, shard):
    index(folder, shard)
    with pytest.raises(CheckpointError, match="is not a"):
        checkpoint.load(folder)


def test_a_claim_of_billions_of_layers_costs_nothing(folder):
    lie = replace(TINY, n_layer=2**31 - 1)
    with pytest.raises(CheckpointError, match="hold 0 blocks"):
        checkpoint.from_tensors(lie, {"wte.weight": np.zeros((40, 16), np.float32)})
    one, many = sizes.describe(replace(TINY, n_layer=1)), sizes.describe(lie)
    block = sizes.describe(TINY).parameters - one.parameters
    assert many.parameters == one.parameters + (2**31 - 2) * block


def test_info_counts_what_the_checkpoint_holds():
    for config in (TINY, replace(TINY, n_layer=5, tie_word_embeddings=False)):
        shapes = checkpoint.expected_shapes(config).values()
        expected = sum(int(np.prod(shape)) for shape in shapes)
        assert sizes.describe(config).parameters == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nothing_is_computed_from_logits_that_are_no_numbers(value):
    params = tiny_params()
    params.wpe.weight[4] = value  # the first four tokens have a probability
    model = GPT2(params)
    with pytest.raises(DecodingError, match="npgpt verify"):
        model.score(list(range(1, 10)))
    question = formats.Question(list(range(1, 6)), [[1, 2], [3]], 0)
    with pytest.raises(DecodingError, match="npgpt verify"):
        zero_shot._answers(model, question.context, question.endings)


def test_a_folder_that_may_not_be_opened_is_one_sentence(folder):
    folder.chmod(0)
    try:
        if os.access(folder, os.X_OK):
            pytest.skip("this user may open every folder")
        assert "is not a folder" in run("info", folder / "model")
        own = run("verify", "tales-mini", "--ops", folder / "mine.py")
        assert "not a Python file" in own
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["a" * 300, "~nosuchuser/x", "a\0b"])
def test_names_that_no_file_can_have_are_one_sentence(name):
    with pytest.raises(CheckpointError, match=r"not a bundled model|must be a path"):
        hub.resolve(name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_stdout_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [NPGPT, "info", "gpt2"],
            stdout=full,
            text=True,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("npgpt: cannot go on: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_own_file_that_exits_is_no_success(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit()")
    sentence = run("verify", "tales-mini", "--ops", tmp_path / "mine.py")
    assert "mine.py, line 2: SystemExit" in sentence


@pytest.mark.parametrize("n_positions", [1, 2, 3])
def test_models_of_few_positions_are_verified_too(n_positions):
    config = replace(TINY, n_positions=n_positions)
    for seed in range(8):  # a score near 0 is rare, and stands alone in its row
        params = checkpoint.from_tensors(config, unit_tensors(config, seed))
        found = list(checks.verify(params))
        assert {"cached, uncached", "batch, single"} <= {c.check for c in found}
        assert checks.first_divergence(found) is None


def test_a_greedy_text_that_ends_early_is_not_the_published_one():
    params = tiny_params()
    prompt = (1, 2, 3)
    new = tuple(GPT2(params).generate(prompt, max_new_tokens=6).ids)
    ends = replace(TINY, eos_token_id=new[2])
    ended = checkpoint.from_tensors(ends, unit_tensors(ends))
    facts = published.Known(greedy=(published.Greedy("x", prompt, new, "us"),))
    (check,) = checks.check_published(GPT2(ended), ended, facts)
    assert not check.ok


def test_a_folder_is_compared_with_the_published_values_that_are_asked_for(tmp_path):
    config = replace(TINY, vocab_size=50257)
    tensors = unit_tensors(config)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    done = subprocess.run(
        [NPGPT, "verify", tmp_path, "--published", "gpt2-medium", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    checks = json.loads(done.stdout)["checks"]
    found = [row for row in checks if row["check"] == "published greedy text"]
    assert len(found) == len(published.MODELS["gpt2-medium"].greedy)
    assert done.returncode == 1


WILD = """
import numpy as np
from npgpt import GPT2, NpgptError
from npgpt.inside import attention
model = GPT2.from_pretrained("tales-mini")
for wild in ("x", 2.5, True, [1], b"1", np.array([])):
    for name, use in {
        "window": lambda: model.score([1, 2], window=wild),
        "stride": lambda: model.score([1, 2], stride=wild),
        "layer": lambda: attention.plot_attention(model, [1, 2], layer=wild),
        "head": lambda: attention.plot_attention(model, [1, 2], head=wild),
        "T": lambda: attention.plot_mask(wild),
        "S": lambda: attention.plot_mask(3, wild),
        "window ": lambda: attention.plot_mask(3, 3, wild),
    }.items():
        try:
            use()
        except NpgptError as error:
            assert f"{name.strip()} must be a whole number" in str(error), error
        else:
            raise SystemExit(f"{name} took {wild!r}")
"""


def test_sizes_that_are_no_whole_numbers_are_refused():
    """In a process of its own: the suite checks annotations before the code does."""
    done = subprocess.run([sys.executable, "-c", WILD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert attention.plot_mask(3, window=10**30)
