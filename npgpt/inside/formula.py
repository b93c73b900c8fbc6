"""Formulas as data: one line of text, from which a number is explained and recomputed.

    sum[d](q[b,h,t,d] * k[b,h,s,d]) * scale if sees[b,t,s] else -inf

is a Python expression over arrays, indexed by axis letters, and named constants; a name
of one small letter is an axis.
`sum[d](...)`, `mean[d](...)` and `max[d](...)` go over all of an axis. Nothing here
knows a model: where arrays and sizes come from is the caller's (npgpt.inside.trace).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol

Index = tuple[int, ...]
Node = tuple[Any, ...]  # (kind, ...): JSON, so that a page can compute it too
Letters = Mapping[str, int]

REDUCERS: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
}
_OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//",
    ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip


class Place(Protocol):
    """Where a formula's names and letters have values."""

    def read(self, name: str, index: Index) -> float:
        """A number of an array."""

    def constant(self, name: str) -> float:
        """The value of a name that is no array."""

    def size(self, letter: str, letters: Letters) -> int:
        """How long an axis is, here."""

    def apply(self, function: str, value: float) -> float:
        """A named function of one number."""


class Operand(NamedTuple):
    """A number that went in: of this array, at this index."""

    name: str
    at: Index
    value: float


class Term(NamedTuple):
    """One addend: its value, and the operands that it is made of."""

    value: float
    operands: tuple[Operand, ...]


@cache
def parse(text: str) -> Node:
    """The formula as nested tuples.

    >>> parse("sum[d](q[d] * 2)")
    ('sum', ('d',), ('*', ('at', 'q', (('letter', 'd'),)), ('number', 2)))
    """
    return _node(ast.parse(text, mode="eval").body)


def _node(x: ast.expr) -> Node:
    match x:
        case ast.Constant(value=value):
            return "number", value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return "*", ("number", -1), _node(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)], _node(left), _node(right)
        case ast.Call(func=ast.Subscript(value=ast.Name(id=reducer), slice=over)):
            names = over.elts if isinstance(over, ast.Tuple) else [over]
            letters = tuple(ast.unparse(name) for name in names)
            return reducer, letters, _node(x.args[0])
        case ast.Call(func=ast.Name(id=function), args=[argument]):
            return "call", function, _node(argument)
        case ast.Subscript(value=value, slice=index):
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            at = tuple(_node(part) for part in parts)
            return "at", ast.unparse(value), at
        case ast.Compare(left=left, ops=[ast.Lt()], comparators=[right]):
            return "<", _node(left), _node(right)
        case ast.IfExp(test=test, body=body, orelse=other):
            return "if", _node(test), _node(body), _node(other)
        case ast.Name(id=name) if len(name) == 1 and name.islower():
            return "letter", name
        case ast.Name(id=name):
            return "constant", name
    raise ValueError(f"a formula holds no {ast.unparse(x)}")


def value(node: Node, letters: Letters, place: Place) -> float:
    """The number that a formula gives for these letters, in float64."""
    match node:
        case "number", number:
            return float(number)
        case "constant", name:
            return place.constant(name)
        case "letter", name:
            return letters[name]
        case "at", name, at:
            return place.read(name, _index(at, letters, place))
        case "call", function, argument:
            return place.apply(function, value(argument, letters, place))
        case "if", test, body, other:
            chosen = body if value(test, letters, place) else other
            return value(chosen, letters, place)
        case reducer, tuple(over), body if reducer in REDUCERS:
            every = _every(over, letters, place)
            return REDUCERS[reducer]([value(body, one, place) for one in every])
        case operator, left, right:
            return _compute(
                operator, value(left, letters, place), value(right, letters, place)
            )
    raise ValueError(node)


def mass(node: Node, letters: Letters, place: Place) -> float:
    """What rounding errors of a formula are measured by: every sum of absolute values.

    A result is off by a few roundings of this, however much of it cancels.
    """

    def size(node: Node) -> float:
        return mass(node, letters, place)

    match node:
        case "call", "exp", argument:
            result = value(node, letters, place)
            return result * (1 + size(argument))
        case "call", _, argument:
            result = abs(value(node, letters, place))
            return result + (1 + result) * size(argument)
        case "if", test, body, other:
            return size(body if value(test, letters, place) else other)
        case reducer, tuple(over), body if reducer in REDUCERS:
            every = _every(over, letters, place)
            return REDUCERS[reducer]([mass(body, one, place) for one in every])
        case (("+" | "-"), left, right):
            return size(left) + size(right)
        case "*", left, right:
            return size(left) * size(right)
        case "/", left, right:
            divisor = abs(value(right, letters, place))
            return size(left) * size(right) / divisor**2
    alone = abs(value(node, letters, place))
    return alone if alone < math.inf else 0.0  # what is masked is masked exactly


def terms(node: Node, letters: Letters, place: Place) -> list[Term]:
    """What is added up, in the formula's order: their sum is its value."""
    match node:
        case "if", test, body, other:
            chosen = body if value(test, letters, place) else other
            return terms(chosen, letters, place)
        case "+", left, right:
            return [*terms(left, letters, place), *terms(right, letters, place)]
        case "-", left, right:
            minus = _times(-1.0, (), right, letters, place)
            return [*terms(left, letters, place), *minus]
        case "*" | "/" as operator, left, right if _adds(left) and not _adds(right):
            factor = value(right, letters, place)
            factor = factor if operator == "*" else 1 / factor
            read = tuple(operands(right, letters, place))
            return _times(factor, read, left, letters, place)
        case "*", left, right if _adds(right) and not _adds(left):
            read = tuple(operands(left, letters, place))
            return _times(value(left, letters, place), read, right, letters, place)
        case "sum" | "mean" as reducer, tuple(over), body:
            every = list(_every(over, letters, place))
            share = 1.0 if reducer == "sum" else 1 / len(every)
            return [
                one
                for letters in every
                for one in _times(share, (), body, letters, place)
            ]
    read = tuple(operands(node, letters, place))
    return [Term(value(node, letters, place), read)]


def _times(
    factor: float, read: tuple[Operand, ...], node: Node, letters: Letters, place: Place
) -> list[Term]:
    return [
        Term(factor * one.value, (*one.operands, *read))
        for one in terms(node, letters, place)
    ]


def operands(node: Node, letters: Letters, place: Place) -> list[Operand]:
    """Every number that a formula reads, once, in its order."""
    found: dict[tuple[str, Index], Operand] = {}

    def visit(node: Node, letters: Letters) -> None:
        match node:
            case "at", name, at:
                for part in at:
                    if part[0] == "at":
                        visit(part, letters)
                index = _index(at, letters, place)
                if (name, index) not in found:
                    read = Operand(name, index, place.read(name, index))
                    found[name, index] = read
            case "call", _, argument:
                visit(argument, letters)
            case "if", test, body, other:
                visit(body if value(test, letters, place) else other, letters)
            case reducer, tuple(over), body if reducer in REDUCERS:
                for one in _every(over, letters, place):
                    visit(body, one)
            case "constant", name:
                found[name, ()] = Operand(name, (), place.constant(name))
            case "number" | "letter", _:
                pass
            case _, left, right:
                visit(left, letters)
                visit(right, letters)

    visit(node, letters)
    return list(found.values())


def names(node: Node) -> Iterator[str]:
    """The arrays that a formula reads."""
    if node[0] == "at":
        yield node[1]
    for part in node[1:]:
        parts = part if isinstance(part, tuple) and node[0] == "at" else (part,)
        for one in parts:
            if isinstance(one, tuple):
                yield from names(one)


def renamed(node: Node, full: Mapping[str, str]) -> Node:
    """The formula with every array under another name."""
    if node[0] == "at":
        return "at", full[node[1]], tuple(renamed(part, full) for part in node[2])
    return tuple(
        renamed(part, full) if isinstance(part, tuple) and node[0] != "letter" else part
        for part in node
    )


def _index(at: tuple[Node, ...], letters: Letters, place: Place) -> Index:
    return tuple(int(value(part, letters, place)) for part in at)


def _every(over: tuple[str, ...], letters: Letters, place: Place) -> Iterator[Letters]:
    """The letters with those of `over` at every value; a row's length may count."""
    if not over:
        yield letters
        return
    for i in range(place.size(over[0], letters)):
        yield from _every(over[1:], {**letters, over[0]: i}, place)


def _adds(node: Node) -> bool:
    """Whether a formula is a sum of several numbers."""
    if node[0] in ("*", "/"):
        return _adds(node[1]) or (node[0] == "*" and _adds(node[2]))
    return node[0] in ("sum", "mean", "+", "-")


def _compute(operator: str, a: float, b: float) -> float:
    match operator:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / b
        case "//":
            return a // b
        case "%":
            return a % b
        case "<":
            return float(a < b)
    return float(a**b)
