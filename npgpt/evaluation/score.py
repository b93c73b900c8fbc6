"""How probable a text is: P(x_1..x_n) = product of P(x_i | x_<i), token by token.

Texts longer than the model reads are scored in windows, files in constant memory.
Nothing is generated here; tests that pick an answer by its score are in
npgpt.evaluation.zero_shot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npgpt.cache import KVCache
from npgpt.errors import ContextOverflowError, DecodingError, TokenizerError
from npgpt.ids import check_ids
from npgpt.interface import Model
from npgpt.shapes import Float, Int
from npgpt.support.arguments import Stream, checked
from npgpt.support.notebook import coloured_tokens, table
from npgpt.texts import encode_pieces, following, read_text, split_documents

CHUNK = 128  # positions whose hidden states or logits are held at once


class TokenScore(NamedTuple):
    """One token of a text. The texts joined are the text; logprob is in nats."""

    id: int
    text: str
    logprob: float  # NaN for a first token that nothing stands before
    num_bytes: int


@dataclass(frozen=True)
class Score:
    """Probability of a text. All of it is of the tokens that have a probability.

    logprob = sum of log P(x_i | x_<i), in nats; loss = -logprob / num_tokens;
    perplexity = exp(loss); bits_per_byte = -logprob / ln 2 / num_bytes, with the UTF-8
    bytes of the tokens' text: the one figure that models of other tokenizers share.
    """

    logprob: float
    num_tokens: int
    num_bytes: int  # 0 where there is no tokenizer
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, in nats."""
        return -self.logprob / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model chooses."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits that the text costs when the model compresses it, for each byte."""
        if not self.num_bytes:
            return None
        return -self.logprob / math.log(2) / self.num_bytes

    def __repr__(self) -> str:
        figures = ", ".join(f"{label} {x}" for label, x in self._figures())
        return f"Score({self.num_tokens:,} tokens, {figures})"

    def _repr_html_(self) -> str:
        """The figures, and the tokens, each on the colour of its probability."""
        text = coloured_tokens(self.tokens, self.logprobs) if self.tokens else ""
        return text + table(
            ["tokens", *(label for label, _ in self._figures())],
            [[f"{self.num_tokens:,}", *(x for _, x in self._figures())]],
        )

    def _figures(self) -> list[tuple[str, str]]:
        bits = self.bits_per_byte
        return [
            ("loss", f"{self.loss:.4f}"),
            ("perplexity", f"{self.perplexity:,.2f}"),
            ("bits per byte", "unknown" if bits is None else f"{bits:.4f}"),
        ]

    def summary(self) -> dict[str, Any]:
        """The figures without the lists, as the command prints them."""
        names = ("num_tokens", "num_bytes", "logprob", "loss", "perplexity",
                 "bits_per_byte")  # fmt: skip
        return {name: getattr(self, name) for name in names}


@checked(DecodingError)
def score(
    model: Model,
    text: Any,
    *,
    bos: bool = True,
    window: int | None = None,
    stride: int | None = None,
) -> Score:
    """Score a text, or its token ids, token by token.

    With `bos` the text follows <|endoftext|>, so that its first token has a probability
    too; without, that token is left out. Beyond `window` tokens (all that the model
    reads) the context moves on by `stride` tokens (as many: no overlap); every token is
    counted once, and a smaller stride gives it more context and takes more time.
    Raises DecodingError for options or ids that cannot be, and an empty text.

    >>> from npgpt import GPT2
    >>> result = GPT2.from_pretrained("tales").score("Once upon a time")
    >>> result.tokens, [round(x, 2) for x in result.logprobs]
    (['Once', ' upon', ' a', ' time'], [-3.05, -0.23, -0.08, -0.01])
    """
    options = _Options.of(model, bos, window, stride)
    empty = not (len(text) if isinstance(text, str | Sequence) else np.size(text))
    ids = [] if empty else following(model, text)
    tokens = list(_tokens(model, _document(model, ids, options)))
    total = _total(tokens)
    return replace(
        total,
        ids=[token.id for token in tokens],
        tokens=[token.text for token in tokens],
        logprobs=[token.logprob for token in tokens],
    )


@checked(DecodingError)
def score_file(
    model: Model,
    file: str | Path | Stream,
    *,
    separator: str | None = None,
    bos: bool = True,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], object] | None = None,
    on_token: Callable[[TokenScore], object] | None = None,
) -> Score:
    """Score a UTF-8 file of any length in constant memory; the result keeps no lists.

    The file is a path or a binary stream.
    `separator` parts it into documents that know nothing of each other and is not
    scored itself. progress hears the bytes that are read, on_token every token.
    """
    options = _Options.of(model, bos, window, stride)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise TokenizerError("this model has no tokenizer files to read a text with")

    def tokens() -> Iterator[TokenScore]:
        for document in split_documents(read_text(file, progress), separator):
            ids = chain.from_iterable(encode_pieces(tokenizer, document))
            for token in _tokens(model, _document(model, ids, options)):
                if on_token is not None:
                    on_token(token)
                yield token

    return _total(tokens())


class _Options(NamedTuple):
    bos: int | None
    window: int
    stride: int

    @classmethod
    def of(
        cls, model: Model, bos: bool, window: int | None, stride: int | None
    ) -> _Options:
        room = model.config.n_positions
        window = room if window is None else window
        stride = window if stride is None else stride
        if window > room:
            raise ContextOverflowError(
                f"window {window} is more than the model's {room} positions"
            )
        if not 1 <= stride <= window:
            raise DecodingError(
                f"window and stride need 1 <= stride <= window, not {stride} and "
                f"{window}"
            )
        if bos and model.config.bos_token_id is None:
            raise DecodingError(
                "the config names no bos_token_id for the first token to follow; "
                "leave the first token out (bos=False, --no-bos)"
            )
        return cls(model.config.bos_token_id if bos else None, window, stride)


def _tokens(model: Model, scored: Iterable[tuple[int, float]]) -> Iterator[TokenScore]:
    """Ids with their texts; a character of several tokens comes with the last."""
    tokenizer, scored = model.tokenizer, iter(scored)
    if tokenizer is None:
        yield from (TokenScore(id, "", logprob, 0) for id, logprob in scored)
        return
    stream, first, here = tokenizer.stream(), True, next(scored, None)
    while here is not None:
        (id, logprob), after = here, next(scored, None)
        size = len(tokenizer.token_bytes(id, first, after is None))
        yield TokenScore(id, stream.push(id), logprob, size)
        first, here = False, after


def _total(tokens: Iterable[TokenScore]) -> Score:
    total, num_tokens, num_bytes = 0.0, 0, 0
    for token in tokens:
        if not math.isnan(token.logprob):
            total += token.logprob
            num_tokens += 1
            num_bytes += token.num_bytes
    if not num_tokens:
        raise DecodingError(
            "there is nothing to score: the text is empty, or its only token has "
            "nothing before it (bos=False)"
        )
    return Score(total, num_tokens, num_bytes)


def _document(
    model: Model, ids: Iterable[int], options: _Options
) -> Iterator[tuple[int, float]]:
    """Every id with its log-probability, window by window."""
    ids = iter(ids)
    start = options.bos
    if start is None:
        start = next(ids, None)
        if start is None:
            return
        yield start, math.nan
    cache = model.new_cache(1, n_positions=options.window)
    x, more = [start], options.window
    while new := list(islice(ids, more)):
        x += new  # inputs x[:-1], targets x[1:], of which the last are new
        yield from zip(new, last_logprobs(model, x, len(new), cache), strict=True)
        x, more = x[options.stride :], options.stride


@checked(DecodingError)
def last_logprobs(
    model: Model, ids: Sequence[int], n: int, cache: KVCache | None = None
) -> list[float]:
    """log P(x_i | x_<i) of the last n of these ids, in nats.

    The ids before the last must fit the model's positions; a cache is emptied and used.
    """
    x = check_ids([ids], model.config)
    if not 0 <= n < len(ids):
        raise DecodingError(f"{n} of {len(ids)} ids cannot have others before them")
    if cache is None:
        cache = model.new_cache(1, n_positions=max(1, len(ids) - 1))
    cache.crop(0)
    logprobs: list[float] = []
    first = len(ids) - 1 - n  # the input whose target is the first new one
    for start in range(0, len(ids) - 1, CHUNK):
        chunk = x[0, start : min(start + CHUNK, len(ids) - 1)].tolist()
        wanted = max(0, len(chunk) - max(first - start, 0))
        (z,) = model.all_logits([chunk], cache, [wanted])
        end = start + len(chunk) + 1
        logprobs += token_logprobs(z, x[0, end - wanted : end]).tolist()
    return logprobs


def token_logprobs(
    z: Float[np.ndarray, "T V"], targets: Int[np.ndarray, " T"]
) -> Float[np.ndarray, " T"]:
    """Log-probability of one target a row, log softmax(z)[target], in nats, float64.

    Raises DecodingError for logits that are no numbers.

    >>> token_logprobs(np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([1, 0])).round(4)
    array([-0.2877, -0.6931])
    """
    top = z.max(axis=-1)
    if not np.isfinite(top).all():
        raise DecodingError(
            "the logits hold NaN or infinity; check the weights with `npgpt verify`"
        )
    total = np.exp(z - top[:, None]).sum(axis=-1, dtype=np.float64)
    return (z[np.arange(len(z)), targets] - top).astype(np.float64) - np.log(total)
