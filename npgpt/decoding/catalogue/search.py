"""Section G. Searches over sequences, and choosing among samples."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

BEAM_RULES = ("length_penalty", "early_stopping", "length_normalization")

STRATEGIES = (
    Strategy(
        "G1", "beam search", "Several texts in the making; the best is returned.",
        "searches.beam_search.beam_search",
        (Parameter("num_beams", "whole", 1, "Texts in the making; 1 is off.", 1),
         Parameter("length_penalty", "number", 1.0,
                   "Exponent of the length by which a score is divided."),
         Parameter("early_stopping", "choice", False,
                   "When to stop: a heuristic, at once, or never too early.",
                   choices=(False, True, "never"))),
        "Lowerre 1976; Transformers' rules", kind="search",
        formula_in="searches.beam.BeamSearch",
        formula="the num_beams best of sum log p; ended ones ranked by sum / t^alpha",
    ),
    Strategy(
        "G2", "beam-search multinomial sampling",
        "Beam search whose candidates are drawn without replacement.",
        "searches.beam.drawn_candidates", (), "Transformers", kind="part",
        formula="with do_sample: the 2b largest of (sum log p) + Gumbel noise",
    ),
    Strategy(
        "G3", "diverse beam search", "Groups of beams kept apart from each other.",
        "searches.diverse_beam.DiverseBeamSearch",
        (Parameter("num_beam_groups", "whole", 1, "Groups; 1 is off.", 1),
         Parameter("diversity_penalty", "number", 0.0, "lambda.", 0)),
        "Vijayakumar et al. 2016 (1610.02424)", kind="part", also=("num_beams",),
        formula="log p_v - lambda (times v was chosen by earlier groups)",
    ),
    Strategy(
        "G4", "stochastic beam search", "Different texts, drawn without replacement.",
        "searches.stochastic_beam.StochasticBeamSearch",
        (Parameter("stochastic_beams", "flag", False, "On or off."),),
        "Kool et al. 2019 (1903.06059)", kind="part", also=("num_beams",),
        formula="the k largest Gumbel-perturbed sums of log p",
    ),
    Strategy(
        "G5", "contrastive search",
        "Probable, and unlike what the text has said (one model, hidden states).",
        "searches.contrastive_search.contrastive_search",
        (Parameter("penalty_alpha", "number", 0.0, "Weight of it; 0 is off.", 0, 1),),
        "Su et al. 2022 (2202.06417)", kind="search", also=("top_k",), uses=("top_k",),
        formula="over the top k: (1 - alpha) p_v - alpha max_j cos(h_v, h_j)",
    ),
    Strategy(
        "G6", "length normalisation", "What a beam's score is divided by.",
        "searches.beam.length_norm",
        (Parameter("length_normalization", "choice", "hf",
                   "The length itself (Hugging Face, fairseq), or GNMT's.",
                   choices=("hf", "gnmt")),),
        "Wu et al. 2016 (1609.08144)", kind="part", also=("num_beams",),
        formula="t^alpha,  or ((5 + t) / 6)^alpha",
    ),
    Strategy(
        "G7", "patience", "Go on until more texts have ended than there are beams.",
        "searches.beam.BeamSearch",
        (Parameter("patience", "number", 1.0, "Texts a beam; 1 is off.", 0.01),),
        "Kasai et al. 2022 (2204.05424)", kind="part",
        also=("num_beams", "early_stopping"),
        formula="stop when patience * num_beams texts have ended",
    ),
    Strategy(
        "G8", "best of n", "Draw n texts, return the likeliest.",
        "searches.reranking.best_of",
        (Parameter("best_of", "whole", 1, "n; 1 is off.", 1),
         Parameter("best_of_by", "choice", "mean",
                   "Log-probability a token, or of the whole text.",
                   choices=("mean", "sum"))),
        "Nakano et al. 2021 (2112.09332)", kind="search", sampling=True,
        formula="argmax_i (1/t_i) sum log p,  or sum log p",
    ),
    Strategy(
        "G9", "self-consistency", "The answer that most of n texts give.",
        "searches.reranking.self_consistency", (), "Wang et al. 2022 (2203.11171)",
        kind="after",
        formula="argmax_a (number of texts that answer a)",
    ),
    Strategy(
        "G10", "minimum Bayes risk", "The text most like the other texts.",
        "searches.reranking.minimum_bayes_risk", (),
        "Eikema and Aziz 2020; Freitag et al. 2021 "
        "(2108.04718)", kind="after", formula="argmax_i sum_j u(y_i, y_j)",
    ),
    Strategy(
        "G11", "CoT-decoding", "Branch at the first token, keep the surest answer.",
        "searches.reranking.cot_decoding",
        (Parameter("cot_branches", "whole", 0, "k first tokens; 0 is off.", 1),),
        "Wang and Zhou 2024 (2402.10200)", kind="search",
        formula="the branch with the largest mean gap p_1 - p_2",
    ),
    Strategy(
        "G12", "power sampling", "Draws from p^alpha of whole texts, by Markov chain.",
        "searches.power.power_sampling",
        (Parameter("power_alpha", "number", 1.0, "alpha; 1 is off.", 1e-3),
         Parameter("power_block", "whole", 16, "Tokens added between moves.", 1),
         Parameter("power_steps", "whole", 10, "Moves after each block.", 0)),
        "Karan and Du 2025 (2510.14901)", kind="search", sampling=True,
        formula="Metropolis-Hastings: a new suffix with probability min(1, A)",
    ),
    Strategy(
        "E15", "constrained beam search", "Texts that must contain given words.",
        "searches.constrained_beam.ConstrainedBeamSearch",
        (Parameter("force_words_ids", "any", None,
                   "Phrases of token ids, or lists of phrases to choose from."),),
        "Anderson et al. 2016 (1612.00576); Post and Vilar 2018 (1804.06609)",
        kind="part", also=("num_beams",),
        formula="beams filled round-robin over banks of constraint tokens met",
    ),
)  # fmt: skip
