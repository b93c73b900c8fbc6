"""npgpt: GPT-2 in plain NumPy, to read, to step through and to run for real."""

from npgpt.config import GPT2Config
from npgpt.decoding import GenerationConfig, Step
from npgpt.errors import (
    BackendError,
    CheckpointError,
    ContextOverflowError,
    DecodingError,
    NpgptError,
    TokenizerError,
)
from npgpt.model import GPT2, Generation
from npgpt.score import Score
from npgpt.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "GPT2",
    "BackendError",
    "CheckpointError",
    "ContextOverflowError",
    "DecodingError",
    "GPT2Config",
    "Generation",
    "GenerationConfig",
    "NpgptError",
    "Score",
    "Step",
    "Tokenizer",
    "TokenizerError",
]
