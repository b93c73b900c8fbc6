"""Section H. Speculative decoding: the same law with fewer passes."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

TOKENS = Parameter("num_assistant_tokens", "whole", 20, "Tokens a draft.", 1)
SCHEDULE = Parameter(
    "num_assistant_tokens_schedule",
    "choice",
    "constant",
    "Fixed, or longer after a draft that stood.",
    choices=("constant", "heuristic"),
)
CONFIDENCE = Parameter(
    "assistant_confidence_threshold",
    "number",
    0.4,
    "A draft ends with a token less probable; 0: never.",
    0,
    1,
)
VERIFICATION = Parameter(
    "verification",
    "choice",
    "speculative",
    "Accept by p/q, or draw from p and compare.",
    choices=("speculative", "match"),
)
LOSSY = ("typical_acceptance", "typical_delta", "assistant_ensemble_weight")
PACE = (
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
)

STRATEGIES = (
    Strategy(
        "H1", "speculative sampling", "A smaller model drafts, the model verifies.",
        "speculative.assistants.assisted",
        (Parameter("assistant_model", "model", None, "The smaller model."),
         TOKENS, VERIFICATION),
        "Leviathan et al. 2022 (2211.17192); Chen et al. 2023 (2302.01318)",
        kind="search", also=(*LOSSY, *PACE, "assistant_tree"),
        formula_in="speculative.acceptance.speculative",
        formula="keep x ~ q with probability min(1, p/q), else draw from max(p - q, 0)",
    ),
    Strategy(
        "H2", "assisted greedy decoding", "The draft as long as it is the argmax.",
        "speculative.acceptance.verify_greedy", (), "Hugging Face", kind="part",
        formula="keep x while x = argmax p; then argmax p",
    ),
    Strategy(
        "H3", "sample and match", "The token is drawn from p, the draft compared.",
        "speculative.acceptance.match", (), "llama.cpp", kind="part",
        formula="y ~ p; go on while y = x",
    ),
    Strategy(
        "H4", "prompt lookup", "What followed the last tokens before is the draft.",
        "speculative.drafters.prompt_lookup",
        (Parameter("prompt_lookup_num_tokens", "whole", 0, "Tokens; 0 is off.", 1),
         Parameter("max_matching_ngram_size", "whole", 2, "Tokens matched.", 1)),
        "Saxena 2023", kind="search", also=("typical_acceptance", "typical_delta"),
        formula_in="speculative.drafters.PromptLookup",
        formula="the longest n-gram at the end, found earlier; what followed it",
    ),
    Strategy(
        "H5", "n-gram cache", "The most frequent followers in the text are the draft.",
        "speculative.drafters.ngram_cache",
        (Parameter("ngram_cache_num_tokens", "whole", 0, "Tokens; 0 is off.", 1),
         Parameter("ngram_cache_size", "whole", 3, "Longest context counted.", 1)),
        "llama.cpp; Oliaro et al. 2024 (2411.04975)", kind="search",
        also=("typical_acceptance", "typical_delta"),
        formula_in="speculative.drafters.NgramCache",
        formula="argmax_v count(context, v), longest known context",
    ),
    Strategy(
        "H6", "early exit", "The model's own first layers draft.",
        "speculative.assistants.early_exit",
        (Parameter("assistant_early_exit", "whole", 0, "Layers; 0 is off.", 1),),
        "Elhoushi et al. 2024 (2404.16710)", kind="search",
        also=(*LOSSY, *PACE, "verification"),
        formula_in="speculative.assistants.EarlyExit",
        formula="q = softmax(head(ln_f(h_L)))",
    ),
    Strategy(
        "H7", "Jacobi decoding", "A block of guesses, all improved in every reading.",
        "speculative.lookahead.jacobi",
        (Parameter("jacobi_num_tokens", "whole", 0, "Tokens; 0 is off.", 1),),
        "Santilli et al. 2023 (2305.10427)", kind="search",
        formula_in="speculative.lookahead.Jacobi",
        formula="y_i <- argmax p(. | x, y_<i) until nothing changes",
    ),
    Strategy(
        "H8", "lookahead decoding", "Jacobi trajectories fill a pool of n-grams.",
        "speculative.lookahead.lookahead",
        (Parameter("lookahead_window", "whole", 0, "W: columns; 0 is off.", 1),
         Parameter("lookahead_ngram", "whole", 4, "N: tokens of an n-gram.", 2),
         Parameter("lookahead_guesses", "whole", 4, "G: n-grams verified.", 1)),
        "Fu et al. 2024 (2402.02057)", kind="search",
        formula_in="speculative.lookahead.Lookahead",
        formula="window and guesses in one pass, by a tree mask",
    ),
    Strategy(
        "H9", "token tree", "A tree of drafts, verified in one pass.",
        "speculative.token_tree.choose_recursive",
        (Parameter("assistant_tree", "ids", (),
                   "Children of a node at each depth, such as 3,2,1."),),
        "Miao et al. 2023 (2305.09781)", kind="part", also=("assistant_model",),
        formula="siblings x ~ q in turn: keep with min(1, p/q), else p = max(p - q, 0)",
    ),
    Strategy(
        "H10", "typical acceptance", "LOSSY: what is likely enough may stand.",
        "speculative.acceptance.typical",
        (Parameter("typical_acceptance", "number", 0.0, "epsilon; 0 is off.", 0, 1),
         Parameter("typical_delta", "number", 0.3, "delta.", 0)),
        "Cai et al. 2024 (2401.10774)", kind="part",
        formula="keep x if p(x) > min(epsilon, delta exp(-H))",
    ),
    Strategy(
        "H11", "ensemble verification", "LOSSY: a mixture of both models' laws.",
        "speculative.acceptance.ensemble",
        (Parameter("assistant_ensemble_weight", "number", 1.0, "w; 1 is off.", 1e-9,
                   1),),
        "Hugging Face (2604.07622)", kind="part",
        formula="keep x with (1 - w) + w p/q; the law is w p + (1 - w) q, greedy its "
        "argmax",
    ),
    Strategy(
        "H12", "dynamic draft length", "Drafts as long as they are likely to stand.",
        "speculative.assistants.Pace", (SCHEDULE, CONFIDENCE),
        "Mamou et al. 2024 (2405.04304)",
        kind="part", formula="stop where q(x) < threshold; +2 / -1 tokens",
    ),
)  # fmt: skip
