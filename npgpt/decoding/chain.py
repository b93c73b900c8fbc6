"""The chain: which rules run on the logits, in which order, and what they print as.

An order is a list of rules by name. "hf" (the default) is transformers 5.23's:
processors, the user's own, then for sampling temperature and truncation, and last the
watermark. "llama.cpp" and "vllm" are those systems' orders; each is completed with what
that system lacks. "penalties;dry;top_k;temperature" is any order. In such a chain bans,
forced tokens and constraints need no mention: those left out come first. Any other rule
that is asked for and has no place in the chain is an error.
"""

from __future__ import annotations

import inspect
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npgpt.decoding.callbacks import named, processor
from npgpt.decoding.catalogue import strategies
from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.catalogue.kinds import KINDS
from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.decoding.randomness import PROCESSOR
from npgpt.decoding.rules.base import Context, Rule
from npgpt.errors import DecodingError
from npgpt.interface import Tokens
from npgpt.support.hints import meant

# Stages; the rules of each by their rank, as their entries have it.
ORDERS = {
    "hf": "invalid bias penalty ngram ban custom temperature truncation "
    "last watermark end",
    "llama.cpp": "invalid bias ban custom penalty ngram truncation temperature "
    "last watermark end",
    "vllm": "invalid ban custom bias penalty ngram temperature truncation "
    "last watermark end",
}
BEFORE = ("invalid", "bias", "ban", "custom")  # a chain need not name these
BEHIND = ("watermark",)  # nor these
# Selectors that divide one distribution among the sequences: to be one, what a rule
# draws for it has to be drawn once.
DIVIDED = ("arithmetic", "without_replacement")


@dataclass(frozen=True)
class Setup:
    """What the rules of a chain are bound to besides the options."""

    eos: tuple[int, ...] = ()
    tokenizer: Tokens | None = None
    vocab_size: int | None = None
    options: GenerationConfig | None = None


SOURCES: dict[str, Callable[..., Any]] = {  # what a rule's arguments are called
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


def _counted(
    ids: Sequence[int], c: Context, options: GenerationConfig
) -> Sequence[int]:
    if options.penalties_ignore_prompt:
        ids = ids[c.prompt_length :]
    return _last(ids, options.repeat_last_n)


def preset(system: str, stages: Sequence[str] = ()) -> tuple[str, ...]:
    """The rules of a system's order, or of some stages of it.

    >>> preset("llama.cpp", ["temperature"])
    ('temperature', 'quadratic')
    """
    order = ORDERS[system].split()
    places: dict[str, tuple[str, float]] = {"custom": ("custom", 0)}
    for s in strategies():
        if s.kind == "rule":  # of those that share a name the first one has the place
            place = (s.stage, s.ranks.get(system, s.rank))
            places.setdefault(s.chain_name, place)
    names = [name for name, (stage, _) in places.items() if stage in (stages or order)]
    names.sort(key=lambda name: (order.index(places[name][0]), places[name][1]))
    return tuple(names)


def parse_order(chain: str) -> tuple[str, ...]:
    """The rules of a preset, or those whose names are joined by ";" or ",".

    A name may be llama.cpp's, and stand for several rules.

    >>> parse_order("penalties; top_k; temp")[-4:]
    ('frequency_penalty', 'top_k', 'temperature', 'watermark')
    """
    if chain in ORDERS:
        return preset(chain)
    every, known, order = preset("hf"), defaultdict(set), []
    for s in strategies():
        if s.kind == "rule":
            for name in (*s.aliases, s.switched_by, s.function.__name__):
                known[name].add(s.chain_name)
    known |= {name: {name} for name in every}
    for name in filter(None, map(str.strip, chain.replace(",", ";").split(";"))):
        if name not in known:
            raise DecodingError(
                f"no rule of a chain is called {name!r}; "
                f"{meant(name, [*ORDERS, *known])}presets are "
                f"{', '.join(ORDERS)}, rules {', '.join(every)}"
            )
        order += sorted(known[name], key=every.index)
    left_out = [name for name in preset("hf", BEFORE) if name not in order]
    behind = [name for name in preset("hf", BEHIND) if name not in order]
    return (*left_out, *order, *behind)


def build_chain(
    options: GenerationConfig,
    eos_token_ids: Sequence[int] = (),
    tokenizer: Tokens | None = None,
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
    active = _active(options)
    order = parse_order(options.chain)
    for name, strategy in active.items():
        if name not in order:
            raise DecodingError(
                f"{strategy.switched_by} is set, but the chain {options.chain!r} has "
                f"no {name}"
            )
    chain = []
    for name in order:
        if name in active:
            chain.append(bind(active[name], setup))
        elif name == "custom":
            chain += [
                Rule(named(function), "", processor(function))
                for function in options.logits_processor
            ]
    return [once(rule) for rule in chain] if options.selector in DIVIDED else chain


def once(rule: Rule) -> Rule:
    """The rule with random numbers that all sequences of a prompt share."""
    return rule._replace(
        apply=lambda ids, z, context: rule.apply(ids, z, replace(context, row=0))
    )


def _active(options: GenerationConfig) -> dict[str, Strategy]:
    """The strategy in charge of each element of the chain."""
    taken = {name for s in strategies() if options.is_on(s) for name in s.uses}
    active: dict[str, Strategy] = {}
    for strategy in options.active("rule"):
        if strategy.switched_by in taken:
            continue  # a search has given this parameter its own meaning
        if strategy.sampling and options.greedy:
            continue  # temperature 0: the top token stays the top token
        if strategy.chain_name not in active or strategy.replaces:
            active[strategy.chain_name] = strategy
    return active


def bind(strategy: Strategy, setup: Setup) -> Rule:
    """The rule of a strategy with these options: its function and its settings."""
    options = setup.options
    passed = {name: getattr(options, name) for name in strategy.passed}
    settings = []
    for name, value in passed.items():
        check_ids(name, value, setup.vocab_size)
        if name == strategy.switched_by or value != OPTIONS[name].default:
            settings.append(short(value))
    values = list(passed.values())
    if strategy.prepare:
        values = [strategy.prepare(*values, setup)]
    function = strategy.call or strategy.function
    names, n = leading(function, SOURCES)
    sources, values = [SOURCES[name] for name in names], values[:n]

    def apply(ids: Sequence[int], z: np.ndarray, context: Context) -> np.ndarray:
        return function(*(get(ids, z, context, setup) for get in sources), *values)

    def ends(ids: Sequence[int], context: Context) -> bool:
        assert strategy.ends
        return strategy.ends(ids[context.prompt_length :], context, *values)

    told = setup.eos and not (options and options.ignore_eos)
    own = None if told or strategy.ends is None else ends
    return Rule(strategy.chain_name, ", ".join(settings), apply, own)


def leading(
    function: Callable[..., Any], known: Mapping[str, Any]
) -> tuple[list[str], int]:
    """The first arguments of a function that have known names, and how many follow.

    >>> leading(lambda z, ids, alpha: z, SOURCES)
    (['z', 'ids'], 1)
    """
    names = inspect.signature(function).parameters
    first = list(itertools.takewhile(lambda name: name in known, names))
    return first, len(names) - len(first)


def short(value: Any) -> str:
    """A setting on one line, whatever a grammar has."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def check_ids(name: str, value: Any, vocab_size: int | None) -> None:
    """Raise DecodingError where an option names an id beyond the vocabulary."""
    ids = () if value is None else KINDS[OPTIONS[name].kind].ids(value)
    if vocab_size is not None and max(ids, default=0) >= vocab_size:
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
