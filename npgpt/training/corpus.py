"""Text files as what a model is trained on: documents, their vocabulary, their ids.

Whole documents (npgpt.training.documents) go either to training or to validation; the
vocabulary is trained on the former alone. Texts are read in blocks, so memory does not
grow with them. Nothing here knows about models; npgpt.training.loop reads the arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from npgpt.errors import DataError, TokenizerError
from npgpt.storage.tokenizer_files import SETTINGS
from npgpt.storage.tokenizer_files import SPECIAL as SPECIAL_MAP
from npgpt.support.arguments import checked
from npgpt.texts import encode_pieces, join_words
from npgpt.tokenizer import END_OF_TEXT, Tokenizer
from npgpt.training.documents import Document, Progress, find_documents, split

SPECIAL = (END_OF_TEXT, "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
LEAST_VOCABULARY = len(SPECIAL) + 256
MOST_VOCABULARY = 2**24  # memory for all of it is taken before the first merge


@dataclass(frozen=True)
class Corpus:
    """Ids of the two halves: an end of text before every document and at the end."""

    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    train_documents: list[Document]
    validation_documents: list[Document]
    end: int  # the id of the end of text

    def bits_per_byte(self, loss: float) -> float:
        """A mean loss in nats a token on the validation half as bits a UTF-8 byte.

        bits = loss / ln 2 * tokens / bytes, with every id but the first as a target.
        """
        return loss / math.log(2) * (len(self.validation) - 1) / self._validation_bytes

    @cached_property
    def _validation_bytes(self) -> int:
        """Of the text that is read; a file of Windows has more (npgpt.texts)."""
        pieces = chain.from_iterable(d.pieces() for d in self.validation_documents)
        return sum(len(piece.encode()) for piece in pieces)


@checked(DataError)
def prepare(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer | int,
    *,
    validation: float = 0.1,
    seed: int = 0,
    window: int = 1,
    end: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Corpus:
    """Files -> training and validation ids, with this tokenizer or one of `int` tokens.

    Each half must hold a window of so many inputs and their targets. The id `end` parts
    documents; by default it is that of `end_of_text`. In a folder the
    ids are kept as files (train.bin, validation.bin) and mapped, not held in memory.
    progress(what, bytes, total) hears of every block. Raises DataError, TokenizerError.
    """

    def told(what: str, documents: Iterable[Document]) -> Progress | None:
        total = sum(document.num_bytes for document in documents)
        return progress and (lambda n: progress(what, n, total))

    documents = find_documents(paths)
    halves = split(documents, validation, seed)
    if isinstance(tokenizer, int):
        tokenizer = train_tokenizer(halves[0], tokenizer, told("vocabulary", halves[0]))
    ids, end = [], end_of_text(tokenizer) if end is None else end
    for name, half in zip(("train", "validation"), halves, strict=True):
        path = None if folder is None else Path(folder) / f"{name}.bin"
        ids.append(encode(half, tokenizer, path, told(name, half), end))
        if len(ids[-1]) <= window:
            raise DataError(
                f"the corpus gives {len(ids[-1]):,} tokens for {name}, fewer than the "
                f"{window + 1:,} of one window; give it more text, or a shorter context"
            )
    return Corpus(tokenizer, ids[0], ids[1], *halves, end)


@checked(TokenizerError)
def train_tokenizer(
    documents: Sequence[Document],
    vocab_size: int,
    progress: Progress | None = None,
) -> Tokenizer:
    """GPT-2's byte-level BPE with a vocabulary of its own, trained on these documents.

    Ids 0 to 4 are <|endoftext|>, [PAD], [CLS], [SEP] and [MASK], then come the 256
    bytes, then merges in the order in which they were found, fewer than asked for where
    the text has no more pairs. (Sennrich et al. 2016; Radford et al. 2019.)
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if not LEAST_VOCABULARY <= vocab_size <= MOST_VOCABULARY:
        raise TokenizerError(
            f"a vocabulary of {vocab_size} cannot be trained; it needs at least "
            f"{LEAST_VOCABULARY}, for {len(SPECIAL)} special tokens and 256 bytes, and "
            f"at most {MOST_VOCABULARY:,}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for d in documents for text in join_words(d.pieces(progress)))
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


@checked(TokenizerError)
def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that parts texts: of <|endoftext|>, else of the eos_token in its files."""
    found = tokenizer.token_id(END_OF_TEXT)
    for name in (SETTINGS, SPECIAL_MAP):
        token = json.loads(tokenizer.beside.get(name, b"{}")).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if found is None and isinstance(token, str):
            found = tokenizer.token_id(token)
    if found is None:
        raise TokenizerError(
            f"the tokenizer has no {END_OF_TEXT}, which parts the documents, and names "
            f"no eos_token in {SETTINGS}; name one there, or train a tokenizer"
        )
    return found


@checked(DataError)
def encode(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    path: str | Path | None = None,
    progress: Progress | None = None,
    end: int | None = None,
) -> np.ndarray:
    """Ids of the documents, the id `end` (see `prepare`) before each and at the end.

    uint16 where the vocabulary fits into it, else uint32. With a path they are written
    there and mapped into memory, for a corpus that is larger than it.
    """
    end = end_of_text(tokenizer) if end is None else end
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32

    def blocks() -> Iterator[np.ndarray]:
        for document in documents:
            yield np.array([end], dtype)
            for ids in encode_pieces(tokenizer, document.pieces(progress)):
                yield np.array(ids, dtype)
        yield np.array([end], dtype)

    if path is None:
        return np.concatenate(list(blocks()))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for block in blocks():
                block.tofile(stream)
        return np.memmap(path, dtype, mode="r")
    except OSError as error:
        raise DataError(
            f"{path}: the ids cannot be written ({error.strerror or error})"
        ) from None
