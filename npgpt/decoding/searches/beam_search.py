"""The beam searches as a strategy: (model, prompts, options) -> the best texts.

Which rule the beams follow depends on the options; npgpt.decoding.searches.beam has the
loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step
from npgpt.decoding.searches.beam import BeamSearch, run_beams
from npgpt.decoding.searches.constrained_beam import ConstrainedBeamSearch
from npgpt.decoding.searches.diverse_beam import DiverseBeamSearch
from npgpt.decoding.searches.hypotheses import steps_of
from npgpt.decoding.searches.stochastic_beam import StochasticBeamSearch
from npgpt.errors import DecodingError

KINDS = {  # the option that asks for it
    "num_beam_groups": DiverseBeamSearch,
    "stochastic_beams": StochasticBeamSearch,
    "force_words_ids": ConstrainedBeamSearch,
    "patience": BeamSearch,
}


@strategy("G1", "beam search", kind="search", explains=BeamSearch)
@parameter("num_beams", 1, "Texts in the making; 1 is off.", 1)
@parameter("length_penalty", 1.0, "Exponent of the length by which a score is divided.")
@parameter(
    "early_stopping",
    (False, True, "never"),
    "When to stop: a heuristic, at once, or never too early.",
)
@fields(deterministic=True)
@example(num_beams=2)
def beam_search(job: Job) -> Iterator[Step]:
    """Beam search of the kind that the options ask for; the best texts first."""
    job.check_search("a beam search")
    job.check_selector("a beam search")
    check_beams(job.options)
    return _steps(job)


def _steps(job: Job) -> Iterator[Step]:
    if not job.options.max_new_tokens:
        return
    n, rows = job.options.num_return_sequences, job.rows()
    search = next((KINDS[k] for k in KINDS if job.options.is_set(k)), BeamSearch)
    searches = [search(job, row) for row in rows[::n]]
    run_beams(job, searches)
    texts = [search.results()[:n] for search in searches]
    for i, row in enumerate(rows):
        found = texts[i // n]
        if len(found) < n:
            raise DecodingError(
                f"num_return_sequences is {n}, but only {len(found)} texts are possible"
            )
        yield from steps_of(row, found[i % n])


def check_beams(options: GenerationConfig) -> None:
    """Raise DecodingError for beam options that contradict each other."""
    o = options
    kinds = [name for name in KINDS if o.is_set(name)]
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
