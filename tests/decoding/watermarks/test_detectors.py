"""Detectors of watermarks: p-values hold on innocent text, marked text is found."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from helpers import shapes_unchecked
from laws import REJECT, MarkovModel

from npgpt import DecodingError, GenerationConfig
from npgpt.decoding import decode
from npgpt.decoding.watermarks import synthid, tails, watermark

RNG = np.random.default_rng

# Prose as it is told, with the repetitions that trip a test of independent tokens.
TALE = """
Once upon a time there was a miller who had a mill, a mule and a daughter, and of the
three the daughter was the wisest. One evening the river stood still, and the wheel of
the mill stood still, and the miller stood still and did not know what to do. "Go to the
river," said the daughter, "and ask the river why it does not run." So the miller went
to the river and asked the river why it did not run, and the river said: "I do not run,
for the mountain does not send me the snow. Go to the mountain and ask the mountain why
it does not send the snow." So the miller went to the mountain and asked the mountain
why it did not send the snow, and the mountain said: "I do not send the snow, for the
sun does not melt it. Go to the sun and ask the sun why it does not melt the snow." So
the miller went home, for the way to the sun was long, and told his daughter what the
river had said and what the mountain had said. "The sun does not melt the snow," said
the daughter, "for it is winter, and in the winter the sun is tired. Let us eat our
bread, and mend the wheel, and feed the mule, and wait." And they ate their bread, and
they mended the wheel, and they fed the mule, and they waited, and in the spring the sun
melted the snow, and the mountain sent the snow to the river, and the river ran, and the
wheel of the mill turned and turned, and if it has not stopped, it is turning still.
"""


def tale(rng):
    """The words of the tale as ids, two in three of them, from a random place on."""
    words = TALE.lower().replace(",", " ,").replace(".", " .").split()
    ids = {word: id for id, word in enumerate(dict.fromkeys(words))}
    start = rng.integers(0, len(words) // 3)
    return [ids[word] for word in words[start : start + 2 * len(words) // 3]]


def zipf(rng, V=1000, T=200):
    """Words with the frequencies of a language: the r-th has about 1 / r."""
    p = 1 / np.arange(1, V + 1)
    return rng.choice(V, T, p=p / p.sum()).tolist()


def few(rng):
    return zipf(rng, T=12)


def binomial_tail(k, n, p):
    return tails.count_tail(k, [(np.array([1 - p, p]), n)])


def p_value(scheme, ids, rng):
    """That of innocent text under a secret of its own."""
    if scheme.startswith("synthid"):
        keys, size = rng.integers(0, 2**62, 16).tolist(), int(scheme[7:])
        return synthid.detect(ids, keys, sampling_table_size=size).p_value
    name, _, width = scheme.partition("-")
    key = int(rng.integers(0, 2**63))
    return watermark.detect(
        ids, 1000, name, hashing_key=key, context_width=int(width or 1)
    ).p_value


CHEAP = ("selfhash-1", "selfhash-4", "unigram", "synthid65536", "synthid1024")
DEAR = ("lefthash-1", "gumbel-1")  # V random numbers a context


@pytest.mark.parametrize("text", [zipf, tale, few])
@pytest.mark.parametrize("scheme", [*CHEAP, *DEAR])
def test_p_values_hold_on_innocent_text(scheme, text):
    """p <= a in at most a of all texts; counts are whole: in a / 2 at least."""
    n = 200 if scheme in DEAR and text is not few else 800
    with shapes_unchecked():
        rngs = [RNG([seed, 5]) for seed in range(n)]
        p_values = np.array([p_value(scheme, text(rng), rng) for rng in rngs])
    for a in (0.05, 0.01, 0.001):
        accused = int((p_values <= a).sum())
        assert binomial_tail(accused, n, a) > REJECT, (a, accused / n)
        if text is not few:
            as_few = 1 - binomial_tail(accused + 1, n, a / 2)
            assert as_few > REJECT, (a, accused / n)


@pytest.mark.parametrize(("size", "step"), [(5, 1), (16, 1), (100, 1), (64, 4)])
def test_small_tables_keep_the_law(size, step):
    """Where slots are read again and again, and the mean is far from one half.

    Of ids in steps of four a hash of 64 slots meets 16: repetition without a pattern
    that the eye sees.
    """
    with shapes_unchecked():
        rngs = [RNG([seed, size]) for seed in range(600)]
        texts = [[id * step for id in zipf(rng)] for rng in rngs]
        both = zip(texts, rngs, strict=True)
        p_values = [p_value(f"synthid{size}", ids, rng) for ids, rng in both]
    for a in (0.05, 0.01, 0.001):
        accused = sum(p <= a for p in p_values)
        assert binomial_tail(accused, 600, a) > REJECT, (size, a, accused / 600)


def test_synthid_is_near_the_exact_law_of_few_bits():
    """One key and 20 slots: whole numbers of ones, far from a normal number."""
    table, key = synthid.bits(65536), 654
    for seed in range(200):
        ids = RNG(seed).integers(0, 500, 24)
        ngrams = np.lib.stride_tricks.sliding_window_view(ids, 5)
        keyed = np.column_stack([ngrams, np.full(20, key)])
        slots = synthid.hash_tokens(np.ones(20, np.int64), keyed) % 65536
        ones = int(table[slots].sum())
        law = tails.hypergeometric(65536, int(table.sum()), 20)
        exact = tails.count_tail(ones, [(law, 1)])
        # far out the normal number is the more frequent one: on the safe side
        assert 0.95 < synthid.detect(ids, [key]).p_value / exact < 1.3


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("T", [1, 2, 10, 120])
def test_green_p_values_are_exact(T, ratio):
    """Against whole numbers of ways: no rounding, no approximation."""
    V, ids = 50, RNG(1).integers(0, 50, T + 1).tolist()
    K = math.floor(ratio * V)
    pairs = set(itertools.pairwise(ids))
    for scheme, sizes in (
        ("unigram", [len(set(ids))]),
        ("lefthash", Counter(context for context, _ in pairs).values()),
    ):
        ways, total = [1], 1
        for m in sizes:
            one = [math.comb(K, k) * math.comb(V - K, m - k) for k in range(m + 1)]
            both = [0] * (len(ways) + m)
            for i, a in enumerate(ways):
                for j, b in enumerate(one):
                    both[i + j] += a * b
            ways, total = both, total * math.comb(V, m)
        found = watermark.detect(ids, V, scheme, greenlist_ratio=ratio)
        assert found.tokens == sum(sizes)
        assert found.p_value == pytest.approx(sum(ways[found.found :]) / total)
    found = watermark.detect(ids, V, "selfhash", greenlist_ratio=ratio)
    n, p = found.tokens, 0.0
    for k in range(found.found, n + 1):
        p += math.comb(n, k) * ratio**k * (1 - ratio) ** (n - k)
    assert found.p_value == pytest.approx(p)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("scheme", ["lefthash", "selfhash", "unigram", "gumbel"])
def test_a_text_told_twice_proves_no_more(scheme, width):
    ids = tale(RNG(0))
    once = watermark.detect(ids, 1000, scheme, context_width=width)
    twice = watermark.detect(ids * 2, 1000, scheme, context_width=width)
    assert once.tokens <= twice.tokens <= once.tokens + width  # the seam is new
    once = synthid.detect(ids, [3, 5], width + 1)
    twice = synthid.detect(ids * 2, [3, 5], width + 1)
    assert once.tokens <= twice.tokens <= once.tokens + width


def test_self_hash_counts_a_pair_once_in_all_contexts():
    """The hash takes one token of the last four: of three tokens, 3 x 3 pairs."""
    ids = RNG(2).integers(0, 3, 300).tolist()
    contexts = {tuple(ids[t - 4 : t + 1]) for t in range(4, 300)}
    found = watermark.detect(ids, 3, "selfhash", context_width=4)
    assert found.tokens <= 3 * (3 + 1) < len(contexts)  # each token with itself, too


@pytest.mark.parametrize("scheme", ["selfhash", "lefthash"])
def test_detectors_find_the_mark_of_wide_contexts(scheme):
    options = dict(watermark=scheme, context_width=4)
    ids = marked(150, options)
    assert watermark.detect(ids, 500, scheme, context_width=4).p_value < 1e-6


@pytest.mark.parametrize("size", [256, 1000, 1024])
def test_synthid_finds_the_mark_of_a_small_table(size):
    ids = marked(250, dict(watermark="synthid", sampling_table_size=size))
    keys = GenerationConfig().synthid_keys
    assert synthid.detect(ids, keys, sampling_table_size=size).p_value < 1e-6
    wrong = [key * 7 + 3 for key in keys]
    assert synthid.detect(ids, wrong, sampling_table_size=size).p_value > 1e-3


def marked(tokens, options):
    """A text with a mark, from a toy model."""
    model = MarkovModel(RNG(0).standard_normal((500, 500)), n_positions=256)
    config = GenerationConfig(do_sample=True, max_new_tokens=tokens, **options)
    with shapes_unchecked():
        return [step.token_id for step in decode(model, [[0]], config)]


def test_synthid_allows_for_the_mean_of_its_table():
    """A table with few ones: every text has few, and none is marked for it."""
    ids, table = RNG(0).integers(0, 500, 300).tolist(), np.zeros(512, np.int64)
    table[::8] = 1
    found = synthid.detect(ids, range(1, 31), table=table)
    assert abs(found.score) < 4


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_table_that_marks_nothing_is_refused(size):
    with pytest.raises(DecodingError, match=f"sampling_table_size {size}: all bits"):
        synthid.detect(list(range(20)), [3, 5], sampling_table_size=size)
    with pytest.raises(DecodingError, match="mark nothing"):
        synthid.synthid(np.zeros(4), [1], [3, 5], 3, 8, size)


def test_a_table_read_evenly_tells_nothing():
    found = synthid.detect([3] * 9, [0, 1, 2, 3], sampling_table_size=4)
    assert (found.score, found.p_value) == (0.0, 1.0)


def test_detectors_name_what_they_cannot_test():
    for ids, message in (
        ([], "too short to test: 0 tokens"),
        ([4], "too short to test: 1 tokens"),
        ([4, 50, 2], "token 50 is not in the vocabulary, 0 to 49"),
        ([4, -1, 2], "token -1 is not"),
    ):
        with pytest.raises(DecodingError, match=message):
            watermark.detect(ids, 50, "lefthash")
    for ratio in (0, 1):
        with pytest.raises(DecodingError, match=f"greenlist_ratio {ratio} makes all"):
            watermark.detect([4, 5, 6], 50, "selfhash", greenlist_ratio=ratio)
