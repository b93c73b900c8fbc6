"""`npgpt train`: from text files to a folder that loads; errors are one sentence."""

import json
import subprocess
import sys

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


def steps_of(out):
    lines = read_curve(out / "loss.jsonl")
    return {
        kind: [line["step"] for line in lines if kind in line]
        for kind in ("loss", "validation_loss")
    }


def test_a_run_goes_on_with_more_steps_and_another_cadence(tmp_path, corpus):
    out = tmp_path / "model"
    base = [corpus, "--out", str(out), "--context", "16", "--batch-size", "2",
            "--sample-tokens", "0"]  # fmt: skip
    first = npgpt(*base, "--steps", "4", "--eval-every", "2", "--save-every", "2")
    assert first.exit_code == 0, first.output
    more = npgpt(*base, "--resume", "--steps", "9", "--eval-every", "3")
    assert more.exit_code == 0, more.output
    assert "9 steps of 32 tokens, going on after step 4" in more.stderr
    assert steps_of(out) == {
        "loss": list(range(1, 10)),
        "validation_loss": [0, 2, 4, 6, 9],
    }
    assert npgpt(*base, "--resume").exit_code == 0  # 9 steps are the run's own by now
    assert steps_of(out)["loss"][-1] == 9
    fewer = npgpt(*base, "--resume", "--steps", "5")
    assert fewer.exit_code == 1
    assert "has done 9 steps, more than the 5 asked for" in fewer.stderr
    assert steps_of(out)["loss"][-1] == 9


def test_a_short_run_warms_up_for_a_tenth_of_it(tmp_path, corpus):
    short = [corpus, "--context", "16", "--batch-size", "2", "--steps", "6",
             "--sample-tokens", "0"]  # fmt: skip
    out = tmp_path / "model"
    assert npgpt(*short, "--out", str(out)).exit_code == 0
    rates = [line.get("learning_rate") for line in read_curve(out / "loss.jsonl")]
    assert max(r for r in rates if r) == rates[1] == 4e-3  # the first step is the peak
    command = [sys.executable, "-m", "npgpt", "train", *short]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "b"), "--warmup-steps", "30"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "note: warmup_steps 30 are more than steps 6" in done.stderr


def named_model(folder, end):
    """tales-mini whose <|endoftext|> is called otherwise, as other people's are."""
    GPT2.from_pretrained("tales-mini").save_pretrained(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace(json.dumps("<|endoftext|>"), f'"{end}"'))


@pytest.mark.parametrize("more", [[], ["--lora-rank", "2"]])
def test_an_end_of_text_of_another_name_parts_documents(tmp_path, corpus, more):
    named_model(tmp_path / "base", "</s>")
    out = tmp_path / "model"
    done = npgpt(corpus, "--out", str(out), "--init-from", str(tmp_path / "base"),
                 *SHORT, *more)  # fmt: skip
    assert done.exit_code == 0, done.output
    model = GPT2.from_pretrained(out)
    assert model.config.eos_token_ids == (0,)
    assert model.tokenizer.token(0) == "</s>"


def test_a_tokenizer_names_its_end_of_text_or_is_refused(tmp_path, corpus):
    base = tmp_path / "base"
    named_model(base, "</s>")
    new = [corpus, "--tokenizer", str(base), *SHORT]
    done = npgpt(*new, "--out", str(tmp_path / "a"))
    assert done.exit_code == 1
    assert "names no eos_token in tokenizer_config.json" in done.stderr
    for n, token in enumerate(("</s>", {"content": "</s>"})):
        (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        out = tmp_path / f"model{n}"
        done = npgpt(*new, "--out", str(out))
        assert done.exit_code == 0, done.output
        config = GPT2.from_pretrained(out).config
        assert config.eos_token_id == config.bos_token_id == 0


@pytest.mark.parametrize("verb", ["train", "convert"])
def test_a_bundled_models_name_is_refused(tmp_path, corpus, verb, monkeypatch):
    """`--model tales` would never read it; "./tales" says which one is meant."""
    monkeypatch.chdir(tmp_path)
    arguments = {
        "train": [corpus, *SHORT, "--out"],
        "convert": ["tales-mini"],
    }[verb]
    done = CliRunner().invoke(main, [verb, *arguments, "tales"])
    assert done.exit_code == 2
    assert "--model tales means the bundled model" in done.stderr
    assert not (tmp_path / "tales").exists()
    assert CliRunner().invoke(main, [verb, *arguments, "./tales"]).exit_code == 0
    assert GPT2.from_pretrained("./tales").config.vocab_size != 0
