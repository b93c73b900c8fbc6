"""Names of other systems: each is an option here, or is answered by what it means."""

import pytest

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding.names import ELSEWHERE, OTHER_NAMES, REMARKS
from npgpt.decoding.options import OPTIONS

# keys of transformers 5.23's GenerationConfig, and arguments of its generate
HUGGING_FACE = """
assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight
assistant_lookbehind bad_words_ids begin_suppress_tokens bos_token_id cache_config
cache_implementation compile_config constraints continuous_batching_config
decoder_start_token_id disable_compile diversity_penalty do_sample dola_layers
early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty eos_token_id
epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_words_ids
forced_bos_token_id forced_eos_token_id guidance_scale is_assistant length_penalty
low_memory max_cache_len max_length max_matching_ngram_size max_new_tokens max_time
min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences
output_attentions output_hidden_states output_logits output_scores pad_token_id
penalty_alpha prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values
renormalize_logits repetition_penalty return_dict_in_generate sequence_bias
speculation_type stop_strings suppress_tokens target_lookbehind temperature
token_healing top_h top_k top_p typical_p use_cache use_mtp watermarking_config
inputs input_ids attention_mask generation_config logits_processor stopping_criteria
prefix_allowed_tokens_fn synced_gpus assistant_model streamer negative_prompt_ids
custom_generate
"""
OPENAI = """
frequency_penalty logit_bias logprobs max_completion_tokens max_tokens n
presence_penalty response_format seed stop stream temperature top_logprobs top_p echo
best_of suffix prompt
"""
LLAMA_CPP = """
temp dynatemp_range dynatemp_exp top_k top_p min_p top_n_sigma typical xtc_probability
xtc_threshold repeat_last_n repeat_penalty presence_penalty frequency_penalty
dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breaker
mirostat mirostat_lr mirostat_ent logit_bias grammar grammar_file json_schema samplers
sampler_seq seed ignore_eos n_predict predict reverse_prompt ctx_size keep draft_max
model_draft cache_prompt stop n_probs
"""


NAMES = {*HUGGING_FACE.split(), *OPENAI.split(), *LLAMA_CPP.split()}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_of_another_system_is_known(name):
    if name in OPTIONS:
        return
    with pytest.raises(DecodingError, match=f"unknown option '{name}'; ") as caught:
        GenerationConfig(**{name: 1})
    said = str(caught.value)
    assert "did you mean" not in said
    if name in OTHER_NAMES:
        assert f"here it is {OTHER_NAMES[name]}" in said


def test_the_table_names_options_that_exist_and_shadows_none():
    assert set(OTHER_NAMES.values()) <= set(OPTIONS)
    assert not (OTHER_NAMES.keys() | ELSEWHERE.keys()) & OPTIONS.keys()
    assert not OTHER_NAMES.keys() & ELSEWHERE.keys()
    assert REMARKS.keys() <= OTHER_NAMES.keys()


def test_a_name_that_means_nothing_is_answered_by_a_like_one():
    with pytest.raises(DecodingError, match="did you mean temperature"):
        GenerationConfig(temprature=1)
