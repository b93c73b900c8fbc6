"""Every pair of guidance, search, drafter and constraint works, or is refused.

What works: a row in a batch is the row alone, a drafter or a search that changes
nothing writes what plain decoding writes, and a constraint holds. What is refused is
refused before the first step, in one sentence, and stands in the table below.
"""

import json
import re
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from helpers import TINY, shapes_unchecked, unit_tensors

from npgpt import GPT2, DecodingError
from npgpt.storage.checkpoint import from_tensors


class Pieces:
    """A tokenizer of letters and pieces; id 0 ends a text."""

    pieces = (
        *'abcdefgh(){}":,1 ',
        *("ab", "bc", "(a", "b)", "cd", '{"', '":', "aa", "((", "))", "b(", "gh"),
        *('"a', "12", "1}", " a", "ba", "ca", "()", "dd", "e ", "fe"),
    )
    vocab_size = 40

    def special_ids(self):
        return {0}

    def token_bytes(self, id, first=False, last=False):
        return self.pieces[id - 1].encode() if id else b"<end>"

    def encode(self, text):
        return [1 + self.pieces.index(letter) for letter in text]

    def decode(self, ids, skip_special_tokens=False):
        return b"".join(map(self.token_bytes, ids)).decode()

    def stream(self, after=()):
        return self

    def push(self, id):
        return self.token_bytes(id).decode()

    def flush(self):
        return ""


PROMPTS = [[5, 9, 5, 9, 5], [1, 2], [3, 4, 5, 6, 7, 8, 3, 4]]
NEGATIVE = [[7, 7, 8], [2], [9]]
OF_PROMPTS = ("negative_prompt", "prompt_without_context")
NEW = 6


@pytest.fixture(scope="module")
def models():
    config, tokenizer = replace(TINY, eos_token_id=0), Pieces()
    assert len(tokenizer.pieces) == 39
    found = []
    for seed in (0, 5, 6):
        weights = unit_tensors(config, seed)
        weights["wte.weight"] *= np.float32(0.2)  # flat laws: all tokens are probable
        found.append(GPT2(from_tensors(config, weights), dtype="float64"))
        found[-1].tokenizer = tokenizer
    with shapes_unchecked():
        yield found


# "second" and "third" stand for models
GUIDANCE = {
    "negative": dict(guidance_scale=1.7, negative_prompt=NEGATIVE),
    "no prompt": dict(guidance_scale=1.7),
    "aware": dict(context_aware_alpha=0.5, prompt_without_context=NEGATIVE),
    "contrastive": dict(amateur_model="second", contrastive_alpha=0.01),
    "dola": dict(dola_layers=[0, 1]),
    "experts": dict(expert_model="second", anti_expert_model="third"),
    "ensemble": dict(ensemble_models="second"),
    "anti-LM": dict(anti_lm_weight=0.4),
}
DRAFTERS = {
    "assistant": dict(assistant_model="second", num_assistant_tokens=3),
    "tree": dict(assistant_model="second", assistant_tree=[3, 2]),
    "early exit": dict(assistant_early_exit=1, num_assistant_tokens=3),
    "lookup": dict(prompt_lookup_num_tokens=3),
    "n-grams": dict(ngram_cache_num_tokens=3),
    "Jacobi": dict(jacobi_num_tokens=3),
    "lookahead": dict(lookahead_window=2, lookahead_ngram=3),
}
SAMPLED = dict(do_sample=True, seed=4)
SEARCHES = {
    "beams": dict(num_beams=3),
    "drawn beams": dict(num_beams=3, **SAMPLED),
    "groups": dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    "stochastic": dict(num_beams=3, stochastic_beams=True, **SAMPLED),
    "words": dict(num_beams=3, force_words_ids=[[1]]),
    "contrastive search": dict(penalty_alpha=0.5, top_k=3),
    "power": dict(power_alpha=2.0, power_block=4, power_steps=2, **SAMPLED),
    "rejection": dict(exact_constraint="rejection", exact_rounds=500, **SAMPLED),
    "asap": dict(exact_constraint="asap", exact_rounds=30, **SAMPLED),
    "smc": dict(exact_constraint="smc", **SAMPLED),
    "best of": dict(best_of=3, **SAMPLED),
    "branches": dict(cot_branches=2),
    "phrases": dict(banned_strings=["zz"]),
    "sampled phrases": dict(banned_strings=["zz"], **SAMPLED),
}
SENTENCE = 'root ::= "(" root ")" | "ab" | "bcd"'
CONSTRAINTS = {
    "regex": dict(regex="a(b|c)*[de]"),
    "in time": dict(regex="(ab|ba){2,}(c|gh)", finish_in_time=True),
    "sentence in time": dict(grammar=SENTENCE, finish_in_time=True),
    "choice": dict(choice=["ab", "abc", "cab", "ee"]),
    "grammar": dict(grammar='root ::= "(" root ")" | "a" | "bc"'),
    "lazy": dict(grammar='root ::= "(" [ab] ")"', trigger_words=["("]),
    "schema": dict(
        json_schema={
            "type": "object",
            "properties": {"a": {"enum": [1, 12]}},
            "required": ["a"],
            "additionalProperties": False,
        }
    ),
    "function": dict(prefix_allowed_tokens_fn=lambda row, ids: range(9)),
    "healing": dict(token_healing=True),
    "no end": dict(choice=["ab", "cab", "ee"], eos_token_id=[]),
}


def needs(name):
    if "grammar" in BASES[name] or "json_schema" in BASES[name]:
        pytest.importorskip("llguidance")


def nested(text, inner=("a", "bc")):
    while text[:1] == "(" and text[-1:] == ")":
        text = text[1:-1]
    return text in inner


HOLDS = {  # of a text that has ended
    "sentence in time": lambda text: nested(text, ("ab", "bcd")),
    "regex": lambda text: re.fullmatch("a(b|c)*[de]", text),
    "in time": lambda text: re.fullmatch("(ab|ba){2,}(c|gh)", text),
    "choice": lambda text: text in ("ab", "abc", "cab", "ee"),
    "grammar": nested,
    "lazy": lambda text: "(" not in text or re.search(r"\([ab]\)$", text),
    "no end": lambda text: text in ("ab", "cab", "ee"),
    "schema": lambda text: json.loads(text)["a"] in (1, 12),
}


CUTS = ("contrastive", "dola")  # guidance that removes what is not plausible
EXACT = [name for name, options in SEARCHES.items() if "exact_constraint" in options]
WHOLE = [name for name in SEARCHES if name not in EXACT and "phrases" not in name]
REFUSED = {
    *product(["healing"], [*DRAFTERS, *WHOLE]),
    *product(["none", "healing"], EXACT),  # no constraint of the whole text
    *product(GUIDANCE, ["early exit"]),
    *product(["dola"], ["tree", "lookahead", "contrastive search"]),
    *product(["negative", "no prompt", "aware", "contrastive"], ["dola"]),
}
LATE = (  # what only the texts tell: no allowed token is plausible, or none is drawn
    "every token has been removed",
    "exact_constraint: no",
)


def write(models, prompts, options, i=None):
    """The ids and the texts, or the sentence that refuses them, before a step."""
    names = {"second": models[1], "third": models[2]}
    given = {
        k: names[v] if isinstance(v, str) and v in names else v
        for k, v in options.items()
    }
    if i is not None:
        given = {k: v[i] if k in OF_PROMPTS else v for k, v in given.items()}
    try:
        models[0].stream(prompts, max_new_tokens=NEW, **given)
    except DecodingError as error:
        return f"refused: {error}"
    try:
        found = models[0].generate(prompts, max_new_tokens=NEW, **given)
    except DecodingError as error:
        return str(error)
    return found if isinstance(found, list) else [found]


def ids(found):
    return found if isinstance(found, str) else [text.ids for text in found]


def check(models, names, options, plain=None):
    """Look at the texts of this setting; whether it was refused before the first."""
    found = write(models, PROMPTS, options)
    if isinstance(found, str):
        assert "\n" not in found
        if found.startswith("refused"):
            return True
        assert found.startswith(LATE), options
        assert {*CUTS, *EXACT}.intersection(names), options
        found = []
    for i, text in enumerate(found):
        alone = write(models, PROMPTS[i], options, i)
        assert ids(alone) == [text.ids], (options, i)
        whole = text.finish_reason != "length"
        for name in (n for n in HOLDS if n in names and (whole or "in time" in n)):
            assert HOLDS[name](text.text), (options, text)
    if plain is not None and found:
        assert ids(found) == ids(write(models, PROMPTS, options | plain)), options
    return False


BASES = {"none": {}, **GUIDANCE, **CONSTRAINTS}
OFF = dict.fromkeys(k for options in DRAFTERS.values() for k in options)


@pytest.mark.parametrize("name", BASES)
def test_drafters_write_what_plain_decoding_writes(models, name):
    """Greedy, and where a draft is compared with the draws of plain sampling."""
    needs(name)
    for drafter, options in DRAFTERS.items():
        told = drafter in ("assistant", "tree", "early exit")
        matched = SAMPLED | ({"verification": "match"} if told else {})
        ways = [({}, OFF), (matched, OFF | {"verification": None})]
        for how, plain in [*ways, (SAMPLED, None)] if told else ways:
            refused = check(models, {name, drafter}, BASES[name] | options | how, plain)
            assert refused == ((name, drafter) in REFUSED), drafter


@pytest.mark.parametrize("name", BASES)
def test_searches(models, name):
    needs(name)
    for search, options in SEARCHES.items():
        one = {"regex": "[^z]*"} if search in EXACT and name in GUIDANCE else {}
        plain = {"banned_strings": None} if "phrases" in search else None
        refused = check(models, {name, search}, BASES[name] | options | one, plain)
        assert refused == ((name, search) in REFUSED), search


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance_with_constraints(models, name):
    for other, options in CONSTRAINTS.items():
        needs(other)
        for how in ({}, SAMPLED):
            assert not check(models, {name, other}, GUIDANCE[name] | options | how)


@pytest.mark.parametrize("pair", [*combinations(GUIDANCE, 2)], ids="+".join)
def test_two_guidances(models, pair):
    both = GUIDANCE[pair[0]] | GUIDANCE[pair[1]]
    for loop in ("none", "beams", "contrastive search", "lookahead", "lookup"):
        options = both | (DRAFTERS | SEARCHES).get(loop, {})
        plain = OFF if loop in DRAFTERS else None
        refused = check(models, {*pair}, options, plain)
        apart = {pair, *((one, loop) for one in pair)}
        assert refused == bool(apart & REFUSED), loop
