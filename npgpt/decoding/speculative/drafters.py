"""Drafters that read no model: they guess the next tokens of a row from its text alone.

Those with a model are in npgpt.decoding.speculative.assistants, Jacobi's and lookahead
decoding's own guesses in lookahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.job import Job
from npgpt.decoding.row import Row, Step
from npgpt.decoding.speculative.loop import Drafter, check_speculative, speculate


class PromptLookup(Drafter):
    """What followed the last tokens before is the draft: the longest n-gram at the end,
    found earlier; what followed it.

    The longest n-gram that ends the text (n = max_ngram .. 1) is searched in the text;
    the latest place with enough tokens behind it is taken (Transformers takes the first
    one). No match, no draft. Source: Saxena, "Prompt Lookup Decoding" (2023).
    """

    def __init__(self, num_tokens: int, max_ngram: int = 2):
        self.num_tokens, self.max_ngram = num_tokens, max_ngram

    def guess(self, row: Row, limit: int) -> list[int]:
        """What followed the same tokens before."""
        return lookup(row.ids, min(self.num_tokens, limit), self.max_ngram)


def lookup(ids: Sequence[int], n: int, max_ngram: int) -> list[int]:
    """The n tokens after the latest earlier place of the longest matching end of ids.

    >>> lookup([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2, 2)
    [4, 9]
    """
    text = np.asarray(ids)
    ends = np.flatnonzero(text[:-1] == text[-1])  # the last token, earlier
    for back in range(1, min(max_ngram, len(ids) - 1)):
        longer = ends[ends >= back]
        longer = longer[text[longer - back] == text[-1 - back]]
        if not longer.size:
            break
        ends = longer
    if n < 1 or not ends.size:
        return []
    enough = ends[ends + n < len(ids)]
    at = int(enough[-1] if enough.size else ends[0]) + 1
    return text[at : at + n].tolist()


class NgramCache(Drafter):
    """The most frequent followers in the text are the draft: argmax_v count(context,
    v), of the longest known context.

    The draft goes on with the most frequent follower of the longest known context, the
    latest of equals, until none is known. Counts grow with the text, and each row has
    its own. Sources: llama.cpp's ngram-cache; Oliaro et al., "SuffixDecoding" (2024,
    arXiv:2411.04975).
    """

    def __init__(self, num_tokens: int, size: int = 3):
        self.num_tokens, self.size = num_tokens, size
        self.tables: dict[int, dict[tuple[int, ...], Counter[int]]] = {}  # one a row
        self.read: dict[int, int] = {}

    def guess(self, row: Row, limit: int) -> list[int]:
        """The most frequent continuation of the row."""
        table = self.tables.setdefault(row.index, {})
        for at in range(max(1, self.read.get(row.index, 0)), len(row.ids)):
            for n in range(1, min(self.size, at) + 1):
                context = tuple(row.ids[at - n : at])
                table.setdefault(context, Counter())[row.ids[at]] += 1
        self.read[row.index] = len(row.ids)
        draft: list[int] = []
        while len(draft) < min(limit, self.num_tokens):
            text = (row.ids[-self.size :] + draft)[-self.size :]
            ends = (tuple(text[i:]) for i in range(len(text)))
            known = next((table[end] for end in ends if end in table), None)
            if known is None:
                break
            most = max(known.values())
            draft.append([x for x, count in known.items() if count == most][-1])
        return draft


@strategy("H4", "prompt lookup", kind="search", explains=PromptLookup)
@fields(also=("typical_acceptance", "typical_delta"))
@parameter("prompt_lookup_num_tokens", 0, "Tokens; 0 is off.", 1)
@parameter("max_matching_ngram_size", 2, "Tokens matched.", 1)
@example(prompt_lookup_num_tokens=3)
def prompt_lookup(job: Job) -> Iterator[Step]:
    """H4: what followed the last tokens earlier in the text is drafted again."""
    o = job.options
    check_speculative(job, "prompt_lookup_num_tokens")
    drafter = PromptLookup(o.prompt_lookup_num_tokens, o.max_matching_ngram_size)
    return speculate(job, drafter)


@strategy("H5", "n-gram cache", kind="search", explains=NgramCache)
@fields(also=("typical_acceptance", "typical_delta"))
@parameter("ngram_cache_num_tokens", 0, "Tokens; 0 is off.", 1)
@parameter("ngram_cache_size", 3, "Longest context counted.", 1)
@example(ngram_cache_num_tokens=2)
def ngram_cache(job: Job) -> Iterator[Step]:
    """H5: counts of n-grams of the text so far draft."""
    check_speculative(job, "ngram_cache_num_tokens")
    drafter = NgramCache(
        job.options.ngram_cache_num_tokens, job.options.ngram_cache_size
    )
    return speculate(job, drafter)
