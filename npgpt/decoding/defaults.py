"""A model's own defaults: what generation_config.json says of decoding.

As in transformers, every key that has a meaning here is a default of `generate` and
`stream`: below the arguments that are given, above npgpt's own. A default that has no
effect under those arguments (a temperature without sampling) or contradicts them is
left out. So is what no loop here does (max_time), which a note names once. The ids that
end a text are GPT2Config.eos_token_ids.

What it does differently: where generation_config.json names no end of text, config.json
still does; what it leaves out has npgpt's default, so sampling keeps all tokens where
transformers keeps 50; and a length that does not fit the model is cut, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from npgpt.config import GENERATION, GPT2Config
from npgpt.decoding.catalogue.kinds import Parameter
from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.errors import DecodingError
from npgpt.support.notes import note

# Of the keys of transformers' GenerationConfig these change no token of a GPT-2 here:
# what a call returns, memory, speed, padding, encoders, where the file came from.
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
_MAX_LENGTH = Parameter.of("max_length", 20, "Tokens, prompt included.", 1)


class Own(NamedTuple):
    """What a model asks for, and sentences on what of it has no meaning here."""

    options: dict[str, Any]
    notes: list[str]


def own_options(model: GPT2Config) -> Own:
    """The options that a model's files ask for.

    Without a generation_config.json they are those in config.json, where transformers
    kept them before version 4.26.

    >>> from dataclasses import replace
    >>> said = {"do_sample": True, "temperature": 0.7, "max_time": 9}
    >>> own = own_options(replace(GPT2Config(), generation=said))
    >>> own.options, own.notes
    ({'do_sample': True, 'temperature': 0.7}, ['max_time is not known here'])
    """
    said = model.generation
    if said is None:
        said = {
            key: value
            for key, value in model.unused.items()
            if known_option(key) and value != _FILLED_IN.get(key)
        }
    own = Own({}, [])
    for key, value in said.items():
        if value is None or key in WITHOUT_EFFECT:
            continue
        known = known_option(key)
        if known is None:
            if value:  # false, 0 and empty lists ask for nothing
                own.notes.append(f"{key} is not known here")
            continue
        if key == "eos_token_id" and _are_ids(value):
            continue  # it is read by GPT2Config.eos_token_ids
        try:
            own.options[key] = known.checked(value)
        except DecodingError as error:
            own.notes.append(str(error))
    return own


def known_option(key: str) -> Parameter | None:
    """What a key of generation_config.json is called and takes here, if anything."""
    return _MAX_LENGTH if key == "max_length" else OPTIONS.get(key)


def with_defaults(
    given: Mapping[str, Any],
    model: GPT2Config,
    prompts: Sequence[Sequence[int]],
    soft: Mapping[str, Any] | None = None,
) -> GenerationConfig:
    """The options given, with the model's own defaults where they have an effect.

    `soft` are a caller's defaults, below the model's. A length that is a default, ours
    included, is cut to the model's room: only what was asked for is refused.
    """
    own = own_options(model)
    for sentence in own.notes:
        note(f"{GENERATION} of the model: {sentence}; it is passed over")
    given = {name: value for name, value in given.items() if value is not None}
    left = {**(soft or {}), **own.options}
    _set_length(left, given, own, max(map(len, prompts)), model.n_positions)
    return GenerationConfig.of(_with_fitting(given, left))


def _set_length(
    left: dict[str, Any], given: Mapping[str, Any], own: Own, longest: int, room: int
) -> None:
    """Make one max_new_tokens, of a length that fits, of what the defaults say."""
    total = left.pop("max_length", None)
    if "max_new_tokens" in given:
        return
    if total is not None and "max_new_tokens" not in own.options:
        if total <= longest:
            raise DecodingError(
                f"the prompt has {longest} tokens, and the model's {GENERATION} ends "
                f"texts at max_length {total}; give max_new_tokens"
            )
        left["max_new_tokens"] = total - longest
    cut = {**left, **given}.get("overflow", "error") == "error"
    fits = max(1, room + 1 - longest)  # the last new token needs no position
    if cut and left.get("max_new_tokens", OPTIONS["max_new_tokens"].default) > fits:
        left["max_new_tokens"] = fits


def _with_fitting(given: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, and as many of the others as hold together with them."""
    found = {**left, **given}
    if _holds(found):
        return found
    found = dict(given)
    while True:
        more = (n for n in left if n not in found and _holds({**found, n: left[n]}))
        name = next(more, None)
        if name is None:
            return found
        found[name] = left[name]


def _holds(options: Mapping[str, Any]) -> bool:
    try:
        GenerationConfig.of(options)
    except DecodingError:
        return False
    return True


def _are_ids(ids: Any) -> bool:
    each = ids if isinstance(ids, list | tuple) else [ids]
    return all(isinstance(id, int) and not isinstance(id, bool) for id in each)
