"""What the guidance options make of a model: one function an option.

Each takes (model, prompts, options) and returns a model with the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.generation import encode_prompts
from npgpt.decoding.guidance import formulas
from npgpt.decoding.guidance.dola import Dola
from npgpt.decoding.guidance.guided import Guided, Opening, Part
from npgpt.decoding.options import GenerationConfig
from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.interface import Model, Rows, able
from npgpt.shapes import Logits


@strategy("F1", "classifier-free guidance", kind="guidance")
@fields(explains=formulas.classifier_free)
@parameter("guidance_scale", 1.0, "Strength; 1 is off.")
@parameter(
    "negative_prompt",
    None,
    "A text, its ids, or one for each prompt; none: the last token.",
    kind="any",
)
@example(guidance_scale=1.5, negative_prompt="cat")
def classifier_free(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F1: away from the negative prompt, or from the prompt's last token alone."""
    opening = negative_opening(model, prompts, options.negative_prompt, options)
    parts = [Part(model, (None, opening))]
    return guided(parts, formulas.classifier_free, options.guidance_scale)


@strategy("F2", "context-aware decoding", kind="guidance")
@fields(explains=formulas.context_aware)
@parameter("context_aware_alpha", 0.0, "Strength; 0 is off.")
@parameter("prompt_without_context", None, "The question alone.", kind="any")
@example(context_aware_alpha=0.5, prompt_without_context="cat")
def context_aware(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F2: towards what only the prompt with its context says."""
    question = options.prompt_without_context
    if question is None:
        raise DecodingError(
            "context_aware_alpha needs prompt_without_context: the question alone"
        )
    parts = [Part(model, (None, negative_opening(model, prompts, question, options)))]
    return guided(parts, formulas.context_aware, options.context_aware_alpha)


@strategy("F3", "contrastive decoding", kind="guidance", explains=formulas.contrastive)
@parameter("amateur_model", None, "A smaller model.", kind="model")
@parameter(
    "contrastive_alpha",
    0.1,
    "Plausible: p of at least this share of the largest.",
    0,
    1,
)
@parameter("amateur_temperature", 0.5, "Of the amateur.", 1e-3)
@parameter("contrastive_coefficient", 1.0, "Weight of it.", 0)
@example(amateur_model="smaller", contrastive_alpha=0.3)
@strategy("F4", "improved contrastive decoding", kind="part")
@fields(explains=formulas.improved_contrastive)
@fields(also=("amateur_model", "contrastive_alpha"))
@parameter("contrastive_beta", 0.0, "Weight; 0 is F3. Needs amateur_model.", 0)
@example(amateur_model="smaller", contrastive_beta=0.5)
def contrastive(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F3 and F4: an expert against a smaller amateur."""
    o, parts = options, [Part(model), Part(options.amateur_model)]
    alpha, beta = o.contrastive_alpha, o.contrastive_beta
    if not beta:
        settings = (alpha, o.amateur_temperature, o.contrastive_coefficient)
        return guided(parts, formulas.contrastive, *settings)
    if o.is_set("amateur_temperature") or o.is_set("contrastive_coefficient"):
        raise DecodingError(
            "amateur_temperature and contrastive_coefficient belong to contrastive "
            "decoding without contrastive_beta"
        )
    return guided(parts, formulas.improved_contrastive, alpha, beta)


@strategy("F5", "DoLa", kind="guidance", explains=formulas.dola)
@parameter("dola_layers", None, "'low', 'high', or a list of layers.", kind="any")
@example(dola_layers=[1])
def layers(model: Model, prompts: Rows, options: GenerationConfig) -> Dola:
    """F5: the last layer against its early ones."""
    sentence = (
        "dola_layers needs a plain model: its layers cannot be seen through another "
        "guidance"
    )
    return Dola(able(model, "layer_logits", sentence), options.dola_layers)


@strategy("F6", "DExperts", kind="guidance", explains=formulas.dexperts)
@parameter("expert_model", None, "Writes as wanted.", kind="model")
@parameter("anti_expert_model", None, "Writes as not wanted.", kind="model")
@parameter("dexperts_alpha", 1.0, "Strength.")
@example(expert_model="model", anti_expert_model="smaller")
def experts(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F6, DExperts: steered by an expert and an anti-expert."""
    if options.anti_expert_model is None:
        raise DecodingError("expert_model needs anti_expert_model beside it")
    parts = [Part(model), Part(options.expert_model), Part(options.anti_expert_model)]
    return guided(parts, formulas.dexperts, options.dexperts_alpha)


@strategy("F6", "ensemble", kind="guidance", explains=formulas.product)
@parameter("ensemble_models", None, "The other models.", kind="models")
@parameter("ensemble_weights", None, "One a model, its own first.", kind="any")
@parameter("ensemble", ("product", "mixture"), "How they are combined.")
@example(ensemble_models=["smaller"])
def ensemble(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F6, ensembles: a product or a mixture of models."""
    models = [model, *options.ensemble_models]
    weights = options.ensemble_weights
    if weights is None:
        weights = [1 / len(models)] * len(models)
    if len(weights) != len(models):
        raise DecodingError(
            f"ensemble_weights must be {len(models)} numbers, the model's own first"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise DecodingError("ensemble_weights must be positive numbers")
    combine = formulas.product
    if options.ensemble == "mixture":
        if abs(sum(weights) - 1) > 1e-6:
            raise DecodingError("ensemble_weights of a mixture must sum to 1")
        combine = formulas.mixture
    return Guided([*map(Part, models)], lambda z: combine(z, tuple(weights)))


@strategy("F6", "anti-LM", kind="guidance", explains=formulas.anti_lm)
@parameter("anti_lm_weight", 0.0, "lambda; 0 is off.")
@parameter(
    "anti_lm_model",
    None,
    "Whose likelihood counts; none: its own, without the prompt.",
    kind="model",
)
@example(anti_lm_weight=0.5, anti_lm_model="smaller")
def anti_lm(model: Model, prompts: Rows, options: GenerationConfig) -> Guided:
    """F6, anti-LM: away from what is likely without the prompt, or elsewhere."""
    if options.anti_lm_model is not None:
        parts = [Part(model), Part(options.anti_lm_model)]
    else:
        parts = [Part(model, (None, negative_opening(model, prompts, None, options)))]
    return guided(parts, formulas.anti_lm, options.anti_lm_weight)


def guided(
    parts: Sequence[Part], formula: Callable[..., Logits], *settings: float
) -> Guided:
    """The model of a formula of each reading's logits and these settings."""
    return Guided(parts, lambda z: formula(*z, *settings))


def negative_opening(
    model: Any, prompts: Rows, negative: Any, options: GenerationConfig
) -> Opening:
    """What stands in place of each prompt: one text for all, a list of them, or
    nothing.

    Nothing means the prompt's last token alone.
    """
    if options.overflow == "slide":
        raise DecodingError(
            "overflow='slide' does not go with a negative prompt; use 'error' or 'stop'"
        )
    if negative is None:
        return lambda origin, prompt: prompt[-1:]
    rows, single = encode_prompts(model, negative)
    if single:
        rows = rows * len(prompts)
    if len(rows) != len(prompts):
        raise DecodingError(
            f"{len(rows)} negative prompts for {len(prompts)} prompts; give one, or "
            "one for each"
        )
    room = model.config.n_positions
    longest = max(map(len, rows))
    if longest + options.max_new_tokens - 1 > room:
        raise ContextOverflowError(
            f"the negative prompt has {longest} tokens; with max_new_tokens "
            f"{options.max_new_tokens} that is more than the model's {room} positions"
        )
    return lambda origin, prompt: rows[origin]
