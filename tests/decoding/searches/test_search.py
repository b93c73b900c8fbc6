"""Searches: exact where they are wide enough, their laws, batches, what is refused."""

import itertools

import numpy as np
import pytest
from helpers import TINY, tiny_params
from toy import Toy, assert_follows, law, random_table

from npgpt import GPT2, DecodingError, GenerationConfig
from npgpt.decoding.job import Job
from npgpt.decoding.rules.base import Context, log_probabilities, probabilities
from npgpt.decoding.searches.beam import best_candidates, drawn_candidates, length_norm
from npgpt.decoding.searches.contrastive_search import choose
from npgpt.decoding.searches.power import Draw, _Chain
from npgpt.decoding.searches.reranking import minimum_bayes_risk, self_consistency

TOY = Toy(random_table(11))
PROMPTS = [[5, 9, 5, 9, 5], [1], [3, 4, 5, 6, 7, 8, 3, 4]]


@pytest.fixture(scope="module")
def tiny():
    return GPT2(tiny_params(TINY), dtype="float64")


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_wide_beam_is_exact_search(alpha, early_stopping):
    """27 beams over three tokens of three see every text."""
    options = {"eos_token_id": 2}
    exact = law(TOY, [0], 3, **options)
    best = max(exact, key=lambda text: np.log(exact[text]) / len(text) ** alpha)
    found = TOY.generate(
        [0],
        max_new_tokens=3,
        num_beams=27,
        length_penalty=alpha,
        early_stopping=early_stopping,
        **options,
    )
    if early_stopping is not True:  # True may stop before a better text has ended
        assert tuple(found.ids) == best
    text = tuple(found.ids)
    assert found.score == pytest.approx(np.log(exact[text]) / len(text) ** alpha)


def test_score_is_what_its_tokens_add_up_to(tiny):
    for kind in ("hf", "gnmt"):
        found = tiny.generate(
            PROMPTS[0],
            max_new_tokens=9,
            num_beams=3,
            length_penalty=0.7,
            length_normalization=kind,
            num_return_sequences=3,
        )
        for text in found:
            norm = length_norm(len(text.ids), 0.7, kind)
            assert text.score == pytest.approx(sum(text.logprobs) / norm)
            assert text.logprobs == text.processed_logprobs
        assert [t.score for t in found] == sorted(
            (t.score for t in found), reverse=True
        )


def test_beam_beats_greedy(tiny):
    greedy = tiny.generate(PROMPTS[0], max_new_tokens=9)
    beam = tiny.generate(PROMPTS[0], max_new_tokens=9, num_beams=6)
    assert sum(beam.logprobs) > sum(greedy.logprobs)


SEARCHES = {
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "beam sample": {"num_beams": 3, "do_sample": True, "seed": 5},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "stochastic": {"num_beams": 3, "stochastic_beams": True, "num_return_sequences": 3},
    "constrained": {"num_beams": 3, "force_words_ids": [[11, 12]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "cot": {"cot_branches": 3},
    "best of": {"best_of": 3, "do_sample": True, "seed": 5},
    "power": {
        "power_alpha": 2.0,
        "do_sample": True,
        "power_steps": 2,
        "power_block": 4,
    },
}


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("more", [{}, {"eos_token_id": [3, 4, 9, 12]}])
def test_batch_equals_single(tiny, kind, more):
    options = {
        **SEARCHES[kind],
        "max_new_tokens": 10,
        "repetition_penalty": 1.2,
        **more,
    }
    together = tiny.generate(PROMPTS, **options)
    alone = []
    for prompt in PROMPTS:
        found = tiny.generate(prompt, **options)
        alone += found if isinstance(found, list) else [found]
    assert [text.ids for text in together] == [text.ids for text in alone]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-9)


@pytest.mark.parametrize("kind", SEARCHES)
def test_logprobs_are_the_models(tiny, kind):
    """What a search reports is what reading its text in one go gives."""
    found = tiny.generate(PROMPTS[0], max_new_tokens=8, **SEARCHES[kind])
    for text in found if isinstance(found, list) else [found]:
        z = tiny.logits(PROMPTS[0] + text.ids)[0]
        for i, id in enumerate(text.ids):
            lp = log_probabilities(z[len(PROMPTS[0]) - 1 + i])
            assert text.logprobs[i] == pytest.approx(lp[id], abs=1e-9)
            assert text.ranks[i] == (lp > lp[id]).sum() + 1


def test_beam_sample_draws_without_replacement():
    """The first two candidates of one step have the law p_i p_j / (1 - p_i)."""
    lp = np.log(np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]))
    scores = [np.log(0.7), np.log(0.3)]
    p = (np.exp(lp) * [[0.7], [0.3]]).ravel()
    drawn = []
    for seed in range(1500):
        pair = drawn_candidates(lp, scores, 2, Context(1, 0, seed))
        drawn.append(tuple(3 * beam + token for _, beam, token in pair))
    expected = {
        (i, j): p[i] * p[j] / (1 - p[i]) for i, j in itertools.permutations(range(6), 2)
    }
    assert_follows(drawn, expected)


def test_stochastic_beams_are_drawn_without_replacement():
    """Two beams: the ordered pair of texts has the law p_i p_j / (1 - p_i)."""
    p = law(TOY, [0], 2, eos_token_id=2)
    drawn = []
    for seed in range(800):
        a, b = TOY.generate(
            [0],
            max_new_tokens=2,
            num_beams=2,
            stochastic_beams=True,
            seed=seed,
            num_return_sequences=2,
            eos_token_id=2,
        )
        drawn.append((tuple(a.ids), tuple(b.ids)))
    expected = {
        (a, b): p[a] * p[b] / (1 - p[a]) for a, b in itertools.permutations(p, 2)
    }
    assert_follows(drawn, expected)


def test_diversity_penalty_keeps_groups_apart(tiny):
    options = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4}
    plain = tiny.generate(PROMPTS[0], **options)
    diverse = tiny.generate(
        PROMPTS[0], num_beam_groups=4, diversity_penalty=50.0, **options
    )
    firsts = {text.ids[0] for text in diverse}
    assert len(firsts) == 4 > len({text.ids[0] for text in plain})


@pytest.mark.parametrize("words", [[[11, 12]], [[11], [7, 9]], [[[11, 12], [7]], [8]]])
def test_forced_words_are_in_the_text(tiny, words):
    for prompt in PROMPTS:
        found = tiny.generate(
            prompt,
            max_new_tokens=12,
            num_beams=4,
            force_words_ids=words,
            num_return_sequences=2,
        )[0]
        for entry in words:
            phrases = [entry] if isinstance(entry[0], int) else entry
            assert any(
                found.ids[i : i + len(phrase)] == phrase
                for phrase in phrases
                for i in range(len(found.ids))
            ), (found.ids, words)


def test_patience_waits_for_more_texts():
    options = {"max_new_tokens": 6, "num_beams": 2, "eos_token_id": 2,
               "early_stopping": True}  # fmt: skip
    scores = []
    for patience in (0.5, 1.0, 3.0):
        model = Toy(random_table(11))
        scores.append(model.generate([0], patience=patience, **options).score)
        scores.append(model.readings)
    assert scores[1] <= scores[3] <= scores[5]
    assert scores[1] < scores[5]
    assert scores[0] <= scores[2] <= scores[4]


def test_contrastive_search_of_one_candidate_is_greedy(tiny):
    greedy = tiny.generate(PROMPTS, max_new_tokens=9)
    for options in (
        {"top_k": 1, "penalty_alpha": 0.6},
        {"top_k": 5, "penalty_alpha": 1e-9},
    ):
        found = tiny.generate(PROMPTS, max_new_tokens=9, **options)
        assert [text.ids for text in found] == [text.ids for text in greedy]


def test_contrastive_choice_is_its_formula():
    h, seen = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0], [4.0, 3.0]])
    # cosines: the first with (0,1) .8 and (.8,.6) .96; the second 0 and .8
    assert choose(np.array([0.6, 0.4]), h, seen, 0.5) == 0  # .3-.48 = -.18, .2-.4 = -.2
    assert choose(np.array([0.6, 0.4]), h, seen, 0.9) == 1


def test_best_of_n_is_the_likeliest_of_the_samples(tiny):
    options = {
        "max_new_tokens": 8,
        "do_sample": True,
        "seed": 3,
        "eos_token_id": [3, 4],
    }
    samples = tiny.generate(PROMPTS[0], num_return_sequences=6, **options)
    for by, score in (("mean", np.mean), ("sum", np.sum)):
        best = tiny.generate(PROMPTS[0], best_of=6, best_of_by=by, **options)
        expected = max(samples, key=lambda text: score(text.logprobs))
        assert best.ids == expected.ids
        assert best.score == pytest.approx(score(expected.logprobs))


def test_cot_decoding_is_its_formula(tiny):
    found = tiny.generate(
        PROMPTS[0], max_new_tokens=5, cot_branches=4, num_return_sequences=4
    )
    z = tiny.logits(PROMPTS[0])[0, -1]
    assert {text.ids[0] for text in found} == set(np.argsort(-z)[:4].tolist())
    for text in found:
        follow = tiny.generate([*PROMPTS[0], text.ids[0]], max_new_tokens=4)
        assert text.ids[1:] == follow.ids
        z = tiny.logits(PROMPTS[0] + text.ids[:-1])[0, len(PROMPTS[0]) - 1 :]
        two = np.sort([probabilities(row) for row in z])[:, -2:]
        assert text.score == pytest.approx((two[:, 1] - two[:, 0]).mean())
    assert [t.score for t in found] == sorted((t.score for t in found), reverse=True)


def test_majority_and_consensus():
    assert self_consistency(["a 1", "b 2", "c 2.5", "2"]) == ("2", 0.5)
    texts = ["the red fox", "a red fox", "the red fox runs", "blue"]
    table = [
        [float(len(set(a.split()) & set(b.split()))) for b in texts] for a in texts
    ]
    utility = lambda a, b: float(len(set(a.split()) & set(b.split())))  # noqa: E731
    assert minimum_bayes_risk(texts, utility) == int(np.argmax(np.sum(table, axis=1)))
    with pytest.raises(DecodingError):
        minimum_bayes_risk([])


@pytest.mark.parametrize("eos", [(), (2,)])
def test_power_sampling_leaves_its_law_unchanged(eos):
    """A text drawn exactly from p^alpha, then moved once, still has the law p^alpha."""
    alpha, expected = 2.0, law(TOY, [0], 3, power=2.0, eos_token_id=eos)
    texts, p = list(expected), np.array(list(expected.values()))
    moved, changed = [], 0
    for seed in range(1000):
        options = GenerationConfig(
            max_new_tokens=3,
            do_sample=True,
            power_alpha=alpha,
            seed=seed,
            eos_token_id=eos,
        )
        job = Job(TOY, [[0]], options)
        chain = _Chain(job, job.rows()[0])
        u = chain.row.context.uniforms(1, 99)[0]
        text = texts[int(np.searchsorted(np.cumsum(p), u))]
        logp, proposal = [], []
        for a, b in itertools.pairwise((0, *text)):
            lp = log_probabilities(TOY.table[a])
            logp.append(float(lp[b]))
            proposal.append(float(log_probabilities(alpha * lp)[b]))
        after = chain.move(Draw(list(text), logp, proposal), 3)
        changed += tuple(after.ids) != text
        moved.append(tuple(after.ids))
    assert changed > 100
    assert_follows(moved, expected)


def test_power_sampling_reaches_its_law():
    expected = law(TOY, [0], 2, power=3.0)
    found = TOY.generate(
        [0],
        max_new_tokens=2,
        num_return_sequences=400,
        do_sample=True,
        power_alpha=3.0,
        power_steps=8,
        power_block=2,
    )
    assert_follows([tuple(text.ids) for text in found], expected)


def test_best_candidates_sorts_all_pairs():
    lp = np.log(np.array([[0.25, 0.25, 0.5], [0.25, 0.5, 0.25]]))
    found = best_candidates(lp, [0.0, 0.0], 4)
    assert [(b, v) for _, b, v in found] == [(0, 2), (1, 1), (0, 0), (0, 1)]


@pytest.mark.parametrize("V", [1, 63, 64, 130, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_best_candidates_of_long_rows_are_those_of_a_sort(V, dtype):
    rng = np.random.default_rng(V)
    cases = itertools.product((1, 4), (2, 9), (0, 1), (0.0, 0.5, 0.99))
    for beams, n, rounded, removed in cases:
        lp = rng.standard_normal((beams, V)) * 3 - 4
        lp = (np.round(lp) if rounded else lp).astype(dtype)  # rounded: many ties
        lp[rng.random(lp.shape) < removed] = -np.inf
        scores = np.round(-9 * rng.random(beams), 2)
        pairs = [
            (float(lp[b, v]) + scores[b], b, v)
            for b, v in itertools.product(range(beams), range(V))
            if lp[b, v] > -np.inf
        ]
        pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
        assert best_candidates(lp, scores, n) == pairs[:n]


@pytest.mark.parametrize("more", [{}, {"repetition_penalty": 1.2}])
def test_ranks_of_beams_are_those_of_reading_the_text(tales, more):
    worst = 1
    for beams in (2, 5):
        text = tales.generate("The king", max_new_tokens=14, num_beams=beams, **more)
        z = tales.logits(text.prompt_ids + text.ids)[0, len(text.prompt_ids) - 1 : -1]
        ranks = [
            int((row > row[id]).sum()) + 1 for row, id in zip(z, text.ids, strict=True)
        ]
        assert text.ranks == ranks
        worst = max(worst, *ranks)
    assert worst > 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_beams_refuse_what_is_no_distribution(value):
    toy = Toy(random_table(2))
    toy.table[1, 0] = value
    for more in ({}, {"repetition_penalty": 1.1}):
        with pytest.raises(DecodingError, match=r"NaN|\+inf"):
            toy.generate([1], max_new_tokens=3, num_beams=2, **more)


def test_steps_stream_what_generate_returns(tales):
    found = tales.generate("Once upon a time", max_new_tokens=12, num_beams=3)
    steps = list(tales.stream("Once upon a time", max_new_tokens=12, num_beams=3))
    assert "".join(step.text for step in steps) == found.text
    assert steps[-1].score == found.score
    assert [step.finish_reason for step in steps[:-1]] == [None] * 11


def test_beams_end_at_a_stop_string(tales):
    found = tales.generate(
        "Once upon a time", max_new_tokens=30, num_beams=3, stop_strings=["the"]
    )
    assert found.finish_reason in ("stop", "length")
    assert "the" not in found.text
    more = tales.generate("Once upon a time", max_new_tokens=30, num_beams=3)
    assert "the" in more.text


def test_a_stop_string_before_all_words_does_not_outlast_the_budget(tales):
    words = [tales.encode(" zebra")]
    text = tales.generate(
        "Once upon a time",
        max_new_tokens=9,
        num_beams=3,
        force_words_ids=words,
        stop_strings=["a", "the"],
        num_return_sequences=3,
    )
    assert all(len(found.ids) <= 9 for found in text)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_return_sequences": 5},
        {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
        {"num_beams": 4, "num_beam_groups": 2},
        {"num_beam_groups": 2, "diversity_penalty": 1.0},
        {"length_penalty": 2.0},
        {"num_beams": 2, "patience": 2.0},
        {"num_beams": 2, "early_stopping": "always"},
        {"num_beams": 2, "stochastic_beams": True, "length_penalty": 2.0},
        {"num_beams": 2, "force_words_ids": [[99]]},
        {"num_beams": 2, "force_words_ids": [[[1], [1, 2]]]},
        {"num_beams": 2, "force_words_ids": [7]},
        {"num_beams": 2, "overflow": "slide"},
        {"num_beams": 2, "do_sample": True, "mirostat": 2},
        {"num_beams": 2, "penalty_alpha": 0.6, "top_k": 4},
        {"penalty_alpha": 0.6},
        {"penalty_alpha": 0.6, "top_k": 4, "do_sample": True},
        {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 24},
        {"best_of": 2},
        {"best_of": 2, "num_return_sequences": 3, "do_sample": True},
        {"cot_branches": 2, "do_sample": True},
        {"power_alpha": 2.0},
    ],
)
def test_what_cannot_work_is_refused(tiny, options):
    with pytest.raises((DecodingError, Exception)) as caught:
        tiny.generate([5], **options)
    assert type(caught.value).__name__ in ("DecodingError", "ContextOverflowError")


def test_bench_compares_a_model_with_itself(tales):
    from npgpt.bench.decoding import Comparison, same_text, time_strategies

    found = time_strategies(tales, tales, new_tokens=8, rounds=1)
    assert [one.agrees for one in found] == [True, True, True]
    assert [one.met is None for one in found] == [False, False, True]
    assert all(one.tokens_per_second > 0 for one in found)
    line = str(Comparison("x", 3.0, 2.0, 2.0, False))
    assert "1.50 x 2.0 (goal 2: NOT met), DISAGREES" in line
    texts = [tales.generate(word, max_new_tokens=4) for word in ("Once", "The king")]
    assert same_text(texts[0], texts[0])
    assert not same_text(*texts)


def test_bench_of_decoding_from_the_command_line(tmp_path):
    import json

    from click.testing import CliRunner
    from helpers import TINY, tiny_params

    from npgpt.bench.rules import cases
    from npgpt.cli import main
    from npgpt.storage import checkpoint

    checkpoint.save(tiny_params(TINY), tmp_path)  # no tokenizer: a text of its own
    run = ["bench", "--decoding", "-m", str(tmp_path), "--rounds", "1"]
    result = CliRunner().invoke(main, [*run, "--backend", "numpy", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [rule["name"] for rule in found["rules"]] == list(cases())
    assert [one["agrees"] for one in found["decoding"]] == [True, True]
    plain = CliRunner().invoke(main, [*run, "--backend", "numpy"])
    assert "prompt lookup" in plain.stdout
    assert "typical" in plain.stdout


def test_searches_from_the_command_line():
    import json

    from click.testing import CliRunner

    from npgpt.cli import main

    def call(*options):
        return CliRunner().invoke(
            main, ["generate", "Once", "--greedy", "--max-new-tokens", "6", *options]
        )

    plain = json.loads(call("--json").stdout)["generations"][0]
    for options in (
        ["--assistant-model", "tales-mini"],
        ["--prompt-lookup-num-tokens", "4"],
        ["--lookahead-window", "3"],
    ):
        found = call("--json", *options)
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["generations"][0]["ids"] == plain["ids"]
    beam = json.loads(call("--json", "--num-beams", "3").stdout)["generations"][0]
    assert beam["score"] * 6 >= sum(plain["logprobs"])
    for options in (
        ["--guidance-scale", "1.5", "--negative-prompt", "A king"],
        ["--penalty-alpha", "0.6", "--top-k", "4"],
        ["--dola-layers", "low"],
        ["--amateur-model", "tales-mini"],
    ):
        assert call(*options).exit_code == 0
    refused = call("--num-beams", "3", "--prompt-lookup-num-tokens", "4")
    assert refused.exit_code == 1
    assert "choose one" in refused.stderr
