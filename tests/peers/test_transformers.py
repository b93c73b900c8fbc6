"""Live comparison with transformers and torch: `pytest -m peers`.

Weights are random, of GPT-2's scale; the shapes are the true ones. Reference is
transformers in float64.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import same_tokens

from npgpt import GPT2, Tokenizer
from npgpt.scaling.sizes import CHECKPOINTS
from npgpt.storage import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

pytestmark = pytest.mark.peers
SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def hf_logits(folder, ids, dtype):
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def random_folder(folder, config, seed=0):
    """A checkpoint of random weights, written by npgpt and read by both."""
    from random_checkpoint import random_params

    checkpoint.save(random_params(config, seed), folder)
    return folder


def rms(x, reference):
    return float(np.sqrt(np.mean((x.astype(np.float64) - reference) ** 2)))


# Error against float64, in units of transformers' own. The reference comes to 1.24; the
# kernels, which add up sums of 64 products, to 0.68 beside torch on Intel processors,
# to 1.01 on AMD's, where torch itself is more exact. 1.25 is the contract.
WORSE = {"numpy": 1.25, "numba": 1.25, "cupy": 4.0}


def assert_as_exact_as_transformers(folder, ids, backend):
    reference = hf_logits(folder, ids, "float64")
    theirs = rms(hf_logits(folder, ids, "float32"), reference)
    ours = GPT2.from_pretrained(folder, backend=backend).logits(ids)
    assert rms(ours, reference) <= WORSE[backend.name] * theirs
    double = GPT2.from_pretrained(folder, dtype="float64").logits(ids)
    assert rms(double, reference) < 1e-12 * np.abs(reference).max()


@pytest.mark.parametrize("size", SIZES)
def test_true_widths_are_as_exact_as_transformers(tmp_path, size, backend):
    config = replace(CHECKPOINTS[size], n_layer=2)
    folder = random_folder(tmp_path, config)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 33))
    assert_as_exact_as_transformers(folder, ids, backend)


@pytest.fixture(scope="module")
def gpt2_shape(tmp_path_factory):
    return random_folder(tmp_path_factory.mktemp("gpt2"), CHECKPOINTS["gpt2"])


def test_the_124m_shape_is_as_exact_as_transformers(gpt2_shape, backend):
    ids = np.random.default_rng(2).integers(0, 50257, (1, 64))
    assert_as_exact_as_transformers(gpt2_shape, ids, backend)


def test_greedy_generation_on_50_random_prompts(gpt2_shape):
    import torch
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(gpt2_shape).eval()
    ours = GPT2.from_pretrained(gpt2_shape)
    rng, new, parted = np.random.default_rng(3), 8, 0
    for _ in range(50):
        prompt = rng.integers(0, 50257, rng.integers(1, 20)).tolist()
        expected = theirs.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=new,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        ids = ours.generate(prompt, max_new_tokens=new, eos_token_id=()).ids
        z = np.sort(ours.logits(prompt + expected)[0, len(prompt) - 1 : -1], axis=-1)
        gaps = (z[:, -1] - z[:, -2]).tolist()
        assert same_tokens(ids, expected, gaps)
        parted += ids != expected
    assert parted <= 2  # float ties must be rare


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_transformers_reads_what_we_save(tmp_path, tales, dtype):
    tales.save_pretrained(tmp_path, dtype=dtype)
    ids = np.array([tales.encode("Once upon a time there was")])
    theirs = hf_logits(tmp_path, ids, "float32")
    ours = GPT2.from_pretrained(tmp_path).logits(ids)
    # two float32 paths through 6 layers, logits of about 20
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_we_read_what_transformers_saves(tmp_path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_embd=64,
            n_head=4,
            vocab_size=100,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    ids = np.arange(20)[None]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model.to(dtype).save_pretrained(tmp_path / "one")
        model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
        assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
        expected = hf_logits(tmp_path / "one", ids, "float64")
        for folder in ("one", "shards"):
            ours = GPT2.from_pretrained(tmp_path / folder, dtype="float64").logits(ids)
            np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_tokenizer_is_the_one_of_transformers(shared):
    from transformers import GPT2TokenizerFast

    folder = shared / "gpt2-tokenizer"
    theirs = GPT2TokenizerFast(
        vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe")
    )
    ours = Tokenizer.from_folder(folder)
    text = (shared / "stories" / "fairytaleqa.txt").read_text(encoding="utf-8")[
        :200_000
    ]
    assert ours.encode(text) == theirs(text)["input_ids"]
