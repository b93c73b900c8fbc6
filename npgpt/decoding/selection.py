"""Which selector takes the token, and the state that it carries from token to token.

A selector's state is a plain value that the row holds: a beam copies it with the row,
and a search that goes back puts the old one back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.catalogue import strategy
from npgpt.decoding.chain import leading, short
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context

State = Any

SOURCES: dict[str, Callable[..., Any]] = {  # what a selector's arguments are called
    "z": lambda ids, z, c: z,
    "ids": lambda ids, z, c: ids,
    "context": lambda ids, z, c: c,
    "step": lambda ids, z, c: c.step,
    "u": lambda ids, z, c: c.uniform(),
    "us": lambda ids, z, c: c.uniforms(len(z)),
}


class Selector(NamedTuple):
    """How tokens are taken: its name, its setting, its first state, and the function.

    `choose(ids, z, context, state)` returns the token and the next state.
    """

    name: str
    setting: str
    start: Callable[[Context], State]
    choose: Callable[[Any, np.ndarray, Context, State], tuple[int, State]]

    def __str__(self) -> str:
        return f"{self.name}({self.setting})" if self.setting else self.name


@strategy(
    "A7", "feedback selectors", kind="part", example={"do_sample": True, "mirostat": 2}
)
def build_selector(options: GenerationConfig) -> Selector:
    """A selector with a memory takes the token itself: (z, u, state) -> (token, state).

    Mirostat and adaptive-p (C15, C16, C17) have one. It is built, as all others are,
    from the entry of the strategy that these options ask for.

    >>> print(build_selector(GenerationConfig(do_sample=True, mirostat=2)))
    mirostat_v2(5.0, 0.1)
    """
    active = list(options.active("selector"))
    chosen = ([s for s in active if not s.default] or active)[-1]
    function, start = chosen.call or chosen.function, chosen.start
    names, _ = leading(function, SOURCES)
    values = [getattr(options, name) for name in chosen.passed]

    def choose(
        ids: Any, z: np.ndarray, context: Context, state: State
    ) -> tuple[int, State]:
        given = [SOURCES[name](ids, z, context) for name in names]
        if start is None:
            return function(*given, *values), state
        return function(*given, state, *values)

    return Selector(
        chosen.chain_name,
        ", ".join(map(short, values)),
        lambda context: None if start is None else start(context, *values),
        choose,
    )
