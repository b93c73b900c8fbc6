"""Laws of the whole model's backward pass."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import CASES, FIXTURES, TINY, tiny_params, token_ids

from npgpt import DecodingError, ops
from npgpt.backend import NUMPY, place
from npgpt.support.leaves import leaves, map_leaves
from npgpt.taps import no_tap
from npgpt.training import backward, gradients
from npgpt.training.dropout import Dropout
from npgpt.training.engine import get_engine
from npgpt.training.gradients import Tape, loss_and_gradients, mean_loss, through_mlp

RNG = np.random.default_rng(0)
IDS, TARGETS = token_ids(TINY, 2, 7), token_ids(TINY, 2, 7, seed=3)


def doubles(config):
    params = place(tiny_params(config), "float64", np)
    return map_leaves(np.array, params)


def assert_gradients(params, loss_of, grads):
    """Central differences in a random direction, for every tensor, relative 1e-6."""
    found = leaves(grads)
    assert list(found) == list(leaves(params))
    for name, array in leaves(params).items():
        e, h = RNG.standard_normal(array.shape), 1e-6
        array += h * e
        above = loss_of(params)
        array -= 2 * h * e
        below = loss_of(params)
        array += h * e
        expected, gradient = (above - below) / (2 * h), found[name]
        # as large as a random direction makes it: no lucky cancellation counts
        size = np.linalg.norm(gradient)
        assert abs((gradient * e).sum() - expected) < 1e-6 * size, name


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_differences(case):
    params = doubles(CASES[case])
    options = {"backend": NUMPY}
    loss, grads = loss_and_gradients(params, IDS, TARGETS, **options)
    assert loss == pytest.approx(
        mean_loss(params, IDS, TARGETS, backend=NUMPY), rel=1e-12
    )
    assert_gradients(
        params, lambda p: loss_and_gradients(p, IDS, TARGETS, **options)[0], grads
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_in_pieces_is_the_head(tied, monkeypatch):
    params = doubles(replace(TINY, tie_word_embeddings=tied))
    loss, grads = loss_and_gradients(params, IDS, TARGETS, backend=NUMPY)
    monkeypatch.setattr(gradients, "HEAD_ROWS", 5)  # of 14: pieces of 5, 5 and 4
    again, pieces = loss_and_gradients(params, IDS, TARGETS, backend=NUMPY)
    assert again == pytest.approx(loss, rel=1e-14)
    for name, found in leaves(pieces).items():
        np.testing.assert_allclose(found, leaves(grads)[name], rtol=1e-9, atol=1e-12)
        assert found.flags.c_contiguous, name  # AdamW's twin takes no others


def test_dropout_and_ignored_targets_are_differentiated_too():
    params, targets = doubles(TINY), TARGETS.copy()
    targets[0, 2:5] = -100

    def run(p):
        return loss_and_gradients(
            p, IDS, targets, backend=NUMPY, tap=Dropout(0.4, 1, 2), ignore_index=-100
        )

    assert_gradients(params, lambda p: run(p)[0], run(params)[1])


def test_dropout_keeps_the_mean_and_its_rate():
    x = np.ones((300, 400))
    y = Dropout(0.25, seed=5, step=1)("embed", x)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    # 120,000 draws: deviation of the mean 0.0017
    assert abs(y.mean() - 1) < 0.007
    assert (Dropout(0.25, seed=5, step=1)("embed", x) == y).all()
    assert (Dropout(0.25, seed=5, step=2)("embed", x) != y).any()
    assert (Dropout(0.25, seed=5, step=1)("h.0.ln_1", x) == x).all()


def test_tied_embeddings_add_up():
    tied = doubles(TINY)
    apart = tied._replace(
        config=replace(TINY, tie_word_embeddings=False),
        lm_head=type(tied.wte)(tied.wte.weight.copy()),
    )
    _, one = loss_and_gradients(tied, IDS, TARGETS, backend=NUMPY)
    _, two = loss_and_gradients(apart, IDS, TARGETS, backend=NUMPY)
    both = two.wte.weight + two.lm_head.weight
    np.testing.assert_allclose(one.wte.weight, both, atol=1e-14)
    assert one.lm_head.weight is one.wte.weight


def test_the_tape_changes_nothing_and_is_read_up():
    params, tape = tiny_params(), Tape(no_tap)
    from npgpt import gpt2

    plain = gpt2.hidden_states(params, IDS, backend=NUMPY)
    taped = gpt2.hidden_states(params, IDS, backend=NUMPY, tap=tape)
    assert (plain == taped).all()
    assert "h.0.attn.q" in tape.kept
    assert not any("weights" in name for name in tape.kept)


def test_a_batch_is_the_sum_of_its_rows(backend):
    params = tiny_params()
    loss, grads = loss_and_gradients(params, IDS, TARGETS, backend=backend)
    parts = [
        loss_and_gradients(
            params, IDS[b : b + 1], TARGETS[b : b + 1], backend=backend, count=14
        )
        for b in range(2)
    ]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-6)
    first, second = (leaves(part[1]) for part in parts)
    for name, gradient in leaves(grads).items():
        total = first[name] + second[name]
        # float32 sums of 14 positions in another order
        assert np.abs(total - gradient).max() < 1e-5 * np.abs(gradient).max(), name


def test_backends_agree(backend):
    params = tiny_params(replace(TINY, n_positions=200))
    ids, targets = token_ids(TINY, 2, 150), token_ids(TINY, 2, 150, seed=3)
    exact = loss_and_gradients(
        place(params, "float64", np), ids, targets, backend=NUMPY
    )
    placed = place(params, "float32", backend.xp)
    loss, grads = loss_and_gradients(placed, ids, targets, backend=backend)
    assert loss == pytest.approx(exact[0], rel=1e-6)
    expected = leaves(exact[1])
    for name, gradient in leaves(grads).items():
        error = np.linalg.norm(backend.to_numpy(gradient) - expected[name])
        # 300 positions through two blocks of float32 at unit scale
        assert error < 2e-5 * np.linalg.norm(expected[name]), name


def test_nothing_widens(backend):
    _, grads = loss_and_gradients(tiny_params(), IDS, TARGETS, backend=backend)
    assert {str(g.dtype) for g in leaves(grads).values()} == {"float32"}


@pytest.mark.parametrize("case", CASES)
def test_matches_torch(case, backend):
    """Gradients that torch computed in float64, tools/record_gradient_fixtures.py."""
    with np.load(FIXTURES / "gradients.npz") as file:
        expected = {
            name.removeprefix(f"{case}/"): file[name]
            for name in file.files
            if name.startswith(f"{case}/")
        }
    params = place(tiny_params(CASES[case]), "float32", backend.xp)
    loss, grads = loss_and_gradients(params, IDS, TARGETS, backend=backend)
    assert loss == pytest.approx(float(expected.pop("loss")), rel=1e-6)
    found = leaves(grads)
    assert set(found) == set(expected)
    for name, reference in expected.items():
        error = np.abs(backend.to_numpy(found[name]) - reference).max()
        assert error < 1e-4 * np.abs(reference).max(), name


def test_wrong_ids_are_refused():
    params = tiny_params()
    for ids, targets in ((IDS + 40, TARGETS), (IDS, TARGETS + 40), (IDS, -TARGETS - 1)):
        with pytest.raises(DecodingError, match="vocabulary"):
            loss_and_gradients(params, ids, targets, backend=NUMPY)


def test_the_pieces_serve_a_block_that_normalises_afterwards():
    """BERT's order: y = norm(x + mlp(x)); the same functions, another order."""
    params = doubles(TINY)
    block, x, dy = params.h[0], RNG.standard_normal((2, 3, 16)), None
    dy = RNG.standard_normal(x.shape)

    def forward(x, tape):
        pre = tape("h.0.mlp.pre", ops.linear(x, *block.mlp.c_fc))
        act = tape("h.0.mlp.act", ops.gelu(pre))
        middle = tape("h.0.resid", x + ops.linear(act, *block.mlp.c_proj))
        return ops.layer_norm(middle, *block.ln_2)

    tape = Tape()
    forward(x, tape)
    dmiddle, *_ = backward.layer_norm(dy, tape.take("h.0.resid"), block.ln_2.weight)
    dx, _ = through_mlp(dmiddle, x, block.mlp, "h.0", TINY, get_engine(NUMPY), tape)
    dx += dmiddle
    e, h = RNG.standard_normal(x.shape), 1e-6
    above, below = (forward(x + t * e, Tape()) for t in (h, -h))
    expected = (dy * (above - below)).sum() / (2 * h)
    assert (dx * e).sum() == pytest.approx(expected, rel=1e-6)
