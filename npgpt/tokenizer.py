"""Tokenizer: text <-> token ids, a thin wrapper of the `tokenizers` library.

Reads tokenizer.json, or GPT-2's own pair of vocabulary and merges. It trains nothing
and knows nothing about models.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.support.arguments import checked, shown
from npgpt.support.files import check_readable

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
FILES = ("tokenizer.json", *(name for pair in PAIRS for name in pair))
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Byte-level BPE (Radford et al. 2019), or whatever tokenizer.json describes."""

    def __init__(self, backend: Any):
        if not hasattr(backend, "decoder"):
            raise TokenizerError(
                f"a Tokenizer wraps one of the tokenizers library, not {shown(backend)}"
            )
        self.backend = backend  # a tokenizers.Tokenizer
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
        folder = Path(folder)
        if os.path.exists(folder / "tokenizer.json"):
            return cls(_load_json(folder / "tokenizer.json"))
        for vocabulary, merges in PAIRS:
            if all(os.path.exists(folder / name) for name in (vocabulary, merges)):
                return cls(_load_pair(folder / vocabulary, folder / merges))
        return None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; a special token's name in the text becomes that token."""
        text = _text(text)
        with _library_errors("the text cannot be encoded"):
            return self.backend.encode(text, add_special_tokens=False).ids

    @checked(TokenizerError)
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, one list each."""
        with _library_errors("the texts cannot be encoded"):
            encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    @checked(TokenizerError)
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD.

        An id without a token (a model's vocabulary may be padded) stands for no text.
        """
        ids = [_checked(id) for id in ids]
        with _library_errors("the ids cannot be decoded"):
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

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for; it may be part of a character."""
        token = self.backend.id_to_token(_checked(id))
        if token is None:
            return b""
        if not self._byte_level:
            return self.decode([id]).encode()
        if all(c in _BYTE_OF for c in token):
            return bytes(_BYTE_OF[c] for c in token)
        return token.encode()  # an added token, stored as plain text

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        level = "byte-level " if self._byte_level else ""
        return f"Tokenizer({level}{kind}, {self.vocab_size:,} tokens)"

    def stream(self) -> TextStream:
        """A decoder for ids that come one by one."""
        return TextStream(self)

    @checked(TokenizerError)
    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into a folder."""
        path = Path(folder) / "tokenizer.json"
        with _library_errors(f"{path}: cannot be written"):
            self.backend.save(str(path))


class TextStream:
    """Text of ids that come one by one, never half a character.

    The pieces joined are `decode` of all the ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids: list[int] = []
        self._shown = ""

    def push(self, id: int) -> str:
        """The text that this id completes, possibly none."""
        if self.tokenizer._byte_level:
            return self._utf8.decode(self.tokenizer.token_bytes(id))
        self._ids.append(id)
        text = self.tokenizer.decode(self._ids)
        new, self._shown = text[len(self._shown) :], text
        return new

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)


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


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """One TokenizerError for whatever the library raises."""
    try:
        yield
    except BaseException as error:
        # It raises bare Exception; a panic of its Rust code not even that.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what} ({error})") from None
        raise


def _load_json(path: Path) -> Any:
    import tokenizers

    with _library_errors(f"{path}: not a tokenizer file"):
        check_readable(path)
        backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    return _with_sound_ids(backend, path)


def _load_pair(vocabulary: Path, merges: Path) -> Any:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    what = f"{vocabulary} and {merges.name}: not a BPE vocabulary and its merges"
    with _library_errors(what):
        check_readable(vocabulary)
        check_readable(merges)
        vocab, pairs = models.BPE.read_file(str(vocabulary), str(merges))
        backend = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocab:
        backend.add_special_tokens([END_OF_TEXT])
    return _with_sound_ids(backend, vocabulary)


def _with_sound_ids(backend: Any, path: Path) -> Any:
    """The tokenizer; refused if an id is so large that saving it would fill memory."""
    ids = backend.get_vocab().values()
    if ids and max(ids) > 2 * len(ids) + 1024:
        raise TokenizerError(f"{path}: {len(ids)} tokens, but an id of {max(ids)}")
    return backend
