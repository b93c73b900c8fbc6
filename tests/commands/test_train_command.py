"""`npgpt train`: from text files to a folder that loads; errors are one sentence."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from npgpt import GPT2
from npgpt.cli import main
from npgpt.training.curve import plot_curve, read_curve

TEXT = "The king had a daughter. The daughter had a cat, and the cat had a king.\n" * 60
SHORT = ["--steps", "6", "--context", "16", "--batch-size", "2", "--eval-every",
         "3", "--save-every", "3", "--warmup-steps", "1",
         "--sample-tokens", "8"]  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return str(path)


def npgpt(*arguments):
    return CliRunner().invoke(main, ["train", *arguments])


def test_from_text_to_a_model(tmp_path, corpus):
    out = tmp_path / "model"
    done = npgpt(
        corpus, "--out", str(out), "--tokenizer", "train:300", *SHORT, "--json"
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["step"] == 6
    assert result["bits_per_byte"] > 0
    assert "validation" in done.stderr
    lines = read_curve(out / "loss.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 7))
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 3, 6]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = GPT2.from_pretrained(out)
    assert model.config.vocab_size == model.tokenizer.vocab_size <= 300
    assert model.generate("The king", max_new_tokens=4, eos_token_id=()).ids


def test_what_was_made_can_be_fine_tuned_and_merged(tmp_path, corpus):
    base, out = tmp_path / "base", tmp_path / "tuned"
    assert npgpt(corpus, "--out", str(base), *SHORT).exit_code == 0
    tune = [corpus, "--out", str(out), "--init-from", str(base), "--lora-rank", "2",
            "--lora-matrix", "attn.c_attn", *SHORT]  # fmt: skip
    done = npgpt(*tune)
    assert done.exit_code == 0, done.output
    before, after = (GPT2.from_pretrained(folder).params for folder in (base, out))
    assert (before.wte.weight == after.wte.weight).all()
    changed = before.h[0].attn.c_attn.weight != after.h[0].attn.c_attn.weight
    assert changed.any()
    again = npgpt(*tune, "--resume")
    assert again.exit_code == 0
    assert np.isfinite(read_curve(out / "loss.jsonl")[-1]["validation_loss"])


def test_the_dtype_of_products_is_an_option(tmp_path, corpus):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        done = npgpt(corpus, "--out", str(out), *SHORT, "--dtype", dtype)
        assert done.exit_code == 0, done.output
        losses[dtype] = read_curve(out / "loss.jsonl")[-1]["validation_loss"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.01)
    done = npgpt(corpus, "--out", str(out), *SHORT, "--resume")
    assert done.exit_code == 1
    assert "dtype" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.txt"], 1, "nowhere.txt"),
        (["{corpus}", "--context", "100000"], 1, "tokens"),
        (["{corpus}", "--tokenizer", "train:many"], 2, "number"),
        (["{corpus}", "--tokenizer", "train:100"], 1, "261"),
        (["{corpus}", "--lora-rank", "4"], 2, "--init-from"),
        (["{corpus}", "--lora-alpha", "4"], 2, "--lora-rank"),
        (["{corpus}", "--init-from", "tales", "--tokenizer", "tales"], 2, "own"),
        (["{corpus}", "--init-from", "tales", "--lora-rank", "1", "--lora-matrix",
          "wte"], 1, "wte"),
        (["{corpus}", "--dropout", "1.5"], 1, "dropout"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(tmp_path, corpus, arguments, status, message):
    arguments = [a.replace("{corpus}", corpus) for a in arguments]
    out = tmp_path / "model"
    done = npgpt(*arguments, "--out", str(out))
    assert done.exit_code == status, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not out.exists()


def test_a_run_is_refused_before_it_overwrites_another(tmp_path, corpus):
    out = tmp_path / "model"
    assert npgpt(corpus, "--out", str(out), *SHORT).exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    done = npgpt(corpus, "--out", str(out), "--tokenizer", "train:280", *SHORT)
    assert done.exit_code == 1
    assert "resume" in done.stderr
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_curve_is_drawn_without_validation_too():
    figure = plot_curve([{"step": 1, "loss": 2.0}])
    assert figure.axes[0].get_ylabel() == "loss (nats a token)"
