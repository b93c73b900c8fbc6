"""GPT-2 in torch, as short as it can be: the oracle of gradients and of training speed.

Weights come from npgpt's parameters under their checkpoint names, (inputs, outputs).
Attention is torch's fused scaled_dot_product_attention, GELU its tanh form.
"""

import math

import torch
from torch.nn import functional as F

from npgpt.activations import ACTIVATIONS, gelu
from npgpt.storage.checkpoint import named_tensors

TORCH_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class TorchGPT2(torch.nn.Module):
    """The model; `tensors` holds its parameters by name."""

    def __init__(self, params, dtype=torch.float32):
        super().__init__()
        self.config = params.config
        self.tensors = {
            name: torch.nn.Parameter(torch.tensor(array, dtype=dtype))
            for name, array in named_tensors(params).items()
        }
        for name, tensor in self.tensors.items():
            self.register_parameter(name.replace(".", "_"), tensor)

    def forward(self, ids, targets, ignore_index=-100):
        """The mean loss."""
        config, w = self.config, self.tensors
        H = config.n_head
        B, T = ids.shape
        C = config.n_embd

        def affine(x, name):
            y = x.reshape(-1, x.shape[-1])
            y = torch.addmm(w[f"{name}.bias"], y, w[f"{name}.weight"])
            return y.reshape(*x.shape[:-1], -1)

        def norm(x, name):
            weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
            return F.layer_norm(x, (C,), weight, bias, config.layer_norm_epsilon)

        x = F.embedding(ids, w["wte.weight"]) + w["wpe.weight"][:T]
        for i in range(config.n_layer):
            scale = 1 / math.sqrt(C // H) if config.scale_attn_weights else 1.0
            if config.scale_attn_by_inverse_layer_idx:
                scale /= i + 1
            qkv = affine(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
            q, k, v = (
                part.reshape(B, T, H, C // H).transpose(1, 2)
                for part in qkv.split(C, dim=-1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            y = y.transpose(1, 2).reshape(B, T, C)
            x = x + affine(y, f"h.{i}.attn.c_proj")
            y = affine(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
            if ACTIVATIONS[config.activation_function] is gelu:
                y = F.gelu(y, approximate="tanh")
            else:
                y = TORCH_ACTIVATIONS[config.activation_function](y)
            x = x + affine(y, f"h.{i}.mlp.c_proj")
        x = norm(x, "ln_f")
        z = x @ w.get("lm_head.weight", w["wte.weight"]).T
        return F.cross_entropy(
            z.reshape(B * T, -1), targets.reshape(-1), ignore_index=ignore_index
        )


def parameter_groups(model, weight_decay, decay_all=False):
    """torch's AdamW groups: matrices decay, the rest only where all do."""
    tensors = list(model.parameters())
    if decay_all:
        return [{"params": tensors, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in tensors if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in tensors if p.ndim < 2], "weight_decay": 0.0},
    ]
