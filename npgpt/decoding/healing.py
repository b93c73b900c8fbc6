"""Token healing: the prompt's last token is taken back and may be written differently.

A prompt that ends inside a word ("http:" before "//") ends with a token that the model
has rarely seen in that place. The new text has to begin with the bytes taken back; they
are not shown again. A hard constraint, as in `guidance` (transformers adds a bias).
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, Ids, keep
from npgpt.decoding.vocabulary import all_bytes, padded
from npgpt.interface import Tokens
from npgpt.shapes import Logits


class Prompt(NamedTuple):
    """Ids to read, and the bytes that the new text has to begin with."""

    ids: list[int]
    prefix: bytes = b""


def heal(prompt: Ids, tokenizer: Tokens | None, options: GenerationConfig) -> Prompt:
    """The prompt without its last token, if token_healing asks for it.

    More is taken back where the last token begins inside a character. A prompt of one
    token, and one that ends with a special token or an id without text, stay as they
    are.

    >>> from npgpt import GPT2
    >>> tokenizer = GPT2.from_pretrained("tales").tokenizer
    >>> ids = tokenizer.encode("Once upon a ti")
    >>> heal(ids, tokenizer, GenerationConfig(token_healing=True)).prefix
    b'i'
    """
    ids = list(prompt)
    if tokenizer is None or not options.token_healing:
        return Prompt(ids)
    prefix = b""
    while len(ids) > 1:
        token = padded(all_bytes(tokenizer), ids[-1] + 1)[-1]
        if not token:
            break
        ids, prefix = ids[:-1], token + prefix
        if prefix[0] & 0xC0 != 0x80:  # not the middle of a UTF-8 character
            return Prompt(ids, prefix)
    return Prompt(list(prompt))


def characters(data: bytes) -> int:
    """How many characters bytes show: an unfinished one at the end is none yet.

    >>> characters("né".encode()), characters("né".encode()[:-1])
    (2, 1)
    """
    return len(codecs.getincrementaldecoder("utf-8")("replace").decode(data))


@strategy("E16", "token healing", stage="ban", rank=70, element="token_healing")
@fields(prepare=lambda on, setup: setup.tokenizer)
@parameter(
    "token_healing",
    False,
    "Take back the last token; the new text begins with its bytes.",
)
@example(
    lambda show: show.rule(
        {"token_healing": True}, words=(" t", " ti", " time", "me", " old"), ids=[4, 1]
    )
)
def begin_with_prefix(
    z: Logits, generated: Ids, context: Context, tokenizer: Tokens
) -> Logits:
    """The prompt's last token may be re-tokenised: keep v if its bytes agree with what
    was cut.

    A token agrees if one of its bytes and what is left of the prefix begins with the
    other. Source: guidance.
    """
    table = padded(all_bytes(tokenizer), len(z))
    left = context.prefix[sum(len(table[id]) for id in generated) :]
    if not left:
        return z
    mask = np.zeros(len(z), bool)
    for id, token in enumerate(table):
        if token and (token.startswith(left) or left.startswith(token)):
            mask[id] = True
    return keep(z, mask)
