"""Decoding: from logits to text. One idea a file; the model is never looked into.

options, catalogue   what a user may ask for; every strategy stands beside its function
chain, rules/        which rules run on the logits, in which order
selection, selectors, feedback      how one token is taken
row, job, stopping   one text in the making, and what is reported of each token
sampling             the loop; decode says which loop runs
searches/            loops over texts
guidance/            several distributions a step
speculative/         fewer readings, the same law
watermarks/          marks in the text, and their detectors
generation, defaults results of generate, and what a model's own files ask for
healing, vocabulary, randomness     what all of them share
examples/            every strategy on five words
"""

from npgpt.decoding.decode import decode
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step
from npgpt.decoding.rules.base import Context
from npgpt.decoding.sampling import sample

__all__ = ["Context", "GenerationConfig", "Step", "decode", "sample"]
