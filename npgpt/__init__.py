"""npgpt: GPT-2 in plain NumPy, to read, to step through and to run for real."""

import os

# OpenBLAS's threads spin for 25 ms after each product, on cores that the Numba kernels
# could use. 2^20 cycles, 0.4 ms, are enough to be awake for the next product of a
# decoding step (2^18 are not). It reads this when NumPy is imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

from npgpt.config import GPT2Config
from npgpt.decoding import GenerationConfig, Step
from npgpt.decoding.generation import Generation
from npgpt.errors import (
    BackendError,
    CheckpointError,
    ContextOverflowError,
    DataError,
    DecodingError,
    InsideError,
    NpgptError,
    PlotError,
    TokenizerError,
    TrainingError,
)
from npgpt.evaluation.score import Score
from npgpt.model import GPT2
from npgpt.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "BackendError",
    "CheckpointError",
    "ContextOverflowError",
    "DataError",
    "DecodingError",
    "GPT2Config",
    "Generation",
    "GenerationConfig",
    "InsideError",
    "NpgptError",
    "PlotError",
    "Score",
    "Step",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
]
