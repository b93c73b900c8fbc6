"""Folders of tokenizer files as the Hub has them, for the suite and its live oracle."""

import copy
import json

from npgpt.storage.hub import resolve

TEXT = "Once <|user|> a<|endoftext|>b <pad>the the</s> x"
BASE = json.loads((resolve("tales") / "tokenizer.json").read_text())
USER = {"content": "<|user|>", "lstrip": False, "rstrip": False, "normalized": False,
        "single_word": False, "special": True}  # fmt: skip
GPT2, FAST = (
    {"tokenizer_class": "GPT2Tokenizer"},
    {"tokenizer_class": "PreTrainedTokenizerFast"},
)
ROLE = {"content": "<pad>", "lstrip": True, "rstrip": False, "normalized": False,
        "single_word": False}  # fmt: skip


def with_prefix(data):
    data["pre_tokenizer"]["add_prefix_space"] = True


def with_user(data):
    data["added_tokens"].append({"id": 4096, **USER})


def with_template(data):
    end = {"id": "<|endoftext|>", "type_id": 0}
    single = [{"SpecialToken": end}, {"Sequence": {"id": "A", "type_id": 0}}]
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            end["id"]: {"id": end["id"], "ids": [0], "tokens": [end["id"]]}
        },
    }


CASES = {  # change of tokenizer.json (None: a pair of files), other files by name
    "alone": (dict, {}),
    "a pair": (None, {}),
    "prefix, as its class": (with_prefix, {"tokenizer_config": FAST}),
    "prefix, not gpt2's": (with_prefix, {"tokenizer_config": GPT2}),
    "prefix, of no class": (with_prefix, {}),
    "a role in the place of gpt2's": (
        None,
        {"tokenizer_config": {"bos_token": "[PAD]", "eos_token": "</s>",
                              "unk_token": "[PAD]"}},
    ),
    "prefix by setting": (
        dict, {"tokenizer_config": {**GPT2, "add_prefix_space": True}},
    ),
    "prefix by setting of an unnamed class": (
        dict, {"tokenizer_config": {"add_prefix_space": True}},
    ),
    "no prefix by setting": (
        with_prefix, {"tokenizer_config": {**GPT2, "add_prefix_space": False}},
    ),
    "prefix of a pair": (None, {"tokenizer_config": {"add_prefix_space": True}}),
    "added": (dict, {"added_tokens": {"<|user|>": 4096}}),
    "added to a pair": (None, {"added_tokens": {"<|user|>": 4096}}),
    "added in order of ids": (
        dict, {"added_tokens": {"<|user|>": 4097, "<pad>": 4096}},
    ),
    "added, one of the vocabulary": (
        dict, {"added_tokens": {"the": BASE["model"]["vocab"]["the"]}},
    ),
    "added, some with a role": (
        dict,
        {"added_tokens": {"<|user|>": 4096},
         "special_tokens_map": {"additional_special_tokens": ["<|user|>"],
                                "pad_token": "<pad>"}},
    ),
    "roles alone": (
        dict,
        {"special_tokens_map": {"additional_special_tokens": ["<|user|>"],
                                "pad_token": ROLE}},
    ),
    "decoder": (
        dict, {"tokenizer_config": {**GPT2, "added_tokens_decoder": {"4096": USER}}},
    ),
    "decoder, the map is old": (
        dict,
        {"tokenizer_config": {**FAST, "added_tokens_decoder": {"4096": USER}},
         "special_tokens_map": {"pad_token": "<pad>"},
         "added_tokens": {"<pad>": 4096}},
    ),
    "decoder, eats spaces": (
        dict,
        {"tokenizer_config": {**GPT2, "added_tokens_decoder": {
            "4096": {**USER, "lstrip": True, "rstrip": True, "special": False}}}},
    ),
    "decoder, other flags than tokenizer.json": (
        with_user,
        {"tokenizer_config": {**FAST, "added_tokens_decoder": {
            "4096": {**USER, "lstrip": True, "rstrip": True}}}},
    ),
    "decoder and role": (
        dict,
        {"tokenizer_config": {**FAST, "pad_token": "<|user|>", "added_tokens_decoder": {
            "4096": {**USER, "lstrip": True, "special": False}}}},
    ),
    "roles by setting": (
        dict,
        {"tokenizer_config": {**FAST, "pad_token": "<pad>", "bos_token": "</s>"}},
    ),
    "additional": (
        dict,
        {"tokenizer_config": {**GPT2, "additional_special_tokens": ["<|user|>"]}},
    ),
    "extra by name": (
        dict,
        {"tokenizer_config": {**FAST, "extra_special_tokens": {"u": "<|user|>"}}},
    ),
    "own role": (dict, {"tokenizer_config": {**FAST, "user_token": "<|user|>"}}),
    "role of a word": (dict, {"tokenizer_config": {**FAST, "pad_token": "the"}}),
    "bos is tokenizer.json's business": (
        dict, {"tokenizer_config": {**GPT2, "add_bos_token": True}},
    ),
    "bos by template": (with_template, {"tokenizer_config": FAST}),
    "bos by template, whatever the setting": (
        with_template, {"tokenizer_config": {**FAST, "add_bos_token": False}},
    ),
    "bos of a pair": (None, {"tokenizer_config": {**GPT2, "add_bos_token": True}}),
    "bos and prefix of a pair": (
        None,
        {"tokenizer_config": {**GPT2, "add_bos_token": True, "add_prefix_space": True}},
    ),
    "marks are text": (
        dict, {"tokenizer_config": {**FAST, "split_special_tokens": True}},
    ),
}  # fmt: skip


def write(folder, case):
    """The folder of a case, with the config.json that AutoTokenizer asks for."""
    change, files = CASES[case]
    data = copy.deepcopy(BASE)
    if change is None:
        vocab, merges = data["model"]["vocab"], data["model"]["merges"]
        lines = "\n".join(" ".join(pair) for pair in merges)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    else:
        change(data)
        (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "config.json").write_text((resolve("tales") / "config.json").read_text())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
