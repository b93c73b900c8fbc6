"""Live comparison of gradients and of a training run's model: `pytest -m peers`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_params, token_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from npgpt.backend import NUMPY, get_backend, place
from npgpt.config import GPT2Config
from npgpt.support.leaves import leaves
from npgpt.training.gradients import loss_and_gradients
from npgpt.training.loop import TrainConfig, init_params, train

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

pytestmark = pytest.mark.peers


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 4))
    # at least 3 wide: a norm of two numbers leaves their order alone, and no gradient
    return GPT2Config(
        vocab_size=draw(st.integers(5, 300)),
        n_positions=draw(st.integers(80, 200)),
        n_embd=heads * draw(st.integers(3, 20)),
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_inner=draw(st.sampled_from([None, 7, 64])),
        activation_function=draw(st.sampled_from(["gelu_new", "gelu", "relu", "silu"])),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=0,
        eos_token_id=None,
    )


@settings(deadline=None, max_examples=25)
@given(configs(), st.integers(1, 3), st.integers(1, 80), st.integers(0, 1000))
def test_gradients_are_torchs(config, B, T, seed):
    import torch
    from torch_gpt2 import TorchGPT2

    params = tiny_params(config, seed)
    ids, targets = (token_ids(config, B, T, seed + i) for i in range(2))
    model = TorchGPT2(params, torch.float64)
    expected = model(torch.tensor(ids), torch.tensor(targets))
    expected.backward()
    # float32 through three blocks at unit scale, with saturated softmaxes. p - 1
    # of a sure target is wrong by 1e-7 however small it is, and so are the loss and all
    # that comes of it: 1e-7 is nothing beside 1e-2.
    for name, dtype, tolerance, floor in (
        ("numpy", "float64", 1e-10, 1e-3),
        ("numba", "float32", 5e-4, 1e-2),
    ):
        backend = get_backend(name)
        placed = place(params, dtype, np)
        loss, grads = loss_and_gradients(placed, ids, targets, backend=backend)
        close = pytest.approx(expected.item(), rel=tolerance, abs=tolerance * floor)
        assert loss == close
        found = leaves(grads)
        for key, tensor in model.tensors.items():
            reference = tensor.grad.numpy()
            error = np.abs(found[key] - reference).max()
            size = max(np.abs(reference).max(), floor)
            assert error < tolerance * size, (name, key)


def test_transformers_loads_what_was_trained(tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=40,
        n_positions=24,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    ids = (np.arange(2000) ** 2 % 40).astype(np.uint16)
    settings_ = TrainConfig(steps=5, batch_size=2, context=16, warmup_steps=1)
    params = train(init_params(config), ids, ids[:100], settings_, out=tmp_path)
    x, y = ids[None, :16].astype(np.int64), ids[None, 1:17].astype(np.int64)
    with torch.no_grad():
        z = GPT2LMHeadModel.from_pretrained(tmp_path).eval()(torch.tensor(x)).logits
    loss = torch.nn.functional.cross_entropy(z[0], torch.tensor(y[0]))
    ours, _ = loss_and_gradients(params, x, y, backend=NUMPY)
    assert ours == pytest.approx(loss.item(), rel=1e-5)
