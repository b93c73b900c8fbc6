"""The laboratory: decoding strategies side by side, diversity against quality.

A Plan says what is compared, `compare` writes the texts, `measure` measures them,
`find_frontier` says which settings to choose among (docs/compare.md).
"""

from npgpt.lab.frontier import Frontier, find_frontier
from npgpt.lab.grid import Setting, make_grid, read_grid
from npgpt.lab.measures import Measures, measure
from npgpt.lab.plan import Plan, Text
from npgpt.lab.run import compare

__all__ = [
    "Frontier",
    "Measures",
    "Plan",
    "Setting",
    "Text",
    "compare",
    "find_frontier",
    "make_grid",
    "measure",
    "read_grid",
]
