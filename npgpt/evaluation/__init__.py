"""How good a model is: the probability of texts, and zero-shot tasks.

`npgpt.evaluation.score.score`, which GPT2.score calls, is the one function that is not
here: the module has its name.
"""

from npgpt.evaluation.formats import (
    Question,
    read_cloze,
    read_hellaswag,
    read_lambada,
)
from npgpt.evaluation.score import (
    Score,
    TokenScore,
    last_logprobs,
    score_file,
    token_logprobs,
)
from npgpt.evaluation.zero_shot import Choices, LastWords, lambada, multiple_choice

__all__ = [
    "Choices",
    "LastWords",
    "Question",
    "Score",
    "TokenScore",
    "lambada",
    "last_logprobs",
    "multiple_choice",
    "read_cloze",
    "read_hellaswag",
    "read_lambada",
    "score_file",
    "token_logprobs",
]
