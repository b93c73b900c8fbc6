"""What other systems call the options: one table, for Python and the command line.

Hugging Face's GenerationConfig and generate, OpenAI's and vLLM's parameters, flags and
JSON of llama.cpp. A name that means an option here is answered with it, one that means
something else with where to find that.
"""

from __future__ import annotations

from collections.abc import Callable

_OPTIONS = """
max_new_tokens: max_length max_tokens max_completion_tokens max_output_tokens n_predict
min_new_tokens: min_tokens
num_return_sequences: n
stop_strings: stop stop_sequences stop_words stopping_criteria reverse_prompt antiprompt
eos_token_id: stop_token_ids eos_token_ids terminators
temperature: temp
typical_p: typical typ_p locally_typical
top_h: toph
top_n_sigma: top_nsigma nsigma
tfs: tfs_z tail_free
repetition_penalty: repeat_penalty
no_repeat_ngram_size: ngram_size
mirostat: mirostat_mode
mirostat_tau: mirostat_ent
mirostat_eta: mirostat_lr
dynatemp_exponent: dynatemp_exp
dry_sequence_breakers: dry_sequence_breaker
top_logprobs: logprobs n_probs output_scores output_logits
json_schema: response_format guided_json structured_outputs
regex: guided_regex guided_decoding_regex
choice: guided_choice
grammar: guided_grammar grammar_file
trigger_words: grammar_triggers
force_words_ids: constraints force_words
guidance_scale: cfg_scale
negative_prompt: negative_prompt_ids cfg_negative_prompt
assistant_model: model_draft draft_model speculative_model
num_assistant_tokens: draft draft_max draft_n num_speculative_tokens
assistant_confidence_threshold: draft_p_min
verification: speculation_type
num_beams: beam_width use_beam_search
watermark: watermarking_config
chain: samplers sampler_seq sampling_seq sampler_order sampler_priority
overflow: context_shift n_keep keep truncation_side
repeat_last_n: repetition_penalty_range
"""
_ELSEWHERE = {
    "pad_token_id attention_mask position_ids padding pad_token": "prompts of "
    "different length are a list, and nothing is padded",
    "bos_token_id decoder_start_token_id add_special_tokens": "a prompt is given as "
    "its ids, where it begins with other ones than the tokenizer's",
    "input_ids inputs prompt": "the prompt is the first argument, as text or as ids",
    "max_time t_max_predict_ms": "go on with the steps of `stream` as long as you like",
    "stream streamer": "`stream` yields a text step by step",
    "echo return_full_text return_prompt": "a result's text is the new one; the prompt "
    "is yours",
    "prompt_logprobs": "`score` says how probable a text is",
    "skip_special_tokens clean_up_tokenization_spaces detokenize": "the end of a text "
    "is never part of it",
    "output_attentions output_hidden_states": "a tap sees every intermediate of "
    "`logits`",
    "return_dict_in_generate return_dict": "a result always has its numbers beside it",
    "generation_config": "give its keys as options",
    "use_cache cache_implementation cache_config max_cache_len past_key_values "
    "return_legacy_cache cache_prompt prompt_cache": "keys and values are always "
    "cached; `cache` keeps them from call to call",
    "n_ctx ctx_size max_model_len": "a model reads as many tokens as it has positions",
    "suffix": "GPT-2 writes from left to right",
    "custom_generate trust_remote_code synced_gpus low_memory is_assistant "
    "assistant_lookbehind target_lookbehind compile_config disable_compile "
    "prefill_chunk_size continuous_batching_config use_mtp": "it changes no token here",
}
REMARKS = {
    "max_length": ", which counts the new tokens alone",
    "response_format": ", given the schema itself",
    "watermarking_config": " and the options that `npgpt strategies I1` names",
    "constraints": ", or regex, choice and grammar",
}
OTHER_NAMES = {
    name: option
    for option, names in (line.split(":") for line in _OPTIONS.strip().splitlines())
    for name in names.split()
}
ELSEWHERE = {
    name: where for names, where in _ELSEWHERE.items() for name in names.split()
}


def advice(name: str, written: Callable[[str], str] = str) -> str:
    """What to say of another system's name; empty where it is none.

    `written` is how an option is written: as in Python, or as a flag.

    >>> advice("stop"), advice("max_time")[:25]
    ('here it is stop_strings', 'go on with the steps of `')
    """
    if name in OTHER_NAMES:
        return f"here it is {written(OTHER_NAMES[name])}{REMARKS.get(name, '')}"
    return ELSEWHERE.get(name, "")
