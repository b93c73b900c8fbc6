"""A model's own defaults: what generation_config.json says of decoding.

As in transformers, every key that has a meaning here is a default of `generate` and
`stream`, below the arguments that are given and above npgpt's own. What cannot have an
effect under those arguments (a temperature without sampling) is left out; so is what no
loop here has, which a note names once.

What it does differently: an end of text that generation_config.json leaves out is
config.json's, and what it leaves out elsewhere has npgpt's default, so sampling keeps
all tokens where transformers keeps 50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from npgpt.config import GPT2Config
from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.errors import DecodingError
from npgpt.support.notes import note

# Of the keys of transformers' GenerationConfig these change no token of a GPT-2 here:
# what a call returns, memory, speed, padding, encoders.
_WORDS = """
transformers_version _from_model_config _commit_hash bos_token_id pad_token_id
decoder_start_token_id use_cache cache_implementation cache_config max_cache_len
return_legacy_cache output_attentions output_hidden_states output_scores output_logits
return_dict_in_generate compile_config disable_compile prefill_chunk_size low_memory
continuous_batching_config is_assistant assistant_lookbehind target_lookbehind
"""
WITHOUT_EFFECT = frozenset(_WORDS.split())

# Old versions wrote all their defaults into config.json: those say nothing.
_FILLED_IN = {
    "do_sample": False, "early_stopping": False, "max_length": 20, "min_length": 0,
    "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0,
    "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "num_return_sequences": 1,
    "encoder_no_repeat_ngram_size": 0, "remove_invalid_values": False,
}  # fmt: skip
KEYS = frozenset({"max_length", *OPTIONS}) - {"eos_token_id"}


def model_options(model: GPT2Config) -> tuple[dict[str, Any], list[str]]:
    """The options that a model's files ask for, and what of them has no meaning here.

    Without a generation_config.json they are those in config.json, where transformers
    kept them before version 4.26.

    >>> from dataclasses import replace
    >>> said = {"do_sample": True, "top_k": 40, "eos_token_id": [5, 50257], "max_time": 9}
    >>> model_options(replace(GPT2Config(), generation=said))
    ({'do_sample': True, 'top_k': 40, 'eos_token_id': (5,)}, ['max_time is not known here'])
    """
    said = model.generation
    if said is None:
        said = {
            key: value
            for key, value in model.unused.items()
            if key in KEYS and value != _FILLED_IN.get(key)
        }
    options: dict[str, Any] = {}
    notes = []
    for key, value in said.items():
        if key in WITHOUT_EFFECT or value in (None, {}, []) or value is False:
            if key in OPTIONS and value is False:
                options[key] = value
            continue
        if key not in KEYS and key != "eos_token_id":
            notes.append(f"{key} is not known here")
            continue
        try:
            options[key] = OPTIONS.get(key, OPTIONS["max_new_tokens"]).checked(value)
        except DecodingError as error:
            notes.append(str(error).replace("max_new_tokens", key))
    if "eos_token_id" in options:
        ids = tuple(id for id in options["eos_token_id"] if id < model.vocab_size)
        options["eos_token_id"] = ids
        if not ids:
            del options["eos_token_id"]
    return options, notes
