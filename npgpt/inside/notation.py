"""A formula as a reader writes it: Σ_d q[b,h,t,d] · k[b,h,s,d] · scale."""

from __future__ import annotations

import math

from npgpt.inside.formula import REDUCERS, Letters, Node

_PRIORITY = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 3, "<": 0}
_SIGNS = {"*": " · ", "/": " / ", "+": " + ", "-": " − ", "**": "^", "<": " < "}


def written(node: Node, letters: Letters | None = None) -> str:
    """The formula as a reader writes it; with letters, their numbers in their place.

    >>> from npgpt.inside.formula import parse
    >>> written(parse("sum[d](q[b,d] * k[b,d]) * scale"))
    'Σ_d q[b,d] · k[b,d] · scale'
    """
    return _written(node, letters or {}, 0)


def _written(node: Node, letters: Letters, outer: int) -> str:
    match node:
        case "number", number:
            return "−∞" if number == -math.inf else f"{number:g}"
        case "constant", name:
            return "−∞" if name == "minus_infinity" else str(name)
        case "letter", name:
            return str(letters.get(name, name))
        case "at", name, at:
            return f"{name}[{','.join(_written(i, letters, 0) for i in at)}]"
        case "call", function, argument:
            return f"{function}({_written(argument, letters, 0)})"
        case "if", test, body, other:
            one, two = (_written(part, letters, 0) for part in (body, other))
            return f"{one} if {_written(test, letters, 0)} else {two}"
        case reducer, tuple(over), body if reducer in REDUCERS:
            sign = "Σ" if reducer == "sum" else reducer
            free = {k: v for k, v in letters.items() if k not in over}
            said = _written(body, free, 2 if reducer == "sum" else 0)
            said = f" {said}" if reducer == "sum" else f" ({said})"
            return f"{sign}_{','.join(over)}{said}"
        case operator, left, right:
            own = _PRIORITY[operator]
            sign = _SIGNS.get(operator, operator)
            one = _written(left, letters, own)
            two = _written(right, letters, own + (operator in "-/"))
            return f"({one}{sign}{two})" if own < outer else f"{one}{sign}{two}"
    raise ValueError(node)
