"""The catalogue: every decoding strategy, one list a section, in the inventory's order.

Codes are stable names (C4 is min-p). What a parameter means and when it is an error
stands here and nowhere else; `npgpt strategies` prints it.
"""

from __future__ import annotations

from npgpt.decoding.catalogue import (
    constraints,
    guidance,
    repetition,
    reshaping,
    search,
    selection,
    speculative,
    truncation,
    watermarks,
)
from npgpt.decoding.catalogue.entry import Parameter, Strategy
from npgpt.errors import DecodingError

SECTIONS: dict[str, tuple[Strategy, ...]] = {
    "Choosing one token": selection.STRATEGIES,
    "Reshaping the distribution": reshaping.STRATEGIES,
    "Truncation": truncation.STRATEGIES,
    "Repetition": repetition.STRATEGIES,
    "Bias, bans and constraints": constraints.STRATEGIES,
    "Guidance and contrast": guidance.STRATEGIES,
    "Search over sequences": search.STRATEGIES,
    "Speculative decoding": speculative.STRATEGIES,
    "Watermarks": watermarks.STRATEGIES,
}

STRATEGIES: tuple[Strategy, ...] = tuple(
    strategy for section in SECTIONS.values() for strategy in section
)

PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for strategy in STRATEGIES
    for parameter in strategy.parameters
}


def find(name: str) -> Strategy:
    """The strategy with this code, name, function or parameter.

    >>> find("min_p").code, find("c4").name
    ('C4', 'min-p')
    """
    wanted = name.casefold().replace("_", "-")
    for of in (_names, _parameters, _function):
        for strategy in STRATEGIES:
            if wanted in (x.casefold().replace("_", "-") for x in of(strategy)):
                return strategy
    raise DecodingError(
        f"no decoding strategy is called {name!r}; `npgpt strategies` lists all"
    )


def _names(strategy: Strategy) -> list[str]:
    return [strategy.code, strategy.name]


def _function(strategy: Strategy) -> list[str]:
    return [strategy.function.rpartition(".")[2]]


def _parameters(strategy: Strategy) -> list[str]:
    return [parameter.name for parameter in strategy.parameters]
