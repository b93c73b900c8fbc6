"""The bytes of every token: what constraints on text see of a vocabulary."""

from __future__ import annotations

import functools

from npgpt.interface import Tokens


@functools.lru_cache(maxsize=8)
def all_bytes(tokenizer: Tokens) -> tuple[bytes, ...]:
    """The bytes that each id stands for; a special token, and a gap, stands for none.

    >>> from npgpt import GPT2
    >>> all_bytes(GPT2.from_pretrained("tales").tokenizer)[0]  # <|endoftext|>
    b''
    """
    special = tokenizer.special_ids()
    return tuple(
        b"" if id in special else tokenizer.token_bytes(id)
        for id in range(tokenizer.vocab_size)
    )
