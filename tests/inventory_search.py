"""Sections F, G and H of the inventory, and E15: code -> the test that proves it."""

GUIDANCE = {
    f"F{n}": f"test_guidance.py::{test}"
    for n, test in enumerate(
        (
            "test_guidance_is_its_formula",
            "test_context_aware_is_classifier_free",
            "test_guidance_is_its_formula",
            "test_guidance_is_its_formula",
            "test_dola_is_its_formula",
            "test_guidance_is_its_formula",
        ),
        1,
    )
}
SEARCH = {
    "E15": "test_search.py::test_forced_words_are_in_the_text",
    "G1": "test_search_oracles.py::test_search_matches_transformers",
    "G2": "test_search.py::test_beam_sample_draws_without_replacement",
    "G3": "test_search_oracles.py::test_search_matches_transformers",
    "G4": "test_search.py::test_stochastic_beams_are_drawn_without_replacement",
    "G5": "test_search_oracles.py::test_search_matches_transformers",
    "G6": "test_search.py::test_score_is_what_its_tokens_add_up_to",
    "G7": "test_search.py::test_patience_waits_for_more_texts",
    "G8": "test_search.py::test_best_of_n_is_the_likeliest_of_the_samples",
    "G9": "test_search.py::test_majority_and_consensus",
    "G10": "test_search.py::test_majority_and_consensus",
    "G11": "test_search.py::test_cot_decoding_is_its_formula",
    "G12": "test_search.py::test_power_sampling_leaves_its_law_unchanged",
}
SPECULATIVE = {
    "H1": "test_speculative.py::test_speculative_preserves_the_distribution",
    "H2": "test_speculative.py::test_speculative_greedy_is_greedy",
    "H3": "test_speculative.py::test_drafts_without_q_change_no_sample",
    "H4": "test_speculative.py::test_speculative_greedy_is_greedy",
    "H5": "test_speculative.py::test_speculative_greedy_is_greedy",
    "H6": "test_speculative.py::test_speculative_preserves_the_distribution",
    "H7": "test_speculative.py::test_jacobi_needs_no_more_readings_than_tokens",
    "H8": "test_speculative.py::test_speculative_greedy_is_greedy",
    "H9": "test_speculative.py::test_speculative_preserves_the_distribution",
    "H10": "test_speculative.py::test_typical_acceptance_is_its_formula",
    "H11": "test_speculative.py::test_ensemble_verification_draws_from_the_mixture",
    "H12": "test_speculative.py::test_pace_grows_and_shrinks",
}
PROOFS = GUIDANCE | SEARCH | SPECULATIVE
