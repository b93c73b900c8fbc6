"""An explanation of one number: data, lines for a terminal, HTML for a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.inside.source import Source
from npgpt.support.notebook import escaped, table

SHOWN = 8  # terms by name; the others are one row
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = ".:-=+*%#"  # where the terminal has no blocks
WIDTH = 64


@dataclass(frozen=True)
class Operand:
    """A number that went in, and its address."""

    address: str
    value: float


@dataclass(frozen=True)
class Term:
    """One addend and the operands that it is made of."""

    value: float
    operands: tuple[Operand, ...]

    @property
    def text(self) -> str:
        """Its operands, as a product of addresses."""
        return " · ".join(operand.address for operand in self.operands)


@dataclass(frozen=True)
class Why:
    """The explanation of one number.

    value: what the model computed. recomputed: the sum of `terms`, in float64. ulps:
    their distance in units of the number's last place; `tolerance` is what rounding
    alone may make of it, which for a sum that cancels is more than one.
    """

    address: str
    value: float
    recomputed: float
    tolerance: float
    formula: str  # in names: Σ_d q[b,h,t,d] · k[b,h,s,d] · scale
    filled: str  # with this number's indices
    function: str  # that computes it
    doc: str  # the formula in that function's docstring
    meaning: str
    source: Source | None
    operands: tuple[Operand, ...]
    terms: tuple[Term, ...]
    path: str = ""  # what the model read by, where that is not its own backend
    dtype: str = "float32"

    @property
    def ulps(self) -> float:
        """Distance of value and recomputed, in units of the value's last place."""
        if self.value == self.recomputed:
            return 0.0
        return abs(self.value - self.recomputed) / float(
            np.spacing(np.dtype(self.dtype).type(max(abs(self.value), 1e-37)))
        )

    @property
    def agrees(self) -> bool:
        """Whether the model's number is the sum of the terms, up to rounding."""
        if math.isinf(self.value) or math.isinf(self.recomputed):
            return self.value == self.recomputed
        return abs(self.value - self.recomputed) <= self.tolerance

    @property
    def largest(self) -> list[Term]:
        """The terms, the largest first."""
        return sorted(self.terms, key=lambda term: -abs(term.value))

    def rank(self, operand: Operand) -> tuple[bool, bool, float]:
        """What leads on first: the maximum's own, then by size; what is masked last."""
        own = operand.value == self.value
        return own, math.isfinite(operand.value), abs(operand.value)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        source = None
        if self.source is not None:
            file, line, column, text = self.source
            source = {"file": file, "line": line, "column": column, "text": text}

        def of(operand: Operand) -> dict[str, Any]:
            return {"address": operand.address, "value": operand.value}

        return {
            "address": self.address,
            "value": self.value,
            "recomputed": self.recomputed,
            "ulps": self.ulps,
            "agrees": self.agrees,
            "formula": self.formula,
            "filled": self.filled,
            "function": self.function,
            "doc": self.doc,
            "meaning": self.meaning,
            "path": self.path,
            "source": source,
            "operands": [of(operand) for operand in self.operands],
            "terms": [
                {"value": term.value, "operands": [of(one) for one in term.operands]}
                for term in self.terms
            ],
        }

    def __str__(self) -> str:
        return "\n".join(lines(self))

    def _repr_html_(self) -> str:
        return html(self)

    def __repr__(self) -> str:
        return (
            f"Why({self.address} = {self.value:.6g} = {self.formula}, "
            f"{len(self.terms)} terms)"
        )


def lines(why: Why, bars: str = BARS) -> list[str]:
    """The number, its formula, its line of code and its terms.

    >>> from npgpt import GPT2
    >>> why = GPT2.from_pretrained("tales-mini").why("embed[t=1,c=0]", "The king")
    >>> print("\\n".join(lines(why)))  # doctest: +ELLIPSIS
    embed[t=1,c=0] = ...
    """
    found = [f"{why.address} = {why.value:.9g}", why.meaning]
    if not why.formula or why.formula == why.address.partition("[")[0]:
        return found
    found += ["", f"  {why.formula}"]
    if why.filled != why.formula:
        found.append(f"= {why.filled}")
    if why.function:
        found.append(f"  {why.function}: {why.doc}")
    if why.source is not None:
        first, *more = why.source.text.splitlines()
        found.append(f"  {why.source}  {first}{' ...' if more else ''}")
    if why.path:
        found.append(f"  computed by {why.path}")
    found += ["", *_strip(why.terms, bars)]
    rows = _rows(why)
    wide = max(len(number) for number, _ in rows)
    found += [f"  {number:>{wide}}  {text}".rstrip() for number, text in rows]
    return found


def html(why: Why) -> str:
    """The same as a table, for a notebook."""
    head = [why.address, f"{why.value:.9g}"]
    code = escaped(f"{why.source}  {why.source.text}") if why.source else ""
    above = "".join(
        f"<div>{part}</div>"
        for part in (
            escaped(why.meaning),
            f"<code>{escaped(why.formula)}</code>",
            f"<code>= {escaped(why.filled)}</code>",
            f"<code>{code}</code>",
        )
        if part
    )
    rows = [[text, number] for number, text in _rows(why)]
    return f"<div>{above}{table(head, rows)}</div>"


def _rows(why: Why) -> list[tuple[str, str]]:
    """The largest terms by name, the others as one, the sum, the model's number."""
    alone = [t for t in why.terms if _is_bias(t)] if len(why.terms) > 2 else []
    shown = [term for term in why.largest if term not in alone][:SHOWN]
    rest = [term for term in why.terms if term not in shown and term not in alone]
    rows = [(term.value, _named(term)) for term in shown]
    if rest:
        what = "1 other term" if len(rest) == 1 else f"{len(rest)} other terms"
        rows.append((math.fsum(term.value for term in rest), what))
    rows += [(term.value, f"bias {_named(term)}") for term in alone]
    many = f"the sum of {len(why.terms)} terms, " if len(why.terms) > 1 else ""
    rows.append((why.recomputed, f"{many}in float64"))
    how = "the same" if why.ulps == 0 else f"{why.ulps:.3g} ulp apart"
    how += "" if why.agrees else ", MORE THAN ROUNDING"
    rows.append((why.value, f"the model's number, {how}"))
    most = max((abs(x) for x, _ in rows if 0 < abs(x) < math.inf), default=1.0)
    places = min(max(5 - math.floor(math.log10(most)), 2), 15)  # of six digits
    return [(f"{x:+.{places}f}", text) for x, text in rows]


def _named(term: Term) -> str:
    product = math.prod(operand.value for operand in term.operands)
    minus = "− " if product and math.isclose(product, -term.value) else ""
    return minus + " · ".join(_operand(operand) for operand in term.operands)


def _operand(operand: Operand) -> str:
    return f"{operand.address} {operand.value:.4g}"


def _is_bias(term: Term) -> bool:
    return len(term.operands) == 1 and ".bias[" in term.operands[0].address


def _strip(terms: Sequence[Term], bars: str) -> list[str]:
    """All terms, the largest first, as bars, and their running sum."""
    values = sorted((term.value for term in terms), reverse=True)
    if len(values) < 3 or not all(abs(value) < float("inf") for value in values):
        return []
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    each = -(-len(values) // WIDTH)  # terms a column
    columns = [values[i : i + each] for i in range(0, len(values), each)]
    sizes = [sum(column) / len(column) for column in columns]
    marks = [sums[min(i + each, len(sums)) - 1] for i in range(0, len(sums), each)]
    most, least, high = max(map(abs, sizes)), min(*marks, 0.0), max(*marks, 0.0)
    above = "".join(_bar(abs(size), 0, most, bars) for size in sizes)
    below = "".join(_bar(mark, least, high, bars) for mark in marks)
    signs = sum(value > 0 for value in values)
    note = f"{signs} terms above 0, then {len(values) - signs} that are not"
    return [f"  {above}  {note}", f"  {below}  their sum so far", ""]


def _bar(value: float, low: float, high: float, bars: str) -> str:
    if high == low:
        return bars[0]
    return bars[round((value - low) / (high - low) * (len(bars) - 1))]
