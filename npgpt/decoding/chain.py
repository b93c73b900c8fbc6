"""The chain: which rules run on the logits, in which order, and what they print as.

An order is a list of element names. "hf" (the default) is transformers 5.23's:
processors, the user's own, then for sampling temperature and truncation, and last the
watermark. "llama.cpp" and "vllm" are those systems' orders; each is completed with what
that system lacks. "penalties;dry;top_k;temperature" is any order. In such a chain bans,
forced tokens and constraints need no mention: those left out come first. Any other rule
that is asked for and has no place in the chain is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.catalogue import STRATEGIES
from npgpt.decoding.catalogue.entry import Strategy, resolve
from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.decoding.randomness import PROCESSOR
from npgpt.decoding.rules.base import Context, Rule
from npgpt.errors import DecodingError

FIRST = ("remove_invalid", "logit_bias", "sequence_bias")
BANS = (  # Hugging Face's order; what it lacks stands beside its kin
    "bad_words", "bad_words_text", "min_length", "min_new_tokens", "allowed_tokens",
    "prefix_allowed_tokens", "token_healing", "choice", "regex",
    "json_schema", "grammar", "forced_bos",
    "forced_eos", "length_decay", "suppress_tokens", "begin_suppress_tokens",
    "ignore_eos",
)  # fmt: skip
PENALTIES = (
    "encoder_repetition_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decoding",
)
NGRAMS = ("no_repeat_ngram", "encoder_no_repeat_ngram", "dry")
LAST = ("skew", "fsd", "watermark", "renormalize")

ORDERS = {
    "hf": (
        *FIRST, *PENALTIES, *NGRAMS, *BANS, "custom", "temperature", "quadratic",
        "top_n_sigma", "top_h", "top_k", "tfs", "top_p", "top_a", "min_p", "typical",
        "epsilon", "eta", "p_less", "xtc", *LAST,
    ),
    "llama.cpp": (
        *FIRST, *BANS, "custom", *PENALTIES, *NGRAMS, "top_n_sigma", "top_h", "top_k",
        "tfs", "typical", "top_p", "top_a", "min_p", "epsilon", "eta", "p_less", "xtc",
        "temperature", "quadratic", *LAST,
    ),
    "vllm": (
        "remove_invalid", "allowed_tokens", "bad_words", "bad_words_text",
        *(name for name in BANS
          if name not in ("allowed_tokens", "bad_words", "bad_words_text")),
        "custom", "logit_bias", "sequence_bias", *PENALTIES, *NGRAMS, "temperature",
        "quadratic", "top_n_sigma", "top_h", "min_p", "top_k", "tfs", "top_p", "top_a",
        "typical", "epsilon", "eta", "p_less", "xtc", *LAST,
    ),
}  # fmt: skip

ALIASES = {  # llama.cpp's names of what is called otherwise here, or is several
    "penalties": ("repetition_penalty", "presence_penalty", "frequency_penalty"),
    "typ_p": ("typical",), "typical_p": ("typical",), "temp": ("temperature",),
    "temp_ext": ("temperature",), "dynatemp": ("temperature",),
    "top_nsigma": ("top_n_sigma",), "smoothing": ("quadratic",),
    "no_repeat_ngram_size": ("no_repeat_ngram",), "tail_free": ("tfs",),
}  # fmt: skip
IMPLIED = (*FIRST, *BANS, "custom")


@dataclass(frozen=True)
class Setup:
    """What the rules of a chain are bound to besides the options."""

    eos: tuple[int, ...] = ()
    tokenizer: Any = None
    vocab_size: int | None = None
    options: GenerationConfig | None = None


SOURCES: dict[str, Callable[..., Any]] = {  # what a rule's function can ask for
    "z": lambda ids, z, c, setup: z,
    "ids": lambda ids, z, c, setup: ids,
    "prompt": lambda ids, z, c, setup: ids[: c.prompt_length],
    "generated": lambda ids, z, c, setup: ids[c.prompt_length :],
    "window": lambda ids, z, c, setup: _last(ids, setup.options.repeat_last_n),
    "counted": lambda ids, z, c, setup: _counted(ids, c, setup.options),
    "context": lambda ids, z, c, setup: c,
    "eos": lambda ids, z, c, setup: setup.eos,
    "u": lambda ids, z, c, setup: c.uniform(PROCESSOR),
}


def _last(ids: Sequence[int], n: int) -> Sequence[int]:
    return ids if n < 0 else ids[len(ids) - min(n, len(ids)) :]


def _counted(ids: Sequence[int], c: Context, options: GenerationConfig) -> Sequence:
    if options.penalties_ignore_prompt:
        ids = ids[c.prompt_length :]
    return _last(ids, options.repeat_last_n)


def parse_order(chain: str) -> tuple[str, ...]:
    """The element names of a preset, or of names joined by ";" or ",".

    >>> parse_order("penalties; top_k; temp")[-4:]
    ('frequency_penalty', 'top_k', 'temperature', 'watermark')
    """
    if chain in ORDERS:
        return ORDERS[chain]
    names = [name.strip() for name in chain.replace(",", ";").split(";")]
    order = [x for name in names if name for x in ALIASES.get(name, (name,))]
    for name in order:
        if name not in ORDERS["hf"]:
            raise DecodingError(
                f"no rule of a chain is called {name!r}; presets are "
                f"{', '.join(ORDERS)}, rules {', '.join(ORDERS['hf'])}"
            )
    left_out = [name for name in IMPLIED if name not in order]
    return (*left_out, *order, *(x for x in ("watermark",) if x not in order))


def build_chain(
    options: GenerationConfig,
    eos_token_ids: Sequence[int] = (),
    tokenizer: Any = None,
    vocab_size: int | None = None,
) -> list[Rule]:
    """The rules that these options ask for, in order.

    >>> options = GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95)
    >>> print(*build_chain(options))
    temperature(0.8) top_p(0.95)
    >>> print(*build_chain(options.but(chain="llama.cpp")))
    top_p(0.95) temperature(0.8)
    """
    setup = Setup(tuple(eos_token_ids), tokenizer, vocab_size, options)
    order = parse_order(options.chain)
    active = _active(options)
    for element, strategy in active.items():
        if element not in order:
            raise DecodingError(
                f"{strategy.switched_by} is set, but the chain {options.chain!r} has "
                f"no {element}"
            )
    chain = []
    for element in order:
        if element in active:
            chain.append(bind(active[element], setup))
        elif element == "custom":
            chain += [
                Rule(getattr(function, "__name__", "custom"), "", function)
                for function in options.logits_processor
            ]
    return chain


def _active(options: GenerationConfig) -> dict[str, Strategy]:
    """The strategy in charge of each element of the chain."""
    taken = {name for s in STRATEGIES if options.is_on(s) for name in s.uses}
    active: dict[str, Strategy] = {}
    for strategy in options.active("rule"):
        if strategy.switched_by in taken:
            continue  # a search has given this parameter its own meaning
        if strategy.sampling and options.greedy:
            continue  # temperature 0: the top token stays the top token
        if strategy.element not in active or strategy.replaces:
            active[strategy.element] = strategy
    return active


def bind(strategy: Strategy, setup: Setup) -> Rule:
    """The rule of a strategy with these options: its function and its settings."""
    options = setup.options
    values = [getattr(options, name) for name in strategy.passed]
    for name, value in zip(strategy.passed, values, strict=True):
        check_ids(name, value, setup.vocab_size)
    settings = ", ".join(
        _short(value)
        for name, value in zip(strategy.passed, values, strict=True)
        if name == strategy.switched_by or value != OPTIONS[name].default
    )
    if strategy.prepare:
        values = [resolve(strategy.prepare)(*values, setup)]
    function = resolve(strategy.function)
    sources = [SOURCES[name] for name in strategy.takes.split()]

    def apply(ids: Sequence[int], z: np.ndarray, context: Context) -> np.ndarray:
        return function(*(get(ids, z, context, setup) for get in sources), *values)

    return Rule(strategy.element, settings, apply)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())  # one line, whatever a grammar has
    return text if len(text) <= 40 else text[:37] + "..."


def check_ids(name: str, value: Any, vocab_size: int | None) -> None:
    """Raise DecodingError where an option names an id beyond the vocabulary."""
    if vocab_size is None:
        return
    kind = OPTIONS[name].kind
    if kind == "ids":
        ids = value or ()
    elif kind == "phrases":
        ids = [id for phrase in value for id in phrase]
    elif kind == "bias":
        ids = list(value)
    elif kind == "sequence_bias":
        ids = [id for phrase, _ in value for id in phrase]
    elif name.endswith("token_id"):
        ids = [value]
    else:
        return
    if name != "synthid_keys" and max(ids, default=0) >= vocab_size:
        raise DecodingError(
            f"{name}: {max(ids)} is not in the vocabulary, 0 to {vocab_size - 1}"
        )


def run_chain(
    chain: Sequence[Rule], ids: Sequence[int], z: np.ndarray, context: Context
) -> np.ndarray:
    """The logits after every rule of the chain."""
    for rule in chain:
        z = rule.apply(ids, z, context)
    return z
