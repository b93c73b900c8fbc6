"""What the guidance options make of a model: one function an option.

Each takes (model, prompts, options) and returns a model with the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from npgpt.decoding.guidance import formulas
from npgpt.decoding.guidance.dola import Dola
from npgpt.decoding.guidance.guided import Guided, Opening, Part
from npgpt.decoding.job import Prompts
from npgpt.decoding.options import GenerationConfig
from npgpt.errors import ContextOverflowError, DecodingError


def classifier_free(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F1: away from the negative prompt, or from the prompt's last token alone."""
    opening = negative_opening(model, prompts, options.negative_prompt, options)
    parts = [Part(model, (None, opening))]
    return guided(parts, formulas.classifier_free, options.guidance_scale)


def context_aware(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F2: towards what only the prompt with its context says."""
    question = options.prompt_without_context
    if question is None:
        raise DecodingError(
            "context_aware_alpha needs prompt_without_context: the question alone"
        )
    parts = [Part(model, (None, negative_opening(model, prompts, question, options)))]
    return guided(parts, formulas.context_aware, options.context_aware_alpha)


def contrastive(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
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


def layers(model: Any, prompts: Prompts, options: GenerationConfig) -> Dola:
    """F5: the last layer against its early ones."""
    if not hasattr(model, "layer_logits"):
        raise DecodingError(
            "dola_layers needs a plain model: its layers cannot be seen through "
            "another guidance"
        )
    return Dola(model, options.dola_layers)


def experts(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F6, DExperts: steered by an expert and an anti-expert."""
    if options.anti_expert_model is None:
        raise DecodingError("expert_model needs anti_expert_model beside it")
    parts = [Part(model), Part(options.expert_model), Part(options.anti_expert_model)]
    return guided(parts, formulas.dexperts, options.dexperts_alpha)


def ensemble(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
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
    combine: Callable = formulas.product
    if options.ensemble == "mixture":
        if abs(sum(weights) - 1) > 1e-6:
            raise DecodingError("ensemble_weights of a mixture must sum to 1")
        combine = formulas.mixture
    return Guided([*map(Part, models)], lambda z: combine(z, tuple(weights)))


def anti_lm(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F6, anti-LM: away from what is likely without the prompt, or elsewhere."""
    if options.anti_lm_model is not None:
        parts = [Part(model), Part(options.anti_lm_model)]
    else:
        parts = [Part(model, (None, negative_opening(model, prompts, None, options)))]
    return guided(parts, formulas.anti_lm, options.anti_lm_weight)


def guided(parts: Sequence[Part], formula: Callable, *settings: float) -> Guided:
    """The model of a formula of each reading's logits and these settings."""
    return Guided(parts, lambda z: formula(*z, *settings))


def negative_opening(
    model: Any, prompts: Prompts, negative: Any, options: GenerationConfig
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
    rows, single = model._prompts(negative)
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
