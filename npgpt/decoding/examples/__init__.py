"""Worked examples: every strategy of the catalogue on five tokens, computed.

`npgpt strategies NAME` prints them. What they show comes from the strategies' own
functions, on a model of five words (npgpt.decoding.examples.five).
"""

from __future__ import annotations

from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.examples.drafts import DRAFTS
from npgpt.decoding.examples.rules import (
    ENDINGS,
    SETTINGS,
    chain_example,
    grammar_example,
    healing_example,
    invalid_example,
    regex_example,
)
from npgpt.decoding.examples.searches import SEARCHES
from npgpt.decoding.examples.selectors import SELECTORS, mirostat

OTHERS = {
    **SELECTORS, **SEARCHES, **DRAFTS, "inf and NaN removal": invalid_example,
    "regex": regex_example, "token healing": healing_example,
}  # fmt: skip


def worked_example(strategy: Strategy) -> str:
    """A strategy on five tokens: its setting, and a table or what it writes.

    >>> from npgpt.decoding.catalogue import find
    >>> print(worked_example(find("top_k")).splitlines()[-1])
      queen     0.050   0.000  -
    """
    if strategy.name in SETTINGS or strategy.name in ENDINGS:
        text = chain_example(strategy)
    elif strategy.code in ("C15", "C16"):
        text = mirostat(strategy)
    elif strategy.code in ("E13", "E14"):
        text = grammar_example(strategy)
    else:
        text = OTHERS[strategy.name]()
    return f"Example: {text}"
