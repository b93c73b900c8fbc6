"""Options of config.json are honoured or refused by name."""

import json

import pytest

from npgpt import CheckpointError, GPT2Config
from npgpt.config import PUBLISHED
from npgpt.scaling.sizes import describe


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_published_sizes_have_the_published_parameters(name, parameters):
    assert describe(PUBLISHED[name]).parameters == parameters


def test_to_dict_and_back_is_the_same():
    config = GPT2Config(
        vocab_size=99, n_inner=7, bos_token_id=None, eos_token_id=(3, 4)
    )
    assert GPT2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("n_ctx", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
    ],
)
def test_aliases_mean_their_key_and_may_not_disagree(alias, name):
    assert getattr(GPT2Config.from_dict({alias: 24}), name) == 24
    assert getattr(GPT2Config.from_dict({alias: 24, name: 24}), name) == 24
    with pytest.raises(CheckpointError, match=f"{alias} 24 and {name} 12 disagree"):
        GPT2Config.from_dict({alias: 24, name: 12})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo'"),
        ({"model_type": ["gpt2"]}, "model_type is"),
        (
            {"activation_function": "mish"},
            "activation_function must be one of gelu_new",
        ),
        ({"activation_function": ["gelu"]}, "activation_function"),
        ({"add_cross_attention": True}, "add_cross_attention asks for cross-attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"n_layer": 0}, "n_layer must be a whole number above 0, not 0"),
        ({"n_layer": True}, "n_layer"),
        ({"n_layer": 10**30}, "n_layer"),
        ({"n_embd": 768.0}, "n_embd"),
        ({"n_embd": "768"}, "n_embd"),
        ({"n_inner": -1}, "n_inner"),
        ({"n_head": 7}, "n_embd must be a multiple of n_head 7, not 768"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
        ({"scale_attn_weights": "yes"}, "scale_attn_weights must be true or false"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false"),
        (
            {"eos_token_id": 50257},
            "eos_token_id must be within the vocabulary, 0 to 50256",
        ),
        ({"eos_token_id": [1, "x"]}, "eos_token_id must be"),
        ({"bos_token_id": -1}, "bos_token_id must be"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change, sentence):
    with pytest.raises(CheckpointError, match=sentence) as error:
        GPT2Config.from_dict(change, where="folder/config.json")
    assert str(error.value).startswith("folder/config.json: ")


def test_training_options_are_passed_over():
    data = {
        "resid_pdrop": 0.5,
        "embd_pdrop": 0.5,
        "summary_type": "mean",
        "use_cache": 0,
    }
    assert GPT2Config.from_dict(data) == GPT2Config()


def test_other_vocabularies_do_not_inherit_the_end_of_text_of_gpt2():
    config = GPT2Config.from_dict({"vocab_size": 4096})
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\udcff", "[" * 100_000])
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        GPT2Config.from_file(path)
