"""Contrastive search: probable tokens that are unlike what the text has said before.

One model and its hidden states; contrastive *decoding*, with two models, is guidance
(npgpt.decoding.guidance.formulas.contrastive). Each step reads the k candidates of
every row side by side, so it costs a reading of k tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.guidance.guided import NO_STATES
from npgpt.decoding.job import Job
from npgpt.decoding.row import Step, record
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.rules.penalties import degeneration
from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.interface import able


@strategy("G5", "contrastive search", kind="search", also=("top_k",), uses=("top_k",))
@parameter("penalty_alpha", 0.0, "Weight of it; 0 is off.", 0, 1)
@fields(deterministic=True)
@example(penalty_alpha=0.6, top_k=3)
def contrastive_search(job: Job) -> Iterator[Step]:
    """Probable, and unlike what the text has said: over the top k, (1 - penalty_alpha)
    p_v - penalty_alpha max_j cos(h_v, h_j).

    h_v is the last hidden state (after ln_f) of v, the h_j those of the text so far.
    Deterministic; top_k 1 is greedy search. Sources: Su et al., "A Contrastive
    Framework for Neural Text Generation" (2022, arXiv:2202.06417); Su and Collier,
    "Contrastive Search Is What You Need" (2022).
    """
    options, model = job.options, job.model
    job.check_search("contrastive search")
    job.check_selector("contrastive search")
    if options.do_sample:
        raise DecodingError(
            "penalty_alpha (contrastive search) excludes do_sample=True"
        )
    if options.num_return_sequences > 1:
        raise DecodingError("contrastive search has one result: num_return_sequences 1")
    if options.top_k < 1:
        raise DecodingError("penalty_alpha needs top_k, the number of candidates")
    able(model, "next_hidden", NO_STATES)
    for prompt in job.prompts:  # the last candidates are read too, to be compared
        more = 1 if options.overflow == "stop" else options.max_new_tokens
        if len(prompt) + more > job.room:
            raise ContextOverflowError(
                f"contrastive search of {more} tokens after {len(prompt)} needs "
                f"{len(prompt) + more} positions, the model has {job.room}"
            )
    return _steps(job)


def _steps(job: Job) -> Iterator[Step]:
    if not job.options.max_new_tokens:
        return
    rows, model = job.rows(), able(job.model, "next_hidden", NO_STATES)
    for row in rows:
        row.most = min(row.most, job.room - row.prompt_length)
    k = min(job.options.top_k, model.config.vocab_size)
    cache = job.new_cache(job.prompts)
    z, hidden = model.next_hidden(job.prompts, cache)
    cache = cache.repeat(k)
    while True:
        made = [row.processed(logits) for row, logits in zip(rows, z, strict=True)]
        p = np.stack([probabilities(scores) for scores in made])
        best = np.argsort(-p, axis=1, kind="stable")[:, :k]
        z_next, h_next = model.next_hidden(best.reshape(-1, 1).tolist(), cache)
        for i, row in enumerate(rows):
            own = slice(i * k, (i + 1) * k)
            h = np.concatenate(h_next[own])  # (k, C)
            taken = choose(p[i, best[i]], h, hidden[i], job.options.penalty_alpha)
            yield record(row, int(best[i, taken]), z[i], made[i])
            hidden[i] = np.concatenate([hidden[i], h[taken : taken + 1]])
            for j in range(k):
                if j != taken:
                    cache.copy_row(i * k + j, i * k + taken)
            z[i] = z_next[own][taken]
        alive = [i for i, row in enumerate(rows) if row.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            cache = cache.select([i * k + j for i in alive for j in range(k)])
            rows, hidden = [rows[i] for i in alive], [hidden[i] for i in alive]
            z = z[alive]


def choose(p: np.ndarray, h: np.ndarray, previous: np.ndarray, alpha: float) -> int:
    """Index of the candidate with the best (1 - alpha) p - alpha max cos(h, previous).

    p (k,), h (k, C), previous (S, C); the more probable one wins a tie. Removed
    tokens, p = 0, which fill up what is missing of k, are passed over.

    >>> h = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> choose(np.array([0.6, 0.4]), h, np.array([[1.0, 0.0]]), 0.5)
    1
    """
    scores = (1 - alpha) * p - alpha * degeneration(h, previous)
    return int(np.where(p > 0, scores, -np.inf).argmax())
