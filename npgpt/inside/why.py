"""Why a number is what it is: its formula, its operands, their sum beside the number.

An explanation is computed from the recipe of the number (npgpt.inside.recipes) in
float64, from the operands that it lists, and compared with what the model computed. A
total that is not the sum of its terms cannot be shown: it is their sum.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.block import attention_scale
from npgpt.errors import InsideError
from npgpt.inside.derivatives import every
from npgpt.inside.explanation import Operand, Term, Why
from npgpt.inside.formula import Index, Letters, mass, operands, terms
from npgpt.inside.notation import written
from npgpt.inside.numbers import Numbers
from npgpt.inside.reading import Pass
from npgpt.inside.recipes import Bound
from npgpt.support.arguments import shown


def explain(numbers: Numbers, address: str) -> Why:
    """Why the number at an address is what it is."""
    one, name, index = numbers.at(address)
    bound = every(numbers.config).get(name)
    if bound is None or one not in numbers.passes:
        return _given(numbers, one, name, index)
    return _computed(numbers, one, bound, index)


def why(numbers: Numbers, address: str, depth: int = 1) -> Why | list[Why]:
    """The explanation of a number, or with a depth the whole chain below it."""
    if depth < 1:
        raise InsideError(f"depth must be at least 1, not {shown(depth)}")
    whys = chain(numbers, address, depth)
    return whys if depth > 1 else whys[0]


def chain(numbers: Numbers, address: str, depth: int) -> list[Why]:
    """The explanation, then that of the largest term's operand, and so on down.

    A term of parameters alone is passed over. It ends after so many, or at a token or a
    place.
    """
    whys = [explain(numbers, address)]
    while len(whys) < depth:
        below = [
            [one for one in term.operands if _leads_on(numbers, one.address)]
            for term in whys[-1].largest
        ]
        first = next((found for found in below if found), None)
        if first is None:
            break
        whys.append(explain(numbers, max(first, key=whys[-1].rank).address))
    return whys


def _leads_on(numbers: Numbers, address: str) -> bool:
    name = address.partition("[")[0]
    return name in ("token", "position") or name in every(numbers.config)


def _computed(numbers: Numbers, one: Pass, bound: Bound, index: Index) -> Why:
    letters = dict(zip(bound.letters, index, strict=True))
    here = View(numbers, one, bound.name)
    added = tuple(
        Term(term.value, _operands(numbers, one, term.operands))
        for term in terms(bound.node, letters, here)
    )
    recomputed = math.fsum(term.value for term in added)
    stored = numbers.value(one, bound.name, index)
    rounding = float(np.finfo(numbers.dtype).eps) * (8 + len(added) / 16)
    function = bound.function
    return Why(
        numbers.write(one, bound.name, index),
        stored,
        recomputed,
        rounding * mass(bound.node, letters, here),
        written(bound.short),
        written(bound.short, letters),
        function.__name__ if function is not None else "",
        doc_formula(function) if function is not None else "",
        _sentence(numbers, one, bound, letters),
        numbers.source(one, bound.name),
        _operands(numbers, one, operands(bound.node, letters, here)),
        added,
        numbers.path,
        numbers.dtype,
    )


def _given(numbers: Numbers, one: Pass, name: str, index: Index) -> Why:
    """A number that nobody computed: a token, a place, a parameter."""
    number = numbers.value(one, name, index)
    meaning = "A parameter: it was learned in training."
    if name == "token":
        meaning = f"The token {numbers.text(int(number))} of the prompt."
    elif name == "position":
        meaning = "The place of the token in its text."
    elif name in every(numbers.config):
        meaning = "It was in the cache before this trace began."
    address = numbers.write(one, name, index)
    itself = Operand(address, number)
    return Why(
        address,
        number,
        number,
        0.0,
        name,
        address,
        "",
        "",
        meaning,
        None,
        (itself,),
        (Term(number, (itself,)),),
        numbers.path,
    )


def _operands(numbers: Numbers, one: Pass, found: Sequence[Any]) -> tuple[Operand, ...]:
    """With their addresses; a constant is called by its name."""
    return tuple(
        Operand(numbers.write(one, o.name, o.at) if o.at else o.name, o.value)
        for o in found
        if o.name != "minus_infinity"
    )


def _sentence(
    numbers: Numbers, one: Pass, bound: Bound, letters: dict[str, int]
) -> str:
    """The meaning of a recipe with this number's tokens and axes in it."""
    if bound.name[:2] == "d.":
        index = [letters[letter] for letter in bound.letters]
        of = numbers.write(one, bound.name, index)[2:]
        return f"How fast the loss rises with {of}: its derivative."
    said: dict[str, Any] = dict(letters)
    for letter in "ts":
        if letter in letters:
            said[letter] = numbers.token(one, letters["b"], letters[letter])
    if "v" in said:
        said["v"] = numbers.text(letters["v"])
    return bound.meaning.format(**said)


def doc_formula(function: Any) -> str:
    """The formula in the first sentence of a function's docstring.

    >>> from npgpt.ops import softmax
    >>> doc_formula(softmax)
    'p_i = exp(x_i) / sum_j exp(x_j), over the last axis'
    """
    first = (inspect.getdoc(function) or "").split("\n\n")[0]
    sentence = re.split(r"\.(?= [A-Z(]|$)", " ".join(first.split()))[0]
    return sentence.partition(": ")[2] or sentence


class View:
    """Where the names of a recipe have values: in one reading of one trace."""

    def __init__(self, numbers: Numbers, one: Pass, name: str):
        self.numbers, self.one = numbers, one
        self.config = numbers.config
        self.name = name

    def read(self, name: str, index: Index) -> float:
        """A number of an array, perhaps of another reading."""
        return self.numbers.value(self.one, name, index)

    def constant(self, name: str) -> float:
        """D, C, the scale of attention, the norm's epsilon, minus infinity."""
        found = re.match(r"(?:d\.)?h\.(\d+)\.", self.name)
        layer = int(found[1]) if found else 0
        if name == "count":
            return float(self.one.count)
        known = {
            "D": float(self.config.head_dim),
            "C": float(self.config.n_embd),
            "epsilon": self.config.layer_norm_epsilon,
            "scale": attention_scale(self.config, layer),
            "minus_infinity": -math.inf,
        }
        return known[name]

    def size(self, letter: str, letters: Letters) -> int:
        """How long an axis is; of tokens, those of the row."""
        if letter in "stu":
            return self.one.end[letters["b"]]
        return self.numbers.sizes()[letter]

    def apply(self, function: str, value: float) -> float:
        """A function of one number: exp, sqrt, or the config's activation."""
        if function == "exp":
            return math.exp(value)
        if function == "sqrt":
            return math.sqrt(value)
        if function == "slope":  # training stands above: its table is found by name
            table = importlib.import_module("npgpt.training.backward_activations")
            slope = table.DERIVATIVES[self.config.activation_function]
            return float(slope(np.array(1.0), np.array(value)))
        activation = every(self.config)[self.name].function
        assert activation is not None
        return float(activation(np.array(value)))
