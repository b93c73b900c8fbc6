"""Section C. Truncation: which tokens may be drawn at all."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

TAU = Parameter("mirostat_tau", "number", 5.0, "Target surprise in bits.", 0)
ETA = Parameter("mirostat_eta", "number", 0.1, "Learning rate.", 0)

STRATEGIES = (
    Strategy(
        "C1", "top-k", "The k most probable tokens, and ties with the last of them.",
        "rules.truncation.top_k",
        (Parameter("top_k", "whole", 0, "Keep the k most probable; 0 is off.", 0),),
        "Fan et al. 2018 (1805.04833)", element="top_k", sampling=True,
        formula="keep z >= the k-th largest",
    ),
    Strategy(
        "C2", "top-p", "The nucleus: the fewest tokens that reach probability p.",
        "rules.truncation.top_p",
        (Parameter("top_p", "number", 1.0, "Probability to keep; 1 is off.", 0, 1),),
        "Holtzman et al. 2019 (1904.09751)", element="top_p", sampling=True,
        formula="keep i if the mass of all more probable tokens is < p",
    ),
    Strategy(
        "C3", "factual nucleus", "A nucleus that shrinks within a sentence.",
        "rules.truncation.factual_nucleus",
        (Parameter("top_p_decay", "number", 1.0, "Factor a token; 1 is off.", 0, 1),
         Parameter("top_p_min", "number", 0.0, "Never below this.", 0, 1),
         Parameter("top_p_reset_ids", "ids", (), "Tokens that end a sentence.")),
        "Lee et al. 2022 (2206.04624)", takes="z generated", also=("top_p",),
        element="top_p", replaces=True, sampling=True,
        formula="top-p with max(top_p_min, p decay^t), t tokens since a reset",
    ),
    Strategy(
        "C4", "min-p", "Tokens at least this fraction as probable as the best one.",
        "rules.truncation.min_p",
        (Parameter("min_p", "number", 0.0, "Fraction of the top; 0 is off.", 0, 1),),
        "Nguyen et al. 2024 (2407.01082)", element="min_p", sampling=True,
        formula="keep z >= max z + ln m",
    ),
    Strategy(
        "C5", "locally typical", "Tokens whose surprise is nearest the entropy.",
        "rules.entropy.typical",
        (Parameter("typical_p", "number", 1.0, "Mass to keep; 1 is off.", 0, 1),),
        "Meister et al. 2022 (2202.00666)", element="typical", sampling=True,
        keeps_top=False,
        formula="by |-log p - H| upwards, the shortest prefix of mass >= tau",
    ),
    Strategy(
        "C6", "epsilon", "Tokens at least this probable.", "rules.truncation.epsilon",
        (Parameter("epsilon_cutoff", "number", 0.0, "Probability; 0 is off.", 0, 1),),
        "Hewitt et al. 2022 (2210.15191)", element="epsilon", sampling=True,
        formula="keep p >= epsilon, and the top token",
    ),
    Strategy(
        "C7", "eta", "An epsilon that shrinks where the entropy is high.",
        "rules.truncation.eta",
        (Parameter("eta_cutoff", "number", 0.0, "Probability; 0 is off.", 0, 1),),
        "Hewitt et al. 2022 (2210.15191)", element="eta", sampling=True,
        formula="keep p >= min(epsilon, sqrt(epsilon) e^-H), and the top token",
    ),
    Strategy(
        "C8", "top-a", "Tokens above a share of the best probability squared.",
        "rules.truncation.top_a",
        (Parameter("top_a", "number", 0.0, "Share; 0 is off.", 0, 1),),
        "BlinkDL, RWKV (no paper)", element="top_a", sampling=True,
        formula="keep p >= a (max p)^2",
    ),
    Strategy(
        "C9", "tail-free", "Cuts where the sorted curve stops bending.",
        "rules.entropy.tail_free",
        (Parameter("tfs", "number", 1.0, "Share of the bend kept; 1 is off.", 0, 1),),
        "Phénix and Egan 2019", element="tfs", sampling=True,
        formula="w = |second difference of p sorted down| / sum; keep the first "
        "1 + #{cumsum w <= tfs}",
    ),
    Strategy(
        "C10", "top-n-sigma", "Logits within n standard deviations of the best.",
        "rules.truncation.top_n_sigma",
        (Parameter("top_n_sigma", "number", -1.0,
                   "Standard deviations; 0 or below is off."),),
        "Tang et al. 2024 (2411.07641)", element="top_n_sigma", sampling=True,
        formula="keep z >= max z - n std(finite z)",
    ),
    Strategy(
        "C11", "top-H", "As many top tokens as a share of the entropy allows.",
        "rules.entropy.top_h",
        (Parameter("top_h", "number", 0.0, "Share of the entropy; 0 is off.", 0, 1),),
        "Potraghloo et al. 2025 (2509.02510)", element="top_h", sampling=True,
        formula="of the top 100, the longest prefix with sum -p ln p <= alpha H",
    ),
    Strategy(
        "C12", "p-less", "Tokens at least as probable as two draws agreeing.",
        "rules.entropy.p_less",
        (Parameter("p_less", "choice", "off", "The threshold: plain, or normalised.",
                   choices=("off", "on", "norm")),),
        "Tan et al. 2025 (2509.23234)", element="p_less", sampling=True,
        formula="keep p >= sum p^2",
    ),
    Strategy(
        "C13", "XTC", "Now and then excludes the top choices, all but the last.",
        "rules.truncation.xtc",
        (Parameter("xtc_probability", "number", 0.0, "How often; 0 is off.", 0, 1),
         Parameter("xtc_threshold", "number", 0.1, "What a top choice is.", 0, 1)),
        "p-e-w 2024 (no paper)", takes="z u", element="xtc", sampling=True,
        keeps_top=False,
        formula="with this probability: of the tokens with p >= t remove all but the "
        "least probable",
    ),
    Strategy(
        "C15", "mirostat", "Keeps the surprise of the text at a target, by a top-k.",
        "feedback.mirostat",
        (Parameter("mirostat", "choice", 0, "Version; 0 is off.", choices=(0, 1, 2)),
         TAU, ETA,
         Parameter("mirostat_m", "whole", 100, "Tokens that estimate the slope.", 2)),
        "Basu et al. 2020 (2007.14966)", kind="selector", equals=1, sampling=True,
        formula="k = (eps 2^mu / (1 - V^-eps))^(1/s), eps = s - 1; "
        "mu -= eta (surprise - tau)",
    ),
    Strategy(
        "C16", "mirostat 2.0", "Keeps the surprise of the text at a target, directly.",
        "feedback.mirostat_v2", (), "Basu et al. 2020 (2007.14966)", kind="selector",
        switch="mirostat", equals=2, uses=("mirostat_tau", "mirostat_eta"),
        sampling=True,
        formula="keep -log2 p <= mu, at least the top; mu -= eta (surprise - tau)",
    ),
    Strategy(
        "C17", "adaptive-p", "Favours tokens near a target probability, over time.",
        "feedback.adaptive_p",
        (Parameter("adaptive_target", "number", -1.0, "Below 0 is off.", -1, 1),
         Parameter("adaptive_decay", "number", 0.9, "Memory of the mean.", 0, 0.99)),
        "llama.cpp 2025 (no paper)", kind="selector", sampling=True,
        formula="x = |p - t| / 0.3;  z = 5 - 10 x^2 / (1 + x);  t from the mean of "
        "past p",
    ),
)  # fmt: skip
