"""What a run finds in its folder and leaves there: never another's model replaced."""

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import TINY
from test_train import IDS, QUICK, Stop, contents, run, stop_at

from npgpt import GPT2, CheckpointError, TrainingError
from npgpt.storage import checkpoint
from npgpt.support.leaves import leaves
from npgpt.tokenizer import Tokenizer
from npgpt.training import folder
from npgpt.training.corpus import train_tokenizer
from npgpt.training.documents import find_documents
from npgpt.training.loop import init_params, train
from npgpt.training.optim import update


def files(path):
    return {p.name: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def tokenizer(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a b c")
    return train_tokenizer(find_documents([text]), 300)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [
    "config.json", "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "packed.safetensors", "tokenizer.json", "vocab.json",
    "generation_config.json"])  # fmt: skip
def test_a_model_that_is_no_run_is_never_replaced(tmp_path, name, resume):
    (tmp_path / name).write_text("somebody's work")
    (tmp_path / "loss.jsonl").write_text("theirs")
    before = files(tmp_path)
    with pytest.raises(TrainingError, match=rf"holds a model \({name}\)"):
        run(tmp_path, resume=resume)
    assert files(tmp_path) == before


def test_a_result_without_its_checkpoint_is_a_model(tmp_path):
    """It may have been deleted, as it is large."""
    run(tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    before = files(tmp_path)
    for resume in (False, True):
        with pytest.raises(TrainingError, match="name another folder"):
            run(tmp_path, resume=resume)
    assert files(tmp_path) == before


def broken():
    params = init_params(TINY)
    params.h[0].mlp.c_fc.weight[0, 0] = np.nan
    return params


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_ids": IDS[:9]}, "tokens"),
        ({"validation_ids": IDS + 30}, "vocabulary"),
        ({"config": replace(QUICK, context=25)}, "n_positions"),
        ({"params": broken()}, "the model to start from is broken"),
    ],
)
def test_a_failed_start_leaves_the_folder_as_it_was(
    tmp_path, tokenizer, there, change, message
):
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "corpus.txt").write_text("text")
        (out / "loss.jsonl").write_text("of a run that was killed early")
    before = files(tmp_path)
    given = {
        "params": init_params(TINY),
        "train_ids": IDS,
        "validation_ids": IDS[:200],
        "config": QUICK,
    }
    with pytest.raises(TrainingError, match=message):
        train(**{**given, **change}, out=out, tokenizer=tokenizer)
    assert out.exists() == there
    assert files(tmp_path) == before


def test_a_place_that_is_no_folder_is_named_before_work_starts(tmp_path):
    (tmp_path / "file").write_text("text")
    for out in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(TrainingError, match="file: not a folder"):
            run(out)


def test_an_end_between_two_files_loses_nothing(tmp_path, tokenizer, monkeypatch):
    """The checkpoint comes first: a run that ends before the model goes on."""
    config = replace(QUICK, steps=5)
    run(tmp_path / "whole", config, tokenizer=tokenizer)
    for module, name in ((Tokenizer, "save"), (checkpoint, "save")):
        out = tmp_path / module.__name__
        with monkeypatch.context() as patch:

            def die(*args):
                raise Stop

            patch.setattr(module, name, die)
            with pytest.raises(Stop):
                run(out, config, tokenizer=tokenizer)
        assert not (out / "model.safetensors").exists()
        run(out, config, tokenizer=tokenizer, resume=True)
        assert files(out) == files(tmp_path / "whole")
        assert GPT2.from_pretrained(out).tokenizer is not None


def test_a_full_disk_at_the_first_save_promises_no_checkpoint(tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(CheckpointError, match=r"No space left .*; make room and start"):
        run(tmp_path / "a")
    monkeypatch.undo()
    with pytest.raises(Stop):
        run(tmp_path / "b", report=stop_at(7))
    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(CheckpointError, match="the last checkpoint is whole"):
        run(tmp_path / "b", resume=True)


@pytest.mark.parametrize("rate", [1e6, 1e38])
def test_what_is_no_number_is_one_true_sentence(tmp_path, rate):
    def stopped(out, **changes):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy says nothing of its own
            with pytest.raises(TrainingError) as caught:
                run(out, replace(QUICK, warmup_steps=0, dropout=0.0, **changes))
        assert "\n" not in str(caught.value)
        assert "lower the learning rate" in str(caught.value)
        return str(caught.value)

    steps = {"steps": 200, "learning_rate": rate, "clip_norm": 1e30}
    message = stopped(tmp_path / "a", save_every=200, eval_every=200, **steps)
    assert "nothing had been saved" in message
    assert not list((tmp_path / "a").glob("*.safetensors"))


def test_what_was_saved_is_named_by_its_step(tmp_path, monkeypatch):
    """Also in a run that goes on, and where no step is a multiple of save_every."""
    with pytest.raises(Stop):
        run(tmp_path, report=stop_at(7))
    kept = contents(tmp_path)

    def explode(p, g, m, v, step, *rest):
        update(p, g, m, v, step, *rest)
        if step == 8:
            p += np.float32(np.inf)

    from npgpt.training import loop

    engine = loop.get_engine("numpy")._replace(update=explode)
    monkeypatch.setattr(loop, "get_engine", lambda backend: engine)
    with pytest.raises(
        TrainingError, match=r"step 9 is nan.*what step 5 saved is kept"
    ):
        run(tmp_path, resume=True)
    del kept["loss.jsonl"]
    assert {name: contents(tmp_path)[name] for name in kept} == kept


def test_numbers_that_break_in_the_last_step_are_not_saved(tmp_path, monkeypatch):
    def explode(p, g, m, v, step, *rest):
        update(p, g, m, v, step, *rest)
        if step == 10:
            p += np.float32(np.inf)

    from npgpt.training import loop

    engine = loop.get_engine("numpy")._replace(update=explode)
    monkeypatch.setattr(loop, "get_engine", lambda backend: engine)
    with pytest.raises(TrainingError, match=r"after step 10.*what step 5 saved"):
        run(tmp_path, replace(QUICK, eval_every=7))
    for x in leaves(checkpoint.load(tmp_path)).values():
        assert np.isfinite(x).all()


def test_the_command_leaves_a_model_alone(tmp_path):
    """A real process; the text is too short as well."""
    text, out = tmp_path / "text.txt", tmp_path / "mine"
    text.write_text("Once upon a time.")
    GPT2.from_pretrained("tales-mini").save_pretrained(out)
    before = files(out)
    command = [sys.executable, "-m", "npgpt", "train", str(text), "--out", str(out)]
    for more in ([], ["--resume"], ["--tokenizer", "train:300"], ["--init-from", out]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"npgpt: {out} holds a model")
        assert done.stderr.count("\n") == 1
        assert files(out) == before
