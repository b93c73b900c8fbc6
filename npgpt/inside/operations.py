"""The forward pass as a table: of every operation its formula, shapes, costs, time.

FLOPs are those of the products, two for a multiplication and an addition, of the pairs
that attention may see; bytes those of the matrices that an operation reads, as in the
roofline (npgpt.bench). So the sums are those of npgpt.scaling.sizes. Time is measured
from tap to tap, the median of some passes by NumPy's functions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.errors import InsideError
from npgpt.inside.address import axes
from npgpt.inside.formula import Node
from npgpt.inside.notation import written
from npgpt.inside.recipes import Bound, recipes
from npgpt.inside.source import Source
from npgpt.inside.trace import Trace

UPPER = {"m": "inner", "j": "3C"}  # letters of axes that are no dimension of npgpt.ops


@dataclass(frozen=True)
class Operation:
    """One step of the forward pass; of blocks, of all layers together where `times`."""

    name: str
    formula: str
    axes: tuple[str, ...]  # B, T, C ...
    shape: tuple[int, ...]
    flops: int
    weight_bytes: int
    seconds: float
    source: Source | None
    times: int = 1


def operations(model: Any, ids: Sequence[int], passes: int = 5) -> list[Operation]:
    """Every operation over a prompt, in the order in which they run.

    model: a GPT2. Raises InsideError for no passes.
    """
    if passes < 1:
        raise InsideError(f"passes must be at least 1, not {passes}")
    with model.trace() as trace:
        model.logits([ids])
    seconds = _seconds(model, ids, passes)
    found = []
    for name, bound in recipes(model.config).items():
        if bound.virtual is not None and not name.endswith(".c_attn"):
            continue
        clock = f"{name.removesuffix('c_attn')}q" if bound.virtual else name
        array = trace[name].array
        flops, weights = _costs(bound, array.shape, len(ids), trace)
        found.append(
            Operation(
                name,
                written(bound.short),
                tuple(UPPER.get(letter, letter.upper()) for letter in bound.letters),
                array.shape,
                flops,
                weights,
                0.0 if name.endswith(".q") else seconds[clock],
                trace.sources.get(clock),
            )
        )
    return found


def by_block(found: Sequence[Operation]) -> list[Operation]:
    """The operations of all blocks added up, under h.{i}."""
    together: dict[str, list[Operation]] = {}
    for one in found:
        parts = one.name.split(".")
        if parts[0] == "h":
            parts[1] = "{i}"
        together.setdefault(".".join(parts), []).append(one)
    return [
        Operation(
            name,
            layers[0].formula,
            layers[0].axes,
            layers[0].shape,
            sum(one.flops for one in layers),
            sum(one.weight_bytes for one in layers),
            sum(one.seconds for one in layers),
            layers[0].source,
            len(layers),
        )
        for name, layers in together.items()
    ]


class _Clock:
    """A tap that notes when it is called."""

    def __init__(self) -> None:
        self.last, self.seconds = time.perf_counter(), dict[str, float]()

    def __call__(self, name: str, array: Any) -> Any:
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = time.perf_counter()
        return array


def _seconds(model: Any, ids: Sequence[int], passes: int) -> dict[str, float]:
    """Median seconds from the tap before to each tap."""
    clocks = []
    with model.trace("logits"):  # by NumPy's functions
        for _ in range(passes + 1):
            clock = _Clock()
            model.logits([ids], clock)
            clocks.append(clock.seconds)
    names = clocks[0]
    return {n: statistics.median(clock[n] for clock in clocks[1:]) for n in names}


def _costs(
    bound: Bound, shape: tuple[int, ...], tokens: int, trace: Trace
) -> tuple[int, int]:
    """FLOPs of the products, and bytes of the matrices that they read."""
    flops = 0
    for over, body in _products(bound.node):
        sizes = trace.sizes()
        many = int(np.prod(shape)) * int(np.prod([sizes[letter] for letter in over]))
        if "s" in (*bound.letters, *over):  # only what may be seen
            many = many // (tokens * tokens) * (tokens * (tokens + 1) // 2)
        flops += 2 * many * (body[0] == "*")
    weights = 0
    for full in bound.full.values():
        matrix = full.endswith(".weight") and len(axes(full, trace.config)) == 2
        if flops and matrix:
            weights += trace.parameter(full).nbytes
    return flops, weights


def _products(node: Node) -> list[tuple[tuple[str, ...], Node]]:
    """The sums over products in a formula."""
    if node[0] == "sum":
        return [(node[1], node[2])] if node[2][0] == "*" else []
    return [
        found
        for part in node[1:]
        if isinstance(part, tuple) and part and isinstance(part[0], str)
        for found in _products(part)
    ]
