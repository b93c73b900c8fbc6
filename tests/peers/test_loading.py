"""Live comparison with transformers: configs, weights, tokenizers and defaults as the
Hub has them. `pytest -m peers`; the suite holds the recorded values.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers import TINY, token_ids, unit_tensors
from test_config import HUB
from tokenizer_cases import CASES, TEXT, write

from npgpt import GPT2, GPT2Config, Tokenizer
from npgpt.support.notes import Note

pytestmark = pytest.mark.peers
IDS = token_ids(TINY, 1, 6)


@pytest.fixture(autouse=True)
def _quiet():
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("case", HUB)
def test_configs_are_read_alike(case):
    import transformers

    data = HUB[case][0]
    theirs, ours = transformers.GPT2Config.from_dict(data), GPT2Config.from_dict(data)
    for name in (
        "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner",
        "activation_function", "layer_norm_epsilon", "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
        "tie_word_embeddings",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("bos_token_id", "eos_token_id"):
        ids = getattr(theirs, name)
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        own = getattr(ours, name)
        own = list(own) if isinstance(own, tuple) else [] if own is None else [own]
        assert own == [id for id in ids if 0 <= id < theirs.vocab_size]


def folder_of(folder, tensors):
    import torch
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(TINY.to_dict()))
    torch_tensors = {name: torch.tensor(x) for name, x in tensors.items()}
    save_file(torch_tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def prefixed():
    return {f"transformer.{name}": x for name, x in unit_tensors(TINY).items()}


def tied_head_alone():
    tensors = prefixed()
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    return tensors


VARIANTS = {
    "plain": prefixed,
    "no prefix": lambda: unit_tensors(TINY),
    "save_model": tied_head_alone,
    "value head": lambda: {
        **prefixed(), "v_head.summary.weight": np.ones((1, 16), np.float32)
    },
    "classifier": lambda: {**prefixed(), "score.weight": np.ones((2, 16), np.float32)},
    "masks": lambda: {
        **prefixed(),
        "transformer.h.0.attn.bias": np.ones((1, 1, 24, 24), np.float32),
        "transformer.h.1.attn.masked_bias": np.full((), -1e4, np.float32),
    },
    "float64": lambda: {k: x.astype(np.float64) for k, x in prefixed().items()},
}  # fmt: skip


@pytest.mark.parametrize("case", VARIANTS)
def test_weights_are_read_alike(tmp_path, case):
    import torch
    from transformers import GPT2LMHeadModel

    folder = folder_of(tmp_path, VARIANTS[case]())
    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        z = GPT2.from_pretrained(folder, dtype="float64").logits(IDS)
    np.testing.assert_allclose(z, expected, atol=1e-10)


def test_what_save_model_writes_is_read(tmp_path):
    import torch
    from safetensors.torch import save_model
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(folder_of(tmp_path, prefixed())).eval()
    save_model(theirs, str(tmp_path / "model.safetensors"))
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    z = GPT2.from_pretrained(tmp_path).logits(IDS)
    np.testing.assert_allclose(z, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["gelu_accurate", "gelu_python_tanh", "gelu_fast"])
def test_names_of_an_activation_are_read_alike(tmp_path, name):
    import torch
    from transformers import GPT2LMHeadModel

    folder = folder_of(tmp_path, prefixed())
    config = {**TINY.to_dict(), "activation_function": name}
    (folder / "config.json").write_text(json.dumps(config))
    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    z = GPT2.from_pretrained(folder, dtype="float64").logits(IDS)
    np.testing.assert_allclose(z, expected, atol=1e-8)  # gelu_fast cuts a constant


@pytest.mark.filterwarnings("ignore:.* asks for a space before a text")
@pytest.mark.parametrize("case", CASES)
def test_tokenizers_are_read_alike(tmp_path, case):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(write(tmp_path, case))
    ours = Tokenizer.from_folder(tmp_path)
    for text in (TEXT, "", " two  spaces\n<pad><|user|>", "né 中 👋</s>"):
        assert [*ours.begin, *ours.encode(text)] == theirs(text)["input_ids"]


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"max_length": 12},
        {"max_new_tokens": 9},
        {"max_new_tokens": 9, "max_length": 5},
        {"max_new_tokens": 12, "eos_token_id": [39, 7, 11, 23]},
        {"max_new_tokens": 12, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 12, "temperature": 0.3, "top_k": 5},  # nothing samples
        {"max_new_tokens": 8, "num_beams": 3, "length_penalty": 0.3},
        {"max_new_tokens": 8, "num_beams": 3, "early_stopping": True,
         "eos_token_id": [39, 7, 11]},
        {"max_new_tokens": 8, "suppress_tokens": [4, 30], "min_new_tokens": 5,
         "eos_token_id": 9},
        {"max_new_tokens": 8, "sequence_bias": [[[3, 4], 9.0]], "bad_words_ids": [[7]]},
        {"max_new_tokens": 8, "bos_token_id": 0, "pad_token_id": 0, "use_cache": True},
    ],
)  # fmt: skip
def test_defaults_of_a_model_are_applied_alike(tmp_path, said):
    import torch
    from transformers import GPT2LMHeadModel

    folder = folder_of(tmp_path, prefixed())
    (folder / "generation_config.json").write_text(json.dumps(said))
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    ours = GPT2.from_pretrained(folder)
    prompt = [1, 2, 3]
    for more in ({}, {"max_new_tokens": 6}):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 3).long(),
            pad_token_id=0, **more,
        )[0, 3:].tolist()  # fmt: skip
        assert ours.generate(prompt, **more).ids == expected
