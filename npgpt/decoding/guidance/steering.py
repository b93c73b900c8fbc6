"""What the guidance options make of a model: one function an option.

Each takes (model, prompts, options) and returns a model with the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from npgpt.decoding.guidance import formulas
from npgpt.decoding.guidance.dola import Dola
from npgpt.decoding.guidance.guided import Guided, Part
from npgpt.decoding.options import GenerationConfig
from npgpt.errors import ContextOverflowError, DecodingError

Prompts = Sequence[Sequence[int]]


def classifier_free(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F1: away from the negative prompt, or from the prompt's last token alone."""
    scale = options.guidance_scale
    context = negative_context(model, prompts, options.negative_prompt, options)
    return Guided(
        [Part(model, (None, context))],
        lambda z: formulas.classifier_free(z[0], z[1], scale),
    )


def context_aware(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F2: towards what only the prompt with its context says."""
    alpha = options.context_aware_alpha
    if options.prompt_without_context is None:
        raise DecodingError(
            "context_aware_alpha needs prompt_without_context: the question alone"
        )
    context = negative_context(model, prompts, options.prompt_without_context, options)
    return Guided(
        [Part(model, (None, context))],
        lambda z: formulas.context_aware(z[0], z[1], alpha),
    )


def contrastive(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F3 and F4: an expert against a smaller amateur."""
    o = options
    if o.contrastive_beta:
        if o.is_set("amateur_temperature") or o.is_set("contrastive_coefficient"):
            raise DecodingError(
                "amateur_temperature and contrastive_coefficient belong to contrastive "
                "decoding without contrastive_beta"
            )
        alpha, beta = o.contrastive_alpha, o.contrastive_beta
        return Guided(
            [Part(model), Part(o.amateur_model)],
            lambda z: formulas.improved_contrastive(z[0], z[1], alpha, beta),
        )
    settings = (o.contrastive_alpha, o.amateur_temperature, o.contrastive_coefficient)
    return Guided(
        [Part(model), Part(o.amateur_model)],
        lambda z: formulas.contrastive(z[0], z[1], *settings),
    )


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
    alpha = options.dexperts_alpha
    if options.anti_expert_model is None:
        raise DecodingError("expert_model needs anti_expert_model beside it")
    return Guided(
        [Part(model), Part(options.expert_model), Part(options.anti_expert_model)],
        lambda z: formulas.dexperts(z[0], z[1], z[2], alpha),
    )


def ensemble(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F6, ensembles: a product or a mixture of models."""
    others = options.ensemble_models
    others = list(others) if isinstance(others, list | tuple) else [others]
    weights = options.ensemble_weights
    if weights is None:
        weights = [1 / (1 + len(others))] * (1 + len(others))
    if len(weights) != 1 + len(others):
        raise DecodingError(
            f"ensemble_weights must be {1 + len(others)} numbers, the model's own first"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise DecodingError("ensemble_weights must be positive numbers")
    combine: Callable = formulas.product
    if options.ensemble == "mixture":
        if abs(sum(weights) - 1) > 1e-6:
            raise DecodingError("ensemble_weights of a mixture must sum to 1")
        combine = formulas.mixture
    return Guided(
        [Part(model), *map(Part, others)], lambda z: combine(z, tuple(weights))
    )


def anti_lm(model: Any, prompts: Prompts, options: GenerationConfig) -> Guided:
    """F6, anti-LM: away from what is likely without the prompt, or elsewhere."""
    weight = options.anti_lm_weight
    if options.anti_lm_model is not None:
        parts = [Part(model), Part(options.anti_lm_model)]
    else:
        parts = [Part(model, (None, negative_context(model, prompts, None, options)))]
    return Guided(parts, lambda z: formulas.anti_lm(z[0], z[1], weight))


def negative_context(
    model: Any, prompts: Prompts, negative: Any, options: GenerationConfig
) -> Callable[[int, Sequence[int]], Sequence[int]]:
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
