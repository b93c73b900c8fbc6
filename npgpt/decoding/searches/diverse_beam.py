"""Diverse beam search: groups of beams, each kept away from what the earlier ones
chose.

The dissimilarity is Hamming's, between tokens of the same step; the paper's other ones
(n-grams, embeddings) are not here.
"""

from __future__ import annotations

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row
from npgpt.decoding.rules.base import Rule
from npgpt.decoding.rules.penalties import frequency
from npgpt.decoding.searches.beam import BeamSearch
from npgpt.decoding.searches.hypotheses import Hypothesis


@strategy("D12", "Hamming diversity", kind="part")
@example(num_beams=2, num_beam_groups=2, diversity_penalty=2.0)
@strategy("G3", "diverse beam search", kind="part", also=("num_beams",))
@parameter("num_beam_groups", 1, "Groups; 1 is off.", 1)
@parameter("diversity_penalty", 0.0, "lambda.", 0)
@example(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, num_return_sequences=2)
class DiverseBeamSearch(BeamSearch):
    """Groups of beams kept apart from each other: log p_v - lambda (times v was chosen
    by earlier groups).

    num_beams in groups: in each step one group after another takes its beam step.

    Group g scores log p_v - diversity_penalty (times v was chosen at this step by
    groups before g), and the penalty stays in its sums. A group has ended when it holds
    as many texts as it has beams and none of its candidates can improve on the worst;
    what it would choose then counts no more (`count_ended`, a token id, counts it as
    often as the group has beams, as Transformers 4 did with its padding). The texts of
    all groups are ranked together. Source: Vijayakumar et al., "Diverse Beam Search"
    (2016, arXiv:1610.02424).
    """

    def __init__(self, job: Job, row: Row, count_ended: int | None = None):
        super().__init__(job, row)
        n, penalty = job.options.num_beam_groups, job.options.diversity_penalty
        self.width, self.count_ended = self.num_beams // n, count_ended
        self.groups = [BeamSearch(job, row, self.width) for _ in range(n)]
        self.place = [[0] for _ in self.groups]  # each group's beams among `running`
        away = Rule(
            "diversity",
            str(penalty),
            lambda ids, z, c: frequency(z, self.chosen, penalty),
        )
        for i, group in enumerate(self.groups):
            group.by_candidate = True
            group.chain = [away, *job.chain] if i else job.chain

    def advance(self, z: np.ndarray) -> None:
        """One step of every group, in order."""
        running: list[Hypothesis] = []
        self.chosen = []
        for group, place in zip(self.groups, self.place, strict=True):
            if group.done:
                if self.count_ended is not None:
                    self.chosen += [self.count_ended] * self.width
                continue
            group.advance(z[place])
            self.chosen += group.chosen
            grown = [] if group.done else group.running
            start, before = len(running), list(place)
            running += [beam._replace(parent=before[beam.parent]) for beam in grown]
            place[:] = range(start, len(running))
        self.running = running
        self.done = all(group.done for group in self.groups)

    def results(self) -> list[Hypothesis]:
        """Texts of all groups, best first."""
        texts = [text for group in self.groups for text in group.results()]
        return sorted(texts, key=lambda text: -text.score)
