"""How fast a text was read and written."""

from __future__ import annotations

from npgpt.decoding import GenerationConfig
from npgpt.model import GPT2
from npgpt.scaling.sizes import matrix_numbers
from npgpt.support.clock import working_time


class Clock:
    """Times the reading of the prompt apart from the writing of tokens."""

    def __init__(self, prompt_tokens: int, whole: bool = False):
        self.prompt_tokens, self.whole = prompt_tokens, whole
        self.start = self.first = self.last = working_time()
        self.tokens = 0

    def tick(self) -> None:
        """A token is there."""
        self.last = working_time()
        self.tokens += 1
        if self.tokens == 1:
            self.first = self.last

    def rates(self) -> tuple[float, float]:
        """Tokens read and tokens written a second."""
        if self.whole:
            whole = self.last - self.start
            return (
                (self.prompt_tokens / whole, self.tokens / whole)
                if whole
                else (0.0, 0.0)
            )
        read, wrote = self.first - self.start, self.last - self.first
        return (
            self.prompt_tokens / read if read else 0.0,
            (self.tokens - 1) / wrote if wrote else 0.0,
        )


def weight_rate(model: GPT2, config: GenerationConfig, decode: float) -> float:
    """GB of weights read a second: every step reads all matrices once for all rows."""
    itemsize = 8 if model.dtype == "float64" else 4
    step = matrix_numbers(model.config) * itemsize
    return decode / config.num_return_sequences * step / 1e9
