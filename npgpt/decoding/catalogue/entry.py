"""What a catalogued strategy is: its function, its parameters and where it acts.

What it does, its formula and its source are read from the docstring of its function:
"<what it does>: <formula>. ... Source: <paper>." Nothing of a strategy is computed
here.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from npgpt.decoding.catalogue.kinds import Parameter

SECTIONS = {
    "A": "Choosing one token",
    "B": "Reshaping the distribution",
    "C": "Truncation",
    "D": "Repetition",
    "E": "Bias, bans and constraints",
    "F": "Guidance and contrast",
    "G": "Search over sequences",
    "H": "Speculative decoding",
    "I": "Watermarks",
}


@dataclass(frozen=True, eq=False)
class Strategy:
    """One decoding strategy.

    kind says where it acts. "rule": an element of the chain, z -> z. "selector": takes
    the token. "stopping": ends a row. "guidance": wraps the model, function(model,
    prompts, options) -> model. "search": owns the loop, function(job) -> iterator of
    Step (see npgpt.decoding.job). "after": works on finished text, as rerankers do.
    "part": of another strategy.

    It is on when the first parameter has any value but its default, or when an option
    has one value (`when`), or `on` says so. A rule stands in a chain in its stage, by
    its rank there: Hugging Face's, if `ranks` does not name another system's.

    The function of a rule or a selector is called with what its first arguments are
    called (see the SOURCES of chain and selection), then with the values of
    `parameters` and of `also`, which belong to others, as many as it takes; or with
    what `prepare` makes of those values once. `call` stands for a function with other
    arguments. A selector with `start` has a state: it is passed before the values, and
    comes back beside the token.
    """

    code: str  # of the inventory: its letter is the section
    name: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    kind: str = "rule"
    when: tuple[str, Any] | None = None
    on: Callable[[Any], bool] | None = None  # options -> whether it is asked for
    default: bool = False  # a selector that nobody has to ask for
    also: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()  # parameters of others that it takes over when it is on
    stage: str = "truncation"  # see chain.ORDERS
    rank: float = math.inf
    ranks: Mapping[str, float] = field(default_factory=dict)
    element: str = ""  # its name in a chain, if not the function's
    aliases: tuple[str, ...] = ()  # other systems' names of the element
    replaces: bool = False  # a rule of the same element
    call: Callable[..., Any] | None = None
    prepare: Callable[..., Any] | None = None
    start: Callable[..., Any] | None = None  # (context, *values) -> the first state
    sampling: bool = False  # changes nothing, or makes no sense, in greedy search
    deterministic: bool | None = None  # of a search or part: it draws nothing by itself
    keeps_top: bool = True  # the most probable token stays the most probable one
    constrains: bool = False  # the whole text has to be complete
    # (new ids, context, value) -> whether a constraint's text can go on no more
    ends: Callable[..., bool] | None = None
    check: Callable[[Any], None] | None = None  # raises what options cannot do together
    explains: Callable[..., Any] | None = (
        None  # has the formula, where `function` only asks it
    )
    example: Mapping[str, Any] | Callable[..., str] | None = None
    limit: float | None = None  # milliseconds promised for a row of 50,257 logits

    @property
    def section(self) -> str:
        """The title of the section that it stands in."""
        return SECTIONS[self.code[0]]

    @property
    def chain_name(self) -> str:
        """What a chain calls it."""
        return self.element or self.function.__name__

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of the options that its function is called with, in order."""
        names = (*(p.name for p in self.parameters), *self.also)
        return tuple(name for name in names if not self.when or name != self.when[0])

    @property
    def switched_by(self) -> str:
        """The parameter that turns it on; empty if something else does."""
        if self.when:
            return self.when[0]
        return self.parameters[0].name if self.parameters else ""

    @property
    def switch(self) -> str:
        """What turns it on: a parameter, or a parameter and its value."""
        return f"{self.when[0]}={self.when[1]}" if self.when else self.switched_by

    @property
    def doc(self) -> str:
        """The docstring that explains it."""
        return inspect.getdoc(self.explains or self.function) or ""

    @property
    def line(self) -> str:
        """What it does, in one line."""
        return f"{self._sentence[0]}."

    @property
    def formula(self) -> str:
        """Its formula: what follows the colon of the first sentence."""
        return self._sentence[1]

    @property
    def paper(self) -> str:
        """Where it comes from; empty where nobody in particular is named."""
        _, found, rest = self.doc.partition("Source")
        return _first_sentence(rest.partition(":")[2]) if found else ""

    @property
    def _sentence(self) -> tuple[str, str]:
        line, _, formula = _first_sentence(self.doc).partition(": ")
        return line, formula


def _first_sentence(text: str) -> str:
    """Up to the first full stop, or the end of the paragraph.

    >>> _first_sentence("What it does: p(. | x) >= 0.5. Source: A.")
    'What it does: p(. | x) >= 0.5'
    """
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z(]|$)", paragraph)[0]
