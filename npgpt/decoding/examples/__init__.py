"""Worked examples: every strategy of the catalogue on five words, computed.

`npgpt strategies NAME` prints them. What they show comes from the strategies' own
functions, on a model of five words (npgpt.decoding.examples.five).
"""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.examples import show
from npgpt.decoding.options import GenerationConfig
from npgpt.errors import DecodingError


def worked_example(strategy: Strategy) -> str:
    """A strategy on five words: its setting, and a table or what it writes.

    >>> from npgpt.decoding.catalogue import find
    >>> print(worked_example(find("top_k")).splitlines()[-1])
      <end>     0.100   0.000  -
    """
    try:
        return f"Example: {_shown(strategy)}"
    except DecodingError as error:  # what it needs is an extra
        return f"Example: {error}"


def _shown(strategy: Strategy) -> str:
    setting = strategy.example or {}
    if callable(setting):
        return setting(show)
    if strategy.kind == "rule":
        return show.rule(setting)
    if strategy.kind == "after":
        return show.texts(strategy.function, setting)
    if strategy.kind == "selector":
        return show.selector(setting)
    if any(GenerationConfig(**show.made(setting)).active("guidance")):
        return show.guidance(setting)
    return show.writes(setting, strategy.name)
