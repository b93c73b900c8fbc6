"""Record what torch computes of training: tests/fixtures/gradients.npz, adamw.npz.

    pip install torch==2.13.0 && python tools/record_gradient_fixtures.py

Loss and every gradient of the suite's tiny models, in float64; ten steps of
torch.optim.AdamW with clipping, in float64, whose losses and last weights are kept.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch_gpt2 import TorchGPT2, parameter_groups

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers import ADAMW, CASES, FIXTURES, TINY, tiny_params, token_ids


def gradients(config):
    """Loss and gradient of every tensor."""
    model = TorchGPT2(tiny_params(config), torch.float64)
    ids, targets = token_ids(TINY, 2, 7), token_ids(TINY, 2, 7, seed=3)
    loss = model(torch.tensor(ids), torch.tensor(targets))
    loss.backward()
    arrays = {name: x.grad.numpy() for name, x in model.tensors.items()}
    return {"loss": loss.detach().numpy(), **arrays}


def ten_steps(decay_all):
    """Losses, norms and final tensors of ten steps on ten batches."""
    model = TorchGPT2(tiny_params(TINY), torch.float64)
    adamw = torch.optim.AdamW(
        parameter_groups(model, ADAMW["weight_decay"], decay_all),
        lr=ADAMW["learning_rate"],
        betas=ADAMW["betas"],
        eps=ADAMW["epsilon"],
    )
    losses, norms = [], []
    for step in range(10):
        ids = torch.tensor(token_ids(TINY, 2, 8, seed=step))
        adamw.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        adamw.step()
        losses.append(loss.item())
    arrays = {
        name: x.detach().numpy().astype(np.float32) for name, x in model.tensors.items()
    }
    return {"losses": np.array(losses), "norms": np.array(norms), **arrays}


if __name__ == "__main__":
    cases = {
        f"{case}/{name}": np.asarray(array, np.float32 if array.ndim else np.float64)
        for case, config in CASES.items()
        for name, array in gradients(config).items()
    }
    runs = {
        f"{decay_all}/{name}": array
        for decay_all in (False, True)
        for name, array in ten_steps(decay_all).items()
    }
    for name, arrays in (("gradients.npz", cases), ("adamw.npz", runs)):
        np.savez_compressed(FIXTURES / name, **arrays)
        size = (FIXTURES / name).stat().st_size
        print(f"{FIXTURES / name}: {size:,} bytes, torch {torch.__version__}")
