"""Options of config.json are honoured or refused by name."""

import json

import pytest

from npgpt import CheckpointError, GPT2Config
from npgpt.scaling.sizes import CHECKPOINTS, describe


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
    assert describe(CHECKPOINTS[name]).parameters == parameters


def test_to_dict_and_back_is_the_same():
    config = GPT2Config(
        vocab_size=99, n_inner=7, bos_token_id=None, eos_token_id=(3, 4)
    )
    assert GPT2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("max_position_embeddings", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
    ],
)
def test_aliases_mean_their_key_and_may_not_disagree(alias, name):
    assert getattr(GPT2Config.from_dict({alias: 24}), name) == 24
    assert GPT2Config.from_dict({alias: None}) == GPT2Config()
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
        ({"eos_token_id": [1, "x"]}, "eos_token_id must be"),
        ({"eos_token_id": True}, "eos_token_id must be"),
        ({"bos_token_id": "0"}, "bos_token_id must be"),
        ({"bos_token_id": [0]}, "bos_token_id must be"),
        ({"vocab_size": None}, "vocab_size must be a whole number above 0"),
        ({"n_layer": None}, "n_layer must be a whole number above 0"),
        (
            {"per_layer_config": {"0": {}}},
            "per_layer_config asks for layers that differ",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change, sentence):
    with pytest.raises(CheckpointError, match=sentence) as error:
        GPT2Config.from_dict(change, where="folder/config.json")
    assert str(error.value).startswith("folder/config.json: ")


def test_a_config_in_python_is_not_mended():
    with pytest.raises(CheckpointError, match="within the vocabulary, 0 to 50256"):
        GPT2Config(eos_token_id=50257)


OLD = {  # as transformers 2 wrote them: gpt2-medium's of 2019, its numbers made small
    "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 16,
    "n_head": 2, "n_layer": 2, "n_positions": 1024, "n_special": 0,
    "predict_special_tokens": True, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "output_past": True, "pruned_heads": {}, "torchscript": False, "num_labels": 1,
    "use_bfloat16": False, "finetuning_task": None, "is_decoder": False,
    "output_attentions": False, "output_hidden_states": False, "do_sample": False,
    "max_length": 20, "top_k": 50, "id2label": {"0": "LABEL_0"}, "xla_device": None,
}  # fmt: skip
SMALL = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}
HUB = {  # config.json: n_positions, bos and eos as transformers 5.23 reads them
    "transformers 2": (OLD, (1024, 50256, 50256)),
    "n_ctx beside more positions": ({**OLD, "n_ctx": 512}, (1024, 50256, 50256)),
    "n_ctx beside fewer positions": (
        {**OLD, "n_positions": 128}, (128, 50256, 50256)
    ),
    "n_ctx alone": ({**SMALL, "n_ctx": 64}, (1024, 50256, 50256)),
    "nulls": (
        {**SMALL, "n_ctx": None, "n_inner": None, "bos_token_id": None,
         "eos_token_id": None, "pruned_heads": None, "torch_dtype": None,
         "quantization_config": None, "summary_activation": None},
        (1024, None, None),
    ),
    "a small vocabulary, ids left out": ({**SMALL, "vocab_size": 40}, (1024, -1, -1)),
    "a small vocabulary, the ids of gpt2": (
        {**SMALL, "vocab_size": 40, "bos_token_id": 50256, "eos_token_id": 50256},
        (1024, -1, -1),
    ),
    "ids of -1": (
        {**SMALL, "bos_token_id": -1, "eos_token_id": [-1]}, (1024, -1, -1)
    ),
    "a padded vocabulary": ({**SMALL, "vocab_size": 50304}, (1024, 50256, 50256)),
    "several ends": (
        {**SMALL, "eos_token_id": [50256, 198]}, (1024, 50256, (50256, 198))
    ),
    "one of them beyond": (
        {**SMALL, "eos_token_id": [198, 50257]}, (1024, 50256, (198,))
    ),
    "transformers 5": (
        {**SMALL, "dtype": "bfloat16", "transformers_version": "5.23.0",
         "add_cross_attention": False, "chunk_size_feed_forward": 0,
         "is_encoder_decoder": False, "return_dict": True, "use_cache": True,
         "pad_token_id": None, "problem_type": None, "_name_or_path": "gpt2"},
        (1024, 50256, 50256),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HUB)
def test_what_the_hub_has_is_read_as_transformers_reads_it(case):
    data, (n_positions, bos, eos) = HUB[case]
    config = GPT2Config.from_dict(data)
    assert config.n_positions == n_positions
    assert config.bos_token_id == (None if bos == -1 else bos)
    assert config.eos_token_id == (None if eos == -1 else eos)


def test_every_key_that_is_not_used_is_kept():
    config = GPT2Config.from_dict({**OLD, "my_own": [1]})
    assert config.unused["my_own"] == [1]
    for key, value in OLD.items():
        assert config.to_dict()[key] == value
    again = GPT2Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.unused == config.unused


def test_what_is_passed_over_is_said():
    notes = GPT2Config.from_dict({**OLD, "n_positions": 128, "vocab_size": 40}).notes
    assert notes == (
        "bos_token_id 50256 is outside the vocabulary, 0 to 39: it is none",
        "eos_token_id 50256 is outside the vocabulary, 0 to 39: it is none",
        "n_ctx 1024 has no effect, n_positions 128 has",
    )
    assert GPT2Config.from_dict({**SMALL, "vocab_size": 40}).notes == ()
    assert GPT2Config.from_dict(OLD).notes == ()


def test_training_options_are_passed_over():
    data = {
        "resid_pdrop": 0.5,
        "embd_pdrop": 0.5,
        "summary_type": "mean",
        "use_cache": 0,
    }
    assert GPT2Config.from_dict(data) == GPT2Config()


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\udcff", "[" * 100_000])
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        GPT2Config.from_file(path)
