"""Decoding: from logits to text. One idea a file; the model is never looked into.

rules        what a rule is, its context, how a token is removed
reshaping    temperature and its kin
truncation, entropy                  which tokens may be drawn at all
penalties, dry, fsd                  rules against repetition
bias, trie, constraints, grammar, triggers   bans, forced tokens, the form of the text
watermark, synthid, tails            marks in the text, their detectors and p-values
selectors, feedback, selection       how one token is taken
row          one text in the making, and what is reported of each token
sampling     the loop
phrase_ban, exact                    loops that go back, or over several texts
beam and its kin, contrastive_search searches over texts
guidance, guided, dola, steering     several distributions a step
speculative, drafters, verification, lookahead, tree   fewer readings, the same law
choosing, power                      choosing among whole texts
generation   results of generate, for a model and for a guided one
decode       which loop runs
stopping     when a row ends
chain        which rules run, in which order
registry, catalogue                  every strategy with its parameters
options      what a user may ask for
randomness   numbers that depend on seed, row, position and purpose alone
"""

from npgpt.decoding.decode import decode
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Step
from npgpt.decoding.rules.base import Context
from npgpt.decoding.sampling import sample

__all__ = ["Context", "GenerationConfig", "Step", "decode", "sample"]
