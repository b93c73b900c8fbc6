"""Section F. Guidance and contrast: more than one distribution a step."""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Parameter, Strategy

ALPHA = Parameter(
    "contrastive_alpha",
    "number",
    0.1,
    "Plausible: p of at least this share of the largest.",
    0,
    1,
)
ANTI = "anti_lm_weight"

STRATEGIES = (
    Strategy(
        "F1", "classifier-free guidance",
        "Away from what the negative prompt (or no prompt) would say.",
        "guidance.steering.classifier_free",
        (Parameter("guidance_scale", "number", 1.0, "Strength; 1 is off."),
         Parameter("negative_prompt", "any", None,
                   "A text, its ids, or one for each prompt; none: the last token.")),
        "Sanchez et al. 2023 (2306.17806)", kind="guidance",
        formula_in="guidance.formulas.classifier_free",
        formula="l' = l_neg + scale (l - l_neg)",
    ),
    Strategy(
        "F2", "context-aware decoding", "More weight on the context in the prompt.",
        "guidance.steering.context_aware",
        (Parameter("context_aware_alpha", "number", 0.0, "Strength; 0 is off."),
         Parameter("prompt_without_context", "any", None, "The question alone.")),
        "Shi et al. 2023 (2305.14739)", kind="guidance",
        formula_in="guidance.formulas.context_aware",
        formula="(1 + alpha) l(y | c, x) - alpha l(y | x)",
    ),
    Strategy(
        "F3", "contrastive decoding", "What an expert knows and an amateur does not.",
        "guidance.steering.contrastive",
        (Parameter("amateur_model", "model", None, "A smaller model."),
         ALPHA,
         Parameter("amateur_temperature", "number", 0.5, "Of the amateur.", 1e-3),
         Parameter("contrastive_coefficient", "number", 1.0, "Weight of it.", 0)),
        "Li et al. 2022 (2210.15097)", kind="guidance",
        formula_in="guidance.formulas.contrastive",
        formula="l - c log softmax(z_amateur / tau) where p >= alpha max p",
    ),
    Strategy(
        "F4", "improved contrastive decoding", "The same on logits, with one weight.",
        "guidance.steering.contrastive",
        (Parameter("contrastive_beta", "number", 0.0,
                   "Weight; 0 is F3. Needs amateur_model.", 0),),
        "O'Brien and Lewis 2023 (2309.09117)", kind="part",
        also=("amateur_model", "contrastive_alpha"),
        formula_in="guidance.formulas.improved_contrastive",
        formula="(1 + beta) z - beta z_amateur where p >= alpha max p",
    ),
    Strategy(
        "F5", "DoLa", "The last layer against the early layer least like it.",
        "guidance.steering.layers",
        (Parameter("dola_layers", "any", None, "'low', 'high', or a list of layers."),),
        "Chuang et al. 2023 (2309.03883)", kind="guidance",
        formula_in="guidance.formulas.dola",
        formula="l - l_j where p >= 0.1 max p; j = argmax JS(p, p_j)",
    ),
    Strategy(
        "F6", "DExperts", "Steered by a pair of small models.",
        "guidance.steering.experts",
        (Parameter("expert_model", "model", None, "Writes as wanted."),
         Parameter("anti_expert_model", "model", None, "Writes as not wanted."),
         Parameter("dexperts_alpha", "number", 1.0, "Strength.")),
        "Liu et al. 2021 (2105.03023)", kind="guidance",
        formula_in="guidance.formulas.dexperts",
        formula="z + alpha (z_expert - z_anti)",
    ),
    Strategy(
        "F6", "ensemble", "Several models as one: a product or a mixture.",
        "guidance.steering.ensemble",
        (Parameter("ensemble_models", "models", None, "The other models."),
         Parameter("ensemble_weights", "any", None, "One a model, its own first."),
         Parameter("ensemble", "choice", "product", "How they are combined.",
                   choices=("product", "mixture"))),
        "Hinton 2002", kind="guidance",
        formula_in="guidance.formulas.product",
        formula="sum_i w_i l_i,  or log sum_i w_i p_i",
    ),
    Strategy(
        "F6", "anti-LM", "Less of what is likely anyway (maximum mutual information).",
        "guidance.steering.anti_lm",
        (Parameter(ANTI, "number", 0.0, "lambda; 0 is off."),
         Parameter("anti_lm_model", "model", None,
                   "Whose likelihood counts; none: its own, without the prompt.")),
        "Li et al. 2016 (1510.03055)", kind="guidance",
        formula_in="guidance.formulas.anti_lm",
        formula="l - lambda l_anti",
    ),
)  # fmt: skip
