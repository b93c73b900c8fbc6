"""Decoding: from logits to text. One idea a file; the model is never looked into.

rules        what a rule is, its context, how a token is removed
processors   rules that look at the tokens so far
truncation   rules that look at the logits alone
chain        which rules run, in which order
selectors    how one token is taken
sampling     the loop
stopping     when a row ends
options      what a user may ask for
randomness   numbers that depend on seed, row, position and purpose alone
"""

from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules import Context
from npgpt.decoding.sampling import Step, sample

__all__ = ["Context", "GenerationConfig", "Step", "sample"]
