"""Lenses: questions to a model, each answered by a table of numbers and a law.

A lens reads a trace or patches a reading (npgpt.inside.trace), on the checkpoint's own
weights: nothing is folded into anything, nothing is centred beforehand. It returns a
Grid (npgpt.inside.lenses.grid), and where its numbers are the parts of one number of
the model, the grid says how far their sum is from it.

    >>> from npgpt import GPT2
    >>> from npgpt.inside.lenses import attribution
    >>> model = GPT2.from_pretrained("tales-mini")
    >>> found = attribution(model, "The old king", token=" was")
    >>> found.shape, found.law.agrees
    ((18, 1), True)
"""

from npgpt.inside.lenses.attention import head_scores, rollout
from npgpt.inside.lenses.attribution import attribution, score_parts
from npgpt.inside.lenses.gradients import gradient_input, integrated_gradients
from npgpt.inside.lenses.grid import Grid, Law
from npgpt.inside.lenses.interventions import ablation, patching
from npgpt.inside.lenses.logit import logit_lens
from npgpt.inside.lenses.target import token_id

__all__ = [
    "Grid",
    "Law",
    "ablation",
    "attribution",
    "gradient_input",
    "head_scores",
    "integrated_gradients",
    "logit_lens",
    "patching",
    "rollout",
    "score_parts",
    "token_id",
]
