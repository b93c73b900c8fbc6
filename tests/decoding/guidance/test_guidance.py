"""Guidance: each formula on separate readings, with every strategy, in batches."""

import numpy as np
import pytest
from helpers import TINY, tiny_params

from npgpt import GPT2, DecodingError, GPT2Config
from npgpt.decoding.guidance import formulas
from npgpt.decoding.guidance.dola import Dola, dola_layers
from npgpt.decoding.guidance.guided import Guided, Part
from npgpt.decoding.rules.base import log_probabilities
from npgpt.ops import log_softmax

PROMPTS = [[5, 9, 5, 9, 5], [1, 2], [3, 4, 5, 6, 7, 8, 3, 4]]


@pytest.fixture(scope="module")
def models():
    return [GPT2(tiny_params(TINY, seed), dtype="float64") for seed in (0, 5, 6)]


def kinds(models):
    main, second, third = models
    negative = [[7, 7, 8], [2], [9]]
    last = lambda model, ids: model.logits(ids)[0, -1]  # noqa: E731

    def classifier_free(prompt, new, i):
        z, n = last(main, prompt + new), last(main, negative[i] + new)
        lp, ln = log_softmax(z), log_softmax(n)
        return ln + 1.7 * (lp - ln)

    def without_prompt(prompt, new, i):
        lp = log_softmax(last(main, prompt + new))
        ln = log_softmax(last(main, prompt[-1:] + new))
        return ln + 1.7 * (lp - ln)

    def aware(prompt, new, i):
        lp = log_softmax(last(main, prompt + new))
        ln = log_softmax(last(main, negative[i] + new))
        return 1.5 * lp - 0.5 * ln

    def contrastive(prompt, new, i):
        lp = log_softmax(last(main, prompt + new))
        la = log_softmax(last(second, prompt + new) / 0.5)
        return np.where(lp >= lp.max() + np.log(0.1), lp - la, -np.inf)

    def improved(prompt, new, i):
        z, a = last(main, prompt + new), last(second, prompt + new)
        lp = log_softmax(z)
        return np.where(lp >= lp.max() + np.log(0.1), 1.5 * z - 0.5 * a, -np.inf)

    def experts(prompt, new, i):
        z = [last(model, prompt + new) for model in models]
        return z[0] + 2 * (z[1] - z[2])

    def product(prompt, new, i):
        z = [log_softmax(last(model, prompt + new)) for model in models]
        return 0.5 * z[0] + 0.3 * z[1] + 0.2 * z[2]

    def mixture(prompt, new, i):
        z = [np.exp(log_softmax(last(model, prompt + new))) for model in models[:2]]
        return np.log(0.75 * z[0] + 0.25 * z[1])

    def anti(prompt, new, i):
        return log_softmax(last(main, prompt + new)) - 0.4 * log_softmax(
            last(second, prompt + new)
        )

    return {
        "negative": (
            {"guidance_scale": 1.7, "negative_prompt": negative},
            classifier_free,
        ),
        "no prompt": ({"guidance_scale": 1.7}, without_prompt),
        "aware": (
            {"context_aware_alpha": 0.5, "prompt_without_context": negative},
            aware,
        ),
        "contrastive": ({"amateur_model": second}, contrastive),
        "improved": ({"amateur_model": second, "contrastive_beta": 0.5}, improved),
        "experts": (
            {"expert_model": second, "anti_expert_model": third, "dexperts_alpha": 2.0},
            experts,
        ),
        "product": (
            {"ensemble_models": [second, third], "ensemble_weights": [0.5, 0.3, 0.2]},
            product,
        ),
        "mixture": (
            {
                "ensemble_models": second,
                "ensemble_weights": [0.75, 0.25],
                "ensemble": "mixture",
            },
            mixture,
        ),
        "anti": ({"anti_lm_weight": 0.4, "anti_lm_model": second}, anti),
    }


NAMES = ["negative", "no prompt", "aware", "contrastive", "improved", "experts",
         "product", "mixture", "anti"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_its_formula(models, name):
    """Cached and batched, against whole readings of every context, step by step."""
    options, formula = kinds(models)[name]
    found = models[0].generate(PROMPTS, max_new_tokens=6, **options)
    for i, (prompt, text) in enumerate(zip(PROMPTS, found, strict=True)):
        for step, id in enumerate(text.ids):
            z = formula(prompt, text.ids[:step], i)
            assert id == z.argmax(), (name, i, step)
            expected = log_probabilities(z)[id]
            assert text.logprobs[step] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [*NAMES, "dola"])
@pytest.mark.parametrize(
    "strategy",
    [
        {"num_beams": 3},
        {"do_sample": True, "seed": 3},
        {"prompt_lookup_num_tokens": 3},
        {"lookahead_window": 2, "lookahead_ngram": 3},
        {"penalty_alpha": 0.5, "top_k": 3},
    ],
    ids=["beam", "sample", "lookup", "lookahead", "contrastive"],
)
def test_every_strategy_works_with_every_guidance(models, name, strategy):
    options = {"dola_layers": [0, 1]} if name == "dola" else kinds(models)[name][0]
    if name == "dola" and (
        "penalty_alpha" in strategy or "lookahead_window" in strategy
    ):
        with pytest.raises(DecodingError):
            models[0].generate(PROMPTS[0], max_new_tokens=6, **options, **strategy)
        return
    together = models[0].generate(PROMPTS, max_new_tokens=6, **options, **strategy)
    for i, prompt in enumerate(PROMPTS):
        alone = {
            k: v[i] if k in ("negative_prompt", "prompt_without_context") else v
            for k, v in options.items()
        }
        found = models[0].generate(prompt, max_new_tokens=6, **alone, **strategy)
        assert found.ids == together[i].ids
    if "prompt_lookup_num_tokens" in strategy or "lookahead_window" in strategy:
        plain = models[0].generate(PROMPTS, max_new_tokens=6, **options)
        assert [text.ids for text in plain] == [text.ids for text in together]


def test_scale_one_and_weight_zero_change_nothing(models):
    z, other = (model.logits(PROMPTS[0])[0, -1] for model in models[:2])
    lp = log_softmax(z)
    for same in (
        formulas.classifier_free(z, other, 1.0),
        formulas.context_aware(z, other, 0.0),
        formulas.anti_lm(z, other, 0.0),
        formulas.product(np.stack([z, other]), [1.0, 0.0]),
        formulas.mixture(np.stack([z, other]), [1.0, 0.0]),
        formulas.contrastive(z, other, alpha=0.0, coefficient=0.0),
    ):
        np.testing.assert_allclose(same, lp, atol=1e-12)
    assert (formulas.dexperts(z, other, other, 3.0) == z).all()
    np.testing.assert_allclose(formulas.improved_contrastive(z, other, 0.0, 0.0), z)


def test_context_aware_is_classifier_free(models):
    z, other = (model.logits(PROMPTS[0])[0, -1] for model in models[:2])
    lp, ln = log_softmax(z), log_softmax(other)
    np.testing.assert_allclose(
        formulas.context_aware(z, other, 0.5), 1.5 * lp - 0.5 * ln, atol=1e-12
    )


def test_what_is_ruled_out_stays_out():
    z = np.array([1.0, -np.inf, 0.0, 2.0])
    other = np.array([0.0, -np.inf, -np.inf, 1.0])
    for combined in (
        formulas.classifier_free(z, other, 2.0),
        formulas.anti_lm(z, other, 0.5),
        formulas.product(np.stack([z, other]), [0.5, 0.5]),
        formulas.improved_contrastive(z, other),
    ):
        assert (combined[[1, 2]] == -np.inf).all()
        assert np.isfinite(combined[3])


def test_divergence_is_zero_for_equals_and_at_most_ln_2():
    lp = log_softmax(np.array([1.0, 2.0, 0.5]))
    assert formulas.jensen_shannon(lp, lp) == pytest.approx(0)
    far = np.log(np.array([1e-300, 1 - 1e-12, 1e-300]))
    assert formulas.jensen_shannon(
        np.log(np.array([1.0, 1e-300, 1e-300])), far
    ) <= np.log(2)


def test_dola_is_its_formula(models):
    model = models[0]
    wrapped = Dola(model, [0, 1])
    z = wrapped.next_logits([PROMPTS[0]], wrapped.new_cache())[0]
    rows = model.layer_logits(
        [PROMPTS[0]], model.new_cache(), [0, 1, 2], [1], norm=True
    )
    lp = log_softmax(rows[0][0])
    np.testing.assert_allclose(lp[2], log_softmax(model.logits(PROMPTS[0])[0, -1]))
    js = [formulas.jensen_shannon(lp[2], lp[j]) for j in (0, 1)]
    expected = lp[2] - lp[int(np.argmax(js))]
    kept = lp[2] >= lp[2].max() + np.log(0.1)
    np.testing.assert_allclose(z[kept], expected[kept])
    assert (z[~kept] == -np.inf).all()


@pytest.mark.parametrize(
    ("N", "tied", "low", "high"),
    [  # as transformers 4.51.3 chooses them
        (12, True, [2, 4], [6, 8, 10]),
        (12, False, [0, 2, 4], [6, 8, 10]),
        (4, True, [2], [2]),
        (2, True, [1], [1]),
        (48, True, list(range(2, 20, 2)), list(range(28, 48, 2))),
    ],
)
def test_dola_layers_low_and_high(N, tied, low, high):
    config = GPT2Config(n_layer=N, tie_word_embeddings=tied)
    assert dola_layers(config, "low") == low
    assert dola_layers(config, "high") == high


def test_dola_layers_are_checked(models):
    config = models[0].config
    assert dola_layers(config, [1]) == [1]
    for bad in ("middle", [2], [], ["a"]):
        with pytest.raises(DecodingError):
            dola_layers(config, bad)


def test_caches_crop_and_reorder_together(models):
    """After any editing of the caches, reading on gives what a fresh reading gives."""
    model = models[0]
    guided = Guided(
        [Part(model, (None, lambda origin, prompt: [7, 8, origin])), Part(models[1])],
        lambda z: z.sum(0),
    )
    cache = guided.new_cache(2)
    guided.next_logits([[5, 9, 5], [1, 2]], cache)
    guided.next_logits([[4, 6], [3, 3]], cache)
    cache.crop([4, 3])
    cache = cache.select([1, 0, 0])
    cache.copy_row(2, 0)
    z = guided.next_logits([[11], [12], [13]], cache)

    def fresh(ids, prompt, origin):
        other = [7, 8, origin, *ids[len(prompt) :]]
        return sum(
            m.logits(row)[0, -1]
            for m, row in ((model, ids), (model, other), (models[1], ids))
        )

    np.testing.assert_allclose(z[0], fresh([1, 2, 3, 11], [1, 2], 1), atol=1e-9)
    np.testing.assert_allclose(z[1], fresh([5, 9, 5, 4, 12], [5, 9, 5], 0), atol=1e-9)
    np.testing.assert_allclose(z[2], fresh([1, 2, 3, 13], [1, 2], 1), atol=1e-9)


@pytest.mark.peers
def test_classifier_free_guidance_matches_transformers():
    import sys
    from pathlib import Path

    import torch
    from helpers import TINY as config

    sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
    from record_fixtures import hf_model

    other = hf_model(config, torch.float64)
    own = GPT2(tiny_params(config), dtype="float64")
    rng = np.random.default_rng(0)
    for _ in range(300):
        prompt = rng.integers(1, config.vocab_size, rng.integers(2, 6)).tolist()
        negative = rng.integers(1, config.vocab_size, rng.integers(1, 6)).tolist()
        scale = float(rng.uniform(0.3, 3))
        more = (
            {}
            if rng.random() < 0.5
            else {"negative_prompt_ids": torch.tensor([negative])}
        )
        ids = torch.tensor([prompt])
        expected = other.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            guidance_scale=scale,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            **more,
        )[0, len(prompt) :].tolist()
        found = own.generate(
            prompt,
            guidance_scale=scale,
            max_new_tokens=6,
            negative_prompt=negative if more else None,
        )
        assert found.ids == expected


@pytest.mark.parametrize(
    "options",
    [
        {"negative_prompt": "x"},
        {"guidance_scale": 2.0, "negative_prompt": [[1], [2]]},
        {"guidance_scale": 2.0, "overflow": "slide"},
        {"context_aware_alpha": 0.5},
        {"dola_layers": "middle"},
        {"dola_layers": [2]},
        {"contrastive_beta": 0.5},
        {"amateur_model": "small"},
        {"ensemble_weights": [1.0]},
    ],
)
def test_what_cannot_work_is_refused(models, options):
    with pytest.raises(DecodingError):
        models[0].generate([5, 6], **options)
