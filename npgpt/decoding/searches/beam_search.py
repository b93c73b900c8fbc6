"""The beam searches as strategies: (model, prompts, options) -> Steps of the best
texts.

Which rule the beams follow depends on the options; npgpt.decoding.searches.beam has the
loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step
from npgpt.decoding.searches.beam import BeamSearch, run_beams
from npgpt.decoding.searches.constrained_beam import (
    ConstrainedBeamSearch,
    constraint_set,
)
from npgpt.decoding.searches.diverse_beam import DiverseBeamSearch
from npgpt.decoding.searches.hypotheses import Ends, check_search, steps_of
from npgpt.decoding.searches.stochastic_beam import StochasticBeamSearch
from npgpt.errors import DecodingError

Prompts = Sequence[Sequence[int]]


@strategy("G1", "beam search", kind="search", explains=BeamSearch)
@parameter("num_beams", 1, "Texts in the making; 1 is off.", 1)
@parameter("length_penalty", 1.0, "Exponent of the length by which a score is divided.")
@parameter(
    "early_stopping",
    (False, True, "never"),
    "When to stop: a heuristic, at once, or never too early.",
)
@example(num_beams=2)
def beam_search(
    model: Any, prompts: Prompts, options: GenerationConfig, cache: Any = None
) -> Iterator[Step]:
    """Beam search of the kind that the options ask for; the best texts first."""
    check_search(model, prompts, options, cache, "a beam search")
    check_beams(options)
    return _steps(model, prompts, options)


def _steps(model: Any, prompts: Prompts, options: GenerationConfig) -> Iterator[Step]:
    if not options.max_new_tokens:
        return
    n = options.num_return_sequences
    searches = [_search(model, prompt, options) for prompt in prompts]
    run_beams(model, prompts, searches, options)
    for i, (prompt, search) in enumerate(zip(prompts, searches, strict=True)):
        texts = search.results()
        if len(texts) < n:
            raise DecodingError(
                f"num_return_sequences is {n}, but only {len(texts)} texts are possible"
            )
        for j in range(n):
            yield from steps_of(i * n + j, prompt, texts[j], model, options, j)


def _search(model: Any, prompt: Sequence[int], options: GenerationConfig) -> Any:
    o = options
    ends = Ends(model, prompt, o)
    chain = build_chain(o, ends.eos, model.tokenizer, model.config.vocab_size)
    shared = (prompt, chain, o, ends, o.num_beams)
    if o.stochastic_beams:
        return StochasticBeamSearch(*shared)
    rules = {
        name: getattr(o, name)
        for name in ("length_penalty", "length_normalization", "early_stopping")
    }
    if o.num_beam_groups > 1:
        groups, penalty = o.num_beam_groups, o.diversity_penalty
        return DiverseBeamSearch(*shared, groups, penalty, rules)
    if o.force_words_ids:
        words = constraint_set(o.force_words_ids, model.config.vocab_size)
        return ConstrainedBeamSearch(*shared, **rules, words=words)
    return BeamSearch(*shared, **rules, patience=o.patience)


def check_beams(options: GenerationConfig) -> None:
    """Raise DecodingError for beam options that contradict each other."""
    o = options
    kinds = [
        name
        for name in (
            "num_beam_groups",
            "stochastic_beams",
            "force_words_ids",
            "patience",
        )
        if o.is_set(name)
    ]
    if o.num_beams == 1:
        raise DecodingError("a beam search needs num_beams of at least 2")
    if len(kinds) > 1:
        raise DecodingError(f"{' and '.join(kinds)} exclude each other")
    if o.num_return_sequences > o.num_beams:
        raise DecodingError(
            f"num_return_sequences {o.num_return_sequences} is more than num_beams "
            f"{o.num_beams}"
        )
    if kinds in (["num_beam_groups"], ["force_words_ids"]) and not o.greedy:
        raise DecodingError(f"{kinds[0]} does not go with do_sample=True")
    if o.num_beams % o.num_beam_groups:
        raise DecodingError(
            f"num_beams {o.num_beams} is not a multiple of num_beam_groups "
            f"{o.num_beam_groups}"
        )
    if o.num_beam_groups > 1 and not o.diversity_penalty:
        raise DecodingError(
            "num_beam_groups needs a diversity_penalty above 0, or all groups are alike"
        )
    if o.is_set("patience") and o.early_stopping is not True:
        raise DecodingError("patience needs early_stopping=True")
    for name in ("length_penalty", "length_normalization", "early_stopping"):
        if o.stochastic_beams and o.is_set(name):
            raise DecodingError(f"{name} changes nothing with stochastic_beams")
    if o.mirostat or o.is_set("adaptive_target") or o.is_set("selector"):
        raise DecodingError(
            "mirostat, adaptive_target and selector choose one token at a time; a beam "
            "search cannot use them"
        )
