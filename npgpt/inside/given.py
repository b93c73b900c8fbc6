"""What the recipes read that nobody computes: parameters, and the text itself."""

from __future__ import annotations

PARAMETERS = {  # the axes of every tensor of a checkpoint
    "wte.weight": "v c",
    "wpe.weight": "p c",
    "h.{i}.ln_1.weight": "c",
    "h.{i}.ln_1.bias": "c",
    "h.{i}.attn.c_attn.weight": "c j",
    "h.{i}.attn.c_attn.bias": "j",
    "h.{i}.attn.c_proj.weight": "e c",
    "h.{i}.attn.c_proj.bias": "c",
    "h.{i}.ln_2.weight": "c",
    "h.{i}.ln_2.bias": "c",
    "h.{i}.mlp.c_fc.weight": "c m",
    "h.{i}.mlp.c_fc.bias": "m",
    "h.{i}.mlp.c_proj.weight": "m c",
    "h.{i}.mlp.c_proj.bias": "c",
    "ln_f.weight": "c",
    "ln_f.bias": "c",
    "lm_head.weight": "v c",
}

GIVEN = {  # what the formulas read besides taps and parameters
    "token": "b t",
    "position": "b t",
    "sees": "b t s",  # may token t look at token s?
    "reads": "b t v",  # is token t this one?
    "stands": "b t p",  # is this its place?
    "hit": "b t v",  # is this the token that follows t?
    "counted": "b t",  # does a token follow t?
}
