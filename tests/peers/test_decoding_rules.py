"""Live comparison with transformers' logits processors, 300 random rows each.

Run with `pytest -m peers`. Cumulative rules decide by a sum that float32 there and
float64 here may put on either side of the line: such rows are counted and must be rare.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "decoding" / "rules")]
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

pytestmark = pytest.mark.peers
ROWS = 300
CUMULATIVE = ("top_p", "typical", "top_h", "eta", "epsilon")


@pytest.fixture(scope="module")
def live():
    pytest.importorskip("transformers")
    import record_decoding_fixtures as record

    return record.cases(ROWS, seed=20_000)


def names():
    from test_rules import RULES

    return sorted(RULES)


@pytest.mark.parametrize("name", names())
def test_rule_equals_transformers(name, live):
    from test_rules import compare

    inputs, apart = live["holes" if name == "remove_invalid" else "z"], 0
    for z, ids, expected in zip(inputs, live["ids"], live[name], strict=True):
        try:
            compare(name, z, ids.tolist(), expected)
        except AssertionError:
            apart += 1
    assert apart <= (1 if name in CUMULATIVE else 0)


@pytest.mark.parametrize("seed", range(8))
def test_synthid_equals_transformers(seed):
    pytest.importorskip("transformers")
    import record_decoding_fixtures as record

    from npgpt.decoding.watermarks.synthid import synthid

    live = record.synthid(seed + 100)
    ids = live["synthid_ids"].tolist()
    for t, expected in enumerate(live["synthid"]):
        y = synthid(
            live["synthid_z"][t],
            ids[record.PROMPT : record.PROMPT + t],
            tuple(record.SYNTHID["keys"]),
            4,
            16,
            512,
            live["synthid_table"],
        )
        seen = expected > np.finfo(np.float32).min
        np.testing.assert_allclose(y[seen], expected[seen], atol=2e-5)


def test_watermark_scores_equal_transformers():
    """The z-score of a green list, given g of T.

    Its p-value takes z for a normal number; ours is exact, and near it.
    """
    torch = pytest.importorskip("torch")
    from transformers import WatermarkDetector

    from npgpt.decoding.watermarks.watermark import detect

    ids = np.random.default_rng(0).integers(0, 1000, 200).tolist()
    found = detect(ids, 1000, "lefthash", greenlist_ratio=0.25)
    detector = WatermarkDetector.__new__(WatermarkDetector)
    detector.greenlist_ratio = 0.25
    z = detector._compute_z_score(np.array([found.found]), np.array([found.tokens]))
    assert found.score == pytest.approx(float(z[0]))
    p = 0.5 * torch.erfc(torch.tensor(found.score, dtype=torch.float64) / 2**0.5)
    assert found.p_value == pytest.approx(float(p), abs=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_whole_chain_equals_transformers_list(seed):
    """Hugging Face's order: the same rules, built by its generate."""
    torch = pytest.importorskip("torch")
    from transformers import GenerationConfig as Theirs
    from transformers import GPT2Config, GPT2LMHeadModel

    from npgpt import GenerationConfig
    from npgpt.decoding import Context
    from npgpt.decoding.chain import build_chain, run_chain

    settings = dict(
        repetition_penalty=1.3,
        no_repeat_ngram_size=3,
        bad_words_ids=[[4], [2, 1]],
        temperature=0.8,
        top_k=12,
        top_p=0.9,
        min_p=0.02,
        typical_p=0.95,
        epsilon_cutoff=0.001,
        eta_cutoff=0.002,
        suppress_tokens=[7],
        min_new_tokens=3,
        do_sample=True,
        max_new_tokens=20,
    )
    model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=8, n_layer=1, n_head=1))
    theirs = Theirs(eos_token_id=5, pad_token_id=0, max_length=40, **settings)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 9, 14).tolist()
    theirs._eos_token_tensor = torch.tensor([5])
    processors = model._get_logits_processor(
        theirs,
        input_ids_seq_length=6,
        encoder_input_ids=torch.tensor([ids[:6]]),
        prefix_allowed_tokens_fn=None,
        logits_processor=[],
        device="cpu",
    )
    chain = build_chain(GenerationConfig(**settings), [5])
    for _ in range(50):
        z = (rng.standard_normal(24) * 2).astype(np.float32)
        expected = processors(torch.tensor([ids]), torch.tensor(z[None]))[0].numpy()
        y = run_chain(chain, ids, z, Context(6, 8))
        assert ((y > -np.inf) == (expected > -np.inf)).all()
        kept = y > -np.inf
        np.testing.assert_allclose(y[kept], expected[kept], rtol=1e-5)
