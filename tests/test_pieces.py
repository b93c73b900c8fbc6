"""Attention for some queries at a time is attention."""

import numpy as np
import pytest

from npgpt import ops, pieces
from npgpt.backend import NUMPY


@pytest.mark.parametrize("options", [{}, {"window": 70}, {"causal": False}])
@pytest.mark.parametrize("masks", [0, 1, 2])
def test_pieces_are_the_whole(options, masks):
    rng = np.random.default_rng(masks)
    B, H, T, S, D = 2, 2, 300, 340, 8
    q, k, v = (rng.standard_normal((B, H, n, D)) for n in (T, S, S))
    if masks:
        seen = rng.random((masks, T, S)) < 0.5
        options = {**options, "mask": seen | np.eye(T, S, S - T, dtype=bool)}
    found = pieces.attention(q, k, v, **options)
    np.testing.assert_allclose(found, ops.attention(q, k, v, **options), atol=1e-12)


def test_numpy_reads_prompts_in_pieces():
    seen, whole = [], ops.attention

    def attention(q, *rest, **options):
        seen.append(q.shape[2])
        return whole(q, *rest, **options)

    q = np.ones((1, 1, 300, 4), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces.ops, "attention", attention)
        NUMPY.attention(q, q, q)
    assert max(seen) == pieces.QUERIES
    assert sum(seen) == 300
