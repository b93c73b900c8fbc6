"""The cases that tools/record_search_fixtures.py records and the suite runs again."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from helpers import TINY, token_ids, unit_tensors

CONFIG = replace(
    TINY,
    vocab_size=24,
    n_positions=40,
    n_layer=4,
    eos_token_id=3,
    tie_word_embeddings=False,
)
NEW = 12  # tokens


def tensors(seed: int) -> dict:
    """Weights of the model of this seed, flatter than unit scale: beams differ."""
    weights = unit_tensors(CONFIG, seed)
    weights["lm_head.weight"] = weights["lm_head.weight"] * np.float32(0.6)
    weights["wpe.weight"] = weights["wpe.weight"] * np.float32(2.0)
    return weights


def eos(seed: int) -> list[int]:
    """One id that ends a text, or three."""
    return [3] if seed % 2 else [3, 8, 17]


def prompt(seed: int) -> list[int]:
    """Five ids, none of which ends a text."""
    ids = token_ids(CONFIG, 1, 5, seed)[0]
    return [int(id) if id not in (3, 8, 17) else 4 for id in ids]


def beam_cases(seeds: range):
    """(seed, options) of plain beam search."""
    for seed, b, alpha, stop in product(
        seeds, (2, 3, 4), (-1.0, 0.0, 1.0, 2.0), (False, True, "never")
    ):
        yield seed, {"num_beams": b, "length_penalty": alpha, "early_stopping": stop}


def forced_cases(seeds: range):
    """(seed, options) of plain beam search that has to end with a token."""
    for seed, b, alpha, end in product(seeds, (2, 3, 4), (0.0, 1.0), (3, 20)):
        yield (
            seed,
            {"num_beams": b, "length_penalty": alpha, "forced_eos_token_id": end},
        )


def diverse_cases(seeds: range):
    """(seed, options) of diverse beam search."""
    for seed, (b, groups), penalty in product(
        seeds, ((4, 2), (4, 4), (6, 3)), (0.5, 2.0)
    ):
        yield (
            seed,
            {
                "num_beams": b,
                "num_beam_groups": groups,
                "diversity_penalty": penalty,
            },
        )


def contrastive_cases(seeds: range):
    """(seed, options) of contrastive search."""
    for seed, k, alpha in product(seeds, (2, 4), (0.2, 0.6, 0.9)):
        yield seed, {"top_k": k, "penalty_alpha": alpha}


def dola_cases(seeds: range):
    """(seed, options) of DoLa, greedy."""
    chosen = ("low", "high", [0, 1, 2, 3], [1, 3], [0, 2], [2])
    for seed, layers in product(seeds, chosen):
        yield seed, {"dola_layers": layers}


def constrained_cases(seeds: range):
    """(seed, options) of constrained beam search; the words are not in the prompt."""
    for seed, b in product(seeds, (3, 4)):
        free = [id for id in range(4, 24) if id not in (8, 17, *prompt(seed))]
        words = [
            [free[:2]],
            [free[:1], free[2:4]],
            [[free[:2], free[3:5]], free[5:6]],
        ]
        for force in words:
            yield seed, {"num_beams": b, "force_words_ids": force}
