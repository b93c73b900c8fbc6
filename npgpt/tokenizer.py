"""Tokenizer: text <-> token ids, a thin wrapper of the `tokenizers` library.

npgpt.storage.tokenizer_files reads the files. Nothing here trains a tokenizer or knows
about models. Text is decoded as it was written: no space before punctuation is taken
away (transformers' clean_up_tokenization_spaces).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.storage.folder import write_tokenizer
from npgpt.storage.tokenizer_files import END_OF_TEXT as END_OF_TEXT
from npgpt.storage.tokenizer_files import TOKENIZER, library_errors, read_tokenizer
from npgpt.support.arguments import checked, shown


class Tokenizer:
    """Byte-level BPE (Radford et al. 2019), or whatever tokenizer.json describes."""

    def __init__(self, backend: Any, beside: dict[str, bytes] | None = None):
        if not hasattr(backend, "decoder"):
            raise TokenizerError(
                f"a Tokenizer wraps one of the tokenizers library, not {shown(backend)}"
            )
        self.backend = backend  # a tokenizers.Tokenizer
        self.beside = beside or {}  # files that are saved with it
        self._byte_level = type(backend.decoder).__name__ == "ByteLevel"

    @cached_property
    def pipeline(self) -> dict[str, Any]:
        """What tokenizer.json says of everything but the vocabulary."""
        pipeline = json.loads(self.backend.to_str())
        del pipeline["model"]
        return pipeline

    @classmethod
    @checked(TokenizerError)
    def from_folder(cls, folder: str | Path) -> Tokenizer | None:
        """The tokenizer in a model's folder; None if there are no tokenizer files."""
        found = read_tokenizer(Path(folder))
        return None if found is None else cls(*found)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: one more than the largest."""
        return max(self.backend.get_vocab().values(), default=-1) + 1

    @cached_property
    def begin(self) -> tuple[int, ...]:
        """Ids that the tokenizer puts before a text, as a bos_token; often none."""
        with library_errors("the tokenizer's template cannot be used"):
            encoding = self.backend.encode("a")
        marks = encoding.special_tokens_mask
        n = marks.index(0) if 0 in marks else 0
        return tuple(encoding.ids[:n])

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's name in the text becomes that token."""
        text = _text(text)
        with library_errors("the text cannot be encoded"):
            return self.backend.encode(text, add_special_tokens=False).ids

    @checked(TokenizerError)
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, one list each."""
        with library_errors("the texts cannot be encoded"):
            encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    @checked(TokenizerError)
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD.

        An id without a token (a model's vocabulary may be padded) stands for no text.
        """
        ids = [_checked(id) for id in ids]
        with library_errors("the ids cannot be decoded"):
            return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token(self, id: int) -> str:
        """One token as it stands in the vocabulary ("Ġthe" for " the")."""
        token = self.backend.id_to_token(_checked(id))
        if token is None:
            raise TokenizerError(
                f"token id {id} is not in the tokenizer's vocabulary of "
                f"{self.vocab_size}"
            )
        return token

    @checked(TokenizerError)
    def token_id(self, token: str) -> int | None:
        """Id of a vocabulary entry, None if there is none."""
        return self.backend.token_to_id(token)

    def special_ids(self) -> set[int]:
        """Ids of tokens that are marks, not text, as <|endoftext|>."""
        added = self.backend.get_added_tokens_decoder()
        return {id for id, token in added.items() if token.special}

    def token_bytes(self, id: int, first: bool = False, last: bool = False) -> bytes:
        """The bytes that a token stands for; it may be part of a character.

        Joined they are the UTF-8 of the text. Some decoders drop a space at the
        beginning or the end of a text: `first` and `last` say that it stands there.
        """
        token = self.backend.id_to_token(_checked(id))
        if token is None:
            return b""
        if not self._tokenwise:
            raise TokenizerError(
                "the tokenizer's decoder works on the text as a whole: no token has "
                "bytes of its own"
            )
        if "ByteLevel" in self._kinds:
            if all(c in _BYTE_OF for c in token):
                return bytes(_BYTE_OF[c] for c in token)
            return token.encode()  # an added token, stored as plain text
        if self._is_byte(token) and int(token[3:5], 16) >= 0x80:
            return bytes([int(token[3:5], 16)])  # a part of a character, by number
        # Between two other tokens, of which nothing is in the result.
        x = "x" if token != "x" else "y"
        before, after = [] if first else [x], [] if last else [x]
        text = self._joined([*before, token, *after])
        tail = len(self._joined([x, x])) - 1 if after else 0
        return text[len(before) : len(text) - tail].encode()

    @cached_property
    def _steps(self) -> list[dict[str, Any]]:
        """The decoder's steps, each as tokenizer.json describes it."""
        decoder = self.backend.decoder
        return [{"type": "Join"}] if decoder is None else _flat(_description(decoder))

    @cached_property
    def _kinds(self) -> set[str]:
        return {step["type"] for step in self._steps}

    @cached_property
    def _tokenwise(self) -> bool:
        """Whether each token is decoded by itself, so that text only grows."""
        kinds, joined = [step["type"] for step in self._steps], False
        if "ByteLevel" in kinds:
            return kinds[0] == "ByteLevel" and {"Fuse", "Strip"}.issuperset(kinds[1:])
        spacing = [kind for kind in kinds if kind in _SPACING]
        if len(spacing) > 1 or ("ByteFallback" in kinds and spacing not in _WITH_BYTES):
            return False
        for step in self._steps:
            if step["type"] not in (_OF_TEXT if joined else _OF_TOKENS):
                return False
            # More than one character of a text may come in two tokens.
            pattern = step.get("pattern", {"String": "x"}).get("String", "")
            if not pattern or (joined and len(pattern) > 1):
                return False
            joined = joined or step["type"] == "Fuse"
        return True

    def _joined(self, tokens: list[str]) -> str:
        decoder = self.backend.decoder
        with library_errors("the tokens cannot be decoded"):
            return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def _is_byte(self, token: str | None) -> bool:
        """Whether a token is one byte by its number, "<0xE4>"."""
        return (
            "ByteFallback" in self._kinds
            and token is not None
            and _BYTE.fullmatch(token) is not None
        )

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        level = "byte-level " if self._byte_level else ""
        return f"Tokenizer({level}{kind}, {self.vocab_size:,} tokens)"

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """A decoder for ids that come one by one, after others whose text is known."""
        return TextStream(self, after)

    @checked(TokenizerError)
    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and what stood beside it; of another's nothing stays."""
        folder = Path(folder)
        with library_errors(f"{folder}: the tokenizer cannot be written"):
            files = {TOKENIZER: self.backend.to_str(pretty=True).encode()}
            write_tokenizer(folder, {**files, **self.beside})


class TextStream:
    """Text of ids that come one by one, never half a character.

    The pieces joined are `decode` of all the ids, less what `after` alone shows.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids: list[int] = []
        self._shown = ""
        # A character of byte-level tokens ends soon, a run of bytes by number may not.
        for id in after[-CONTEXT:] if tokenizer._byte_level else after:
            self.push(id)
        if not tokenizer._tokenwise:
            self._shown = tokenizer.decode(self._ids)

    def push(self, id: int) -> str:
        """The text that this id completes, possibly none."""
        tokenizer = self.tokenizer
        if tokenizer._byte_level:
            return self._utf8.decode(tokenizer.token_bytes(id))
        if tokenizer.backend.id_to_token(_checked(id)) is None:
            return ""
        self._ids.append(int(id))
        if not tokenizer._tokenwise:
            return ""
        # Bytes by number are one text or none of it: they wait for the last of them.
        n = len(self._ids)
        while n and tokenizer._is_byte(tokenizer.backend.id_to_token(self._ids[n - 1])):
            n -= 1
        return self._news(tokenizer.decode(self._ids[:n]).rstrip("\ufffd"), n)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        if self.tokenizer._byte_level:
            return self._utf8.decode(b"", final=True)
        return self._news(self.tokenizer.decode(self._ids), len(self._ids))

    def _news(self, text: str, n: int) -> str:
        """What of the text of the first n ids is new; the oldest ids are forgotten."""
        new, self._shown = text[len(self._shown) :], text
        if n == len(self._ids) > 2 * CONTEXT:
            kept = self._ids[-CONTEXT:]
            before = self.tokenizer.decode(kept)
            if before.strip() and text.endswith(before.lstrip()):
                self._ids, self._shown = kept, before
        return new


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise TokenizerError(f"expected a text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds half a character (a lone surrogate) at {error.start}"
        ) from None
    return text


def _checked(id: int) -> int:
    if (
        isinstance(id, bool)
        or not isinstance(id, int | np.integer)
        or not 0 <= id < 2**32
    ):
        raise TokenizerError(f"{shown(id)} is not a token id")
    return int(id)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: character -> byte.

    Printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


_BYTE_OF = _byte_alphabet()
_BYTE = re.compile("<0x[0-9a-fA-F]{2}>")
CONTEXT = 16  # ids that decide how the next one is written, with much to spare
# Steps of a decoder that work token by token, on joined text too, or by their place.
_OF_TEXT = {"Fuse", "Strip", "Replace"}
_SPACING = {"Join", "Metaspace", "WordPiece", "BPEDecoder"}
_OF_TOKENS = _OF_TEXT | _SPACING | {"ByteFallback"}
_WITH_BYTES: tuple[list[str], ...] = ([], ["Metaspace"])


def _description(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__())


def _flat(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in _flat(part)]
