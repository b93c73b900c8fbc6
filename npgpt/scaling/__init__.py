"""Sizes of models, and the laws that say how large one should be.

>>> from npgpt.scaling import compute_optimal, describe
>>> round(compute_optimal(1e21)[0].parameters / 1e9, 1)
2.9
"""

from npgpt.scaling.fit import COUNTS, LEAST_RUNS, RUNS, Fit, fit_runs, read_runs
from npgpt.scaling.laws import (
    EXPONENTS,
    LAWS,
    Answer,
    Law,
    compute_optimal,
    training_flops,
)
from npgpt.scaling.sizes import (
    CHECKPOINTS,
    PUBLISHED,
    ModelInfo,
    Published,
    describe,
    find_config,
)

__all__ = [
    "CHECKPOINTS",
    "COUNTS",
    "EXPONENTS",
    "LAWS",
    "LEAST_RUNS",
    "PUBLISHED",
    "RUNS",
    "Answer",
    "Fit",
    "Law",
    "ModelInfo",
    "Published",
    "compute_optimal",
    "describe",
    "find_config",
    "fit_runs",
    "read_runs",
    "training_flops",
]
