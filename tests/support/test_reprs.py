"""What objects show of themselves: a line in a terminal, HTML in a notebook."""

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import tiny_params
from hypothesis import given
from hypothesis import strategies as st

from npgpt import GPT2, Generation, GenerationConfig, Score
from npgpt.inside.choice import look
from npgpt.scaling.fit import fit_runs, read_runs
from npgpt.support.figure import EDGES, SHADES
from npgpt.support.notebook import coloured_tokens
from npgpt.taps import Recorder

HOSTILE = "</pre><script>alert('&amp;')</script>\r\n\t\"quoted\" &lt; 漢\u2028"
ALLOWED = {"pre", "span", "div", "table", "caption", "tr", "th", "td"}


class Page(HTMLParser):
    """Which elements a piece of HTML has, the text in its <pre>, its table's cells."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.pre, self.colours, self.rows = [], set(), "", [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        attributes = dict(attributes)
        assert set(attributes) <= {"style", "title"}
        assert "url" not in attributes.get("style", "")
        if tag == "span" and "pre" in self.open:
            self.colours.append(attributes["style"])
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            self.pre += data
        elif self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def test_a_model_says_what_it_is(tales):
    line = repr(tales)
    for part in ("6 layers", "width 256", "5,918,720 parameters", "numpy float32"):
        assert part in line
    assert repr(GPT2.from_pretrained("tales-mini", dtype="float64")).startswith(
        "GPT2('tales-mini': 3 layers"
    )
    assert repr(GPT2(tiny_params())).startswith("GPT2(2 layers, width 16, ")
    assert repr(tales.tokenizer) == "Tokenizer(byte-level BPE, 4,096 tokens)"


def test_results_are_one_short_line(tales):
    made = tales.generate("The king", max_new_tokens=60)
    step = next(tales.stream("The king"))
    score = tales.score("The king was glad.")
    options = GenerationConfig(do_sample=True, top_k=50)
    choice = look(tales, tales.encode("The king"), options)
    recorder = Recorder()
    tales.logits([1, 2], recorder)
    lines = [repr(x) for x in (tales, made, step, score, recorder, choice.stages[1])]
    for line in [*lines, repr(choice), repr(fit_runs(read_runs(), bootstraps=2))]:
        assert line.isprintable()
        assert len(line) < 200
    assert f"60 tokens, {made.finish_reason})" in lines[1]
    assert repr(made.text[:20])[:-1] in lines[1]
    assert f"id {step.token_id}, " in lines[2]
    assert f"perplexity {score.perplexity:.2f}, " in lines[3]
    assert "wte, wpe, embed, ..., logits" in lines[4]
    assert "top_k(50): 50 tokens" in lines[5]
    assert "is the largest sum" in repr(choice)
    assert "log-probability" in repr(step)


def test_a_generation_is_coloured_by_probability(tales):
    made = tales.generate("The king", max_new_tokens=30, do_sample=True, seed=1)
    page = Page(made._repr_html_())
    assert page.pre == made.text == "".join(made.tokens)
    for logprob, style in zip(made.logprobs, page.colours, strict=True):
        shade = SHADES[int(np.searchsorted(EDGES, math.exp(logprob), side="right"))]
        assert shade in style


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"stop_strings": ["the"]}, {}])
def test_the_tokens_of_a_text_are_the_text(tales, options):
    made = tales.generate("Once upon a time", max_new_tokens=20, **options)
    assert "".join(made.tokens) == made.text
    assert len(made.tokens) == len(made.ids)


def test_a_score_is_coloured_and_has_its_figures(tales):
    score = tales.score("The king was glad.", bos=False)
    page = Page(score._repr_html_())
    assert page.pre == "".join(score.tokens)
    assert page.colours[0] == ""  # nothing stood before the first token
    assert f"{score.perplexity:.2f}" in page.rows[1]
    assert page.rows[0][0] == "tokens"
    figures = replace(score, ids=[], tokens=[], logprobs=[])  # as of a file
    assert Page(figures._repr_html_()).rows == page.rows


def test_a_choice_is_a_table_of_its_stages(tales):
    options = GenerationConfig(do_sample=True, top_k=3, temperature=0.7, seed=2)
    choice = look(tales, tales.encode("Once upon a"), options)
    page = Page(choice._repr_html_())
    head, *rows, last = page.rows
    assert head[1:] == [stage.name for stage in choice.stages]
    assert last[1:] == [stage.sentence for stage in choice.stages]
    ids = choice.best(10)
    for id, row in zip(ids, rows, strict=True):
        assert row[0].removeprefix("▶ ") == repr(choice.text(id))
        assert ("▶" in row[0]) == (id == choice.token_id)
        shown = [0.0 if cell == "cut" else float(cell) for cell in row[1:]]
        expected = [stage.p[id] for stage in choice.stages]
        np.testing.assert_allclose(shown, expected, atol=6e-5)


def hostile_generation(tokens):
    n = len(tokens)
    return Generation(
        "".join(tokens), [0] * n, [-1.0] * n, [-1.0] * n, [1] * n, "eos", [], [()] * n,
        tokens=tokens,
    )  # fmt: skip


def test_hostile_text_is_shown_and_does_nothing(tales):
    score = Score(-1.0, 1, 9, [0], [HOSTILE], [-1.0])
    for page in (
        Page(score._repr_html_()),
        Page(hostile_generation([HOSTILE])._repr_html_()),
    ):
        assert page.pre == HOSTILE
        assert page.tags <= ALLOWED
    choice = look(tales, [1], GenerationConfig())

    class Tokens:
        def decode(self, ids):
            return HOSTILE

    hostile = replace(choice, tokenizer=Tokens(), selector="<script>")
    assert Page(hostile._repr_html_()).tags <= ALLOWED
    for made in (score, hostile_generation([HOSTILE]), hostile):
        assert "<script" not in made._repr_html_()
        assert "\n" not in repr(made)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_out_as_it_was(texts):
    page = Page(coloured_tokens(texts, [-0.5] * len(texts)))
    assert page.pre == "".join(texts)
    assert page.tags <= ALLOWED


def test_a_text_without_tokens_is_shown():
    assert Page(hostile_generation([])._repr_html_()).pre == ""
