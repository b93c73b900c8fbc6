"""Names of tensors as files have them, and as npgpt.gpt2's parameters are called.

Wrappers of PyTorch's put their own names in between, Hugging Face's model classes begin
with "transformer.", and heads for other tasks stand beside the language model's.
"""

from __future__ import annotations

import re

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))"
    r"(?:_orig_mod|module|pretrained_model|_fsdp_wrapped_module"
    r"|_checkpoint_wrapped_module)\."
)
_BUFFER = re.compile(r"h\.\d+\.(cross)?attn\.(masked_)?bias")  # causal masks
_HEADS = ("v_head.", "value_head.", "multiple_choice_head.", "score.", "classifier.",
          "qa_outputs.")  # fmt: skip


def plain(name: str) -> str:
    """The name without what torch.compile, DataParallel, FSDP and TRL put before it.

    >>> plain("_orig_mod.module.transformer.h.0.ln_1.weight"), plain("wpe.weight")
    ('h.0.ln_1.weight', 'wpe.weight')
    """
    return _WRAPPERS.sub("", name).removeprefix("transformer.")


def is_buffer(name: str) -> bool:
    """Whether a tensor is a stored mask, which says nothing.

    >>> is_buffer("transformer.h.11.attn.masked_bias"), is_buffer("h.0.mlp.c_fc.bias")
    (True, False)
    """
    return _BUFFER.fullmatch(plain(name)) is not None


def is_other_head(name: str) -> bool:
    """Whether a tensor belongs to a head for another task: values, classes, answers.

    >>> is_other_head("v_head.summary.weight"), is_other_head("lm_head.weight")
    (True, False)
    """
    return plain(name).startswith(_HEADS)
