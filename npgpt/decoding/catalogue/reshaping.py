"""Section B. Rules that reshape the distribution and remove nothing."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

STRATEGIES = (
    Strategy(
        "B1", "temperature", "Sharper below 1, flatter above; 0 is greedy search.",
        "rules.reshaping.temperature",
        (Parameter("temperature", "number", 1.0, "Divides the logits; 0 is greedy.",
                   0),),
        "Ackley, Hinton and Sejnowski 1985", element="temperature", sampling=True,
        formula="z / T",
    ),
    Strategy(
        "B2", "dynamic temperature",
        "Cooler where the model is sure, hotter where it is not.",
        "rules.reshaping.dynamic_temperature",
        (Parameter("dynatemp_range", "number", 0.0,
                   "Temperature moves this far around `temperature`.", 0),
         Parameter("dynatemp_exponent", "number", 1.0,
                   "Curve of the move with the entropy.", 0)),
        "kalomaze 2023 (no paper)", also=("temperature",), element="temperature",
        replaces=True, sampling=True,
        formula="z / T,  T = T_lo + (T_hi - T_lo) (H / ln n)^exponent, n tokens left",
    ),
    Strategy(
        "B3", "EDT", "Entropy-based temperature: T_0 N^(theta/H).",
        "rules.reshaping.edt",
        (Parameter("edt_theta", "number", 0.0, "Strength; 0 is off.", 0),
         Parameter("edt_base", "number", 0.8, "N of the formula.", 0, 1)),
        "Zhang et al. 2024 (2403.14541)", also=("temperature",), element="temperature",
        replaces=True, sampling=True, formula="z / T,  T = T_0 N^(theta/H)",
    ),
    Strategy(
        "B4", "quadratic smoothing",
        "Gap to the top logit squared: near rivals come closer, far ones go.",
        "rules.reshaping.quadratic",
        (Parameter("smoothing_factor", "number", 0.0, "Strength; 0 is off.", 0),
         Parameter("smoothing_curve", "number", 1.0, "1 is a parabola.", 1)),
        "kalomaze 2024 (no paper)", element="quadratic", sampling=True,
        formula="d = z - max z;  max z - s ((3-c)/2 d^2 - (c-1)/2 d^3)",
    ),
    Strategy(
        "B5", "skew", "Bends the cumulative distribution towards or from the top.",
        "rules.reshaping.skew",
        (Parameter("skew", "number", 0.0, "Above 0: towards rarer tokens."),),
        "turboderp, ExLlamaV2 (no paper)", element="skew", sampling=True,
        keeps_top=False,
        formula="p' = diff(F^exp(s)),  F cumulative over p sorted down",
    ),
    Strategy(
        "B6", "logit normalisation", "Logits become log-probabilities.",
        "rules.reshaping.normalize",
        (Parameter("renormalize_logits", "flag", False, "Log-softmax at the end."),),
        "", element="renormalize", also=(), formula="z - log sum exp z",
    ),
    Strategy(
        "B7", "inf and NaN removal", "NaN becomes 0, infinities the largest floats.",
        "rules.reshaping.remove_invalid",
        (Parameter("remove_invalid_values", "flag", False, "First of all rules."),),
        "", element="remove_invalid", formula="NaN -> 0, +-inf -> +-max",
    ),
)  # fmt: skip
