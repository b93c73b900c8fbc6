"""npgpt: GPT-2 in plain NumPy, to read, to step through and to run for real."""

from npgpt.config import GPT2Config
from npgpt.decoding import GenerationConfig, Step
from npgpt.decoding.generation import Generation
from npgpt.errors import (
    BackendError,
    CheckpointError,
    ContextOverflowError,
    DataError,
    DecodingError,
    NpgptError,
    PlotError,
    TokenizerError,
    TrainingError,
)
from npgpt.model import GPT2
from npgpt.score import Score
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
    "NpgptError",
    "PlotError",
    "Score",
    "Step",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
]
