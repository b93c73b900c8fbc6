"""Record what transformers' logits processors do into tests/fixtures/decoding.npz.

    pip install -e '.[peers]' && python tools/record_decoding_fixtures.py

`cases()` is also what the live comparisons (pytest -m peers) run on fresh numbers.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as hf

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
V, T, PROMPT = 24, 14, 6
EOS = [3, 5]
SEQUENCES = {(7,): 1.5, (1, 2): -2.0, (4, 4, 9): 3.0}
BAD = [[8], [2, 1], [0, 6, 6]]
SYNTHID = dict(
    ngram_len=4,
    keys=[654, 400, 836],
    sampling_table_size=512,
    sampling_table_seed=0,
    context_history_size=16,
)


def processors():
    """Every class under the name that the tests know it by."""
    on = "cpu"
    return {
        "temperature": hf.TemperatureLogitsWarper(0.7),
        "top_k": hf.TopKLogitsWarper(5),
        "top_p": hf.TopPLogitsWarper(0.8),
        "top_h": hf.TopHLogitsWarper(0.4),
        "min_p": hf.MinPLogitsWarper(0.15),
        "typical": hf.TypicalLogitsWarper(0.6),
        "epsilon": hf.EpsilonLogitsWarper(0.05),
        "eta": hf.EtaLogitsWarper(0.2),
        "repetition": hf.RepetitionPenaltyLogitsProcessor(1.7),
        "encoder_repetition": lambda prompt: hf.EncoderRepetitionPenaltyLogitsProcessor(
            1.7, prompt
        ),
        "no_repeat_ngram": hf.NoRepeatNGramLogitsProcessor(2),
        "encoder_no_repeat_ngram": lambda prompt: (
            hf.EncoderNoRepeatNGramLogitsProcessor(2, prompt)
        ),
        "sequence_bias": hf.SequenceBiasLogitsProcessor(SEQUENCES),
        "bad_words": hf.NoBadWordsLogitsProcessor(BAD, EOS),
        "suppress": hf.SuppressTokensLogitsProcessor([1, 4, 6]),
        "begin_suppress": hf.SuppressTokensAtBeginLogitsProcessor([1, 4], PROMPT),
        "prefix_allowed_tokens": hf.PrefixConstrainedLogitsProcessor(
            lambda batch, ids: [int(ids[-1]), 2, 11], 1
        ),
        "min_length": hf.MinLengthLogitsProcessor(T + 1, EOS, on),
        "min_new_tokens": hf.MinNewTokensLengthLogitsProcessor(
            PROMPT, T - PROMPT + 1, EOS, on
        ),
        "forced_eos": hf.ForcedEOSTokenLogitsProcessor(T + 1, [5], on),
        "exponential_decay": hf.ExponentialDecayLengthPenalty((3, 1.2), EOS, PROMPT),
        "normalize": hf.LogitNormalization(),
        "remove_invalid": hf.InfNanRemoveLogitsProcessor(),
    }


def inputs(n, seed):
    """Logits (n, V) and ids (n, T) of few distinct tokens, so that they repeat."""
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((n, V)) * rng.uniform(0.3, 4, (n, 1))).astype(np.float32)
    return z, rng.integers(0, 9, (n, T))


def run(processor, z, ids):
    """A class on one row, or on a row whose prompt it wants first."""
    ids = torch.tensor(ids[None])
    if not isinstance(processor, hf.LogitsProcessor):
        processor = processor(ids[:, :PROMPT])
    return processor(ids, torch.tensor(z[None]))[0].numpy()


def cases(n, seed):
    """{name: outputs (n, V)} with the inputs as "z" and "ids"."""
    z, ids = inputs(n, seed)
    out = {
        name: np.stack([run(p, z[i], ids[i]) for i in range(n)])
        for name, p in processors().items()
    }
    first = processors()["begin_suppress"]
    out["begin_suppress_first"] = np.stack(
        [run(first, z[i], ids[i, :PROMPT]) for i in range(n)]
    )
    holes = z.copy()
    holes[:, 0], holes[:, 1], holes[:, 2] = np.nan, np.inf, -np.inf
    invalid = processors()["remove_invalid"]
    out["remove_invalid"] = np.stack(
        [run(invalid, h, i) for h, i in zip(holes, ids, strict=True)]
    )
    return {"z": z, "ids": ids, "holes": holes, **out}


def synthid(seed, steps=40):
    """One text's scores at every step, and the table of bits that made them."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((steps, V)).astype(np.float32)
    ids = rng.integers(0, 4, PROMPT + steps)
    processor = hf.SynthIDTextWatermarkLogitsProcessor(device="cpu", **SYNTHID)
    scores = [
        processor(torch.tensor(ids[None, : PROMPT + t]), torch.tensor(z[None, t]))[0]
        for t in range(steps)
    ]
    table = processor.sampling_table.numpy()
    return dict(
        synthid_z=z,
        synthid_ids=ids,
        synthid_table=table,
        synthid=torch.stack(scores).numpy(),
    )


if __name__ == "__main__":
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    path = FIXTURES / "decoding.npz"
    np.savez_compressed(path, versions=versions, **cases(40, 0), **synthid(0))
    print(f"{path.name}: {path.stat().st_size:,} bytes, {versions}", file=sys.stderr)
