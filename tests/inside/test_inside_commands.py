"""`npgpt why`, `tokenize` and `shapes`: what a person types and reads."""

import itertools
import json

import pytest
from click.testing import CliRunner

from npgpt import GPT2, InsideError
from npgpt.cli import main
from npgpt.inside.merges import pre_tokens
from npgpt.inside.operations import by_block, operations
from npgpt.scaling.sizes import describe, matrix_numbers

PROMPT = "The old king"


def npgpt(*words, status=0, **more):
    result = CliRunner().invoke(main, [*words], **more)
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


def test_why_shows_what_python_knows(mini):
    address = "h.1.attn.out[t=2,c=5]"
    found = json.loads(npgpt("why", PROMPT, address, "--model", "tales-mini", "--json"))
    why = mini.why(address, PROMPT)
    assert {k: found[k] for k in why.to_json()} == json.loads(json.dumps(why.to_json()))
    assert found["value"] == pytest.approx(sum(t["value"] for t in found["terms"]))
    assert len(found["terms"]) == mini.config.n_embd + 1
    shown = npgpt("why", PROMPT, address, "--model", "tales-mini")
    assert shown == f"{why}\n"
    rows = shown.splitlines()
    for term in why.largest[:3]:
        named = [row for row in rows if term.operands[0].address in row]
        assert float(named[0].split()[0]) == pytest.approx(term.value, abs=1e-5)
    assert f"{mini.config.n_embd - 8} other terms" in shown
    assert "bias h.1.attn.c_proj.bias[c=5]" in shown
    assert f"npgpt/block.py:{why.source.line}" in shown


def test_the_rows_add_up_to_the_number(mini):
    for address in ("logits[t=2,v=11]", "h.2.mlp.pre[t=1,m=3]", "h.0.ln_1[t=1,c=2]"):
        lines = str(mini.why(address, PROMPT)).splitlines()
        at = max(i for i, line in enumerate(lines) if not line.strip())
        numbers = [float(line.split()[0]) for line in lines[at + 1 :]]
        *rows, total, value = numbers
        assert total == pytest.approx(sum(rows), abs=1e-6 * len(rows))
        assert value == pytest.approx(total, abs=2e-6)


def test_a_chain_goes_down_to_a_token(mini):
    chain = mini.why("logits[t=2,v=11]", PROMPT, depth=100)
    names = [why.address.partition("[")[0] for why in chain]
    assert names[:2] == ["logits", "ln_f"]
    for above, below in itertools.pairwise(chain):
        assert below.address in {operand.address for operand in above.operands}
    assert names[-1] in ("token", "position")


def test_a_chain_goes_through_a_maximum_by_the_number_that_it_is(mini):
    whys = mini.why("h.1.attn.weights.max[h=0,t=1]", PROMPT, depth=2)
    assert whys[1].value == whys[0].value
    assert "attn.scores" in whys[1].address


def test_a_difference_that_is_no_rounding_is_said(mini):
    why = mini.why("embed[t=1,c=0]", PROMPT)
    assert "MORE THAN ROUNDING" not in str(why)
    wrong = type(why)(**{**vars(why), "value": why.value + 1e-3})
    assert not wrong.agrees
    assert "MORE THAN ROUNDING" in str(wrong)


def test_a_notebook_shows_the_same(mini):
    why = mini.why("h.0.attn.scores[h=0,t=2,s=1]", PROMPT)
    shown = why._repr_html_()
    assert "other terms" in shown
    assert "<script" not in shown
    assert f"{why.value:.9g}" in shown


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["why", PROMPT, "h.9.ln_1[t=0,c=0]"], 1, "layers 0 to 5"),
        (["why", PROMPT, "logits[t=7,v=0]"], 1, "t is 0 to 2"),
        (["why", PROMPT, "logits"], 1, "also needs t (token, 0 to 2), v"),
        (["why", PROMPT], 2, "Missing argument 'ADDRESS'"),
        (["why", PROMPT, "logits[t=0,v=0]", "--depth", "0"], 2, "--depth"),
        (["shapes", PROMPT, "--names", "nothing"], 1, "no operation is called"),
        (["tokenize", "x", "--model", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, status, sentence):
    shown = npgpt(*words, status=status)
    assert sentence in shown
    assert "Traceback" not in shown


def test_terminals_without_blocks_have_plain_bars(monkeypatch, mini):
    shown = npgpt("why", PROMPT, "logits[t=2,v=11]", env={"PYTHONIOENCODING": "ascii"})
    assert "their sum so far" in shown


# tokenize

TEXTS = [
    "The old kingdom.",
    "  two spaces,\n\nlines\tand tabs ",
    "é 中文 🦊 İ",
    "don't we'll THE",
    "",
    "<|endoftext|>Once",
    "x" * 50,
]


@pytest.mark.parametrize("text", TEXTS)
def test_merges_end_in_the_ids_of_the_tokenizer(mini, text):
    parts = pre_tokens(mini.tokenizer, text)
    ids = [id for part in parts for id in part.ids]
    assert ids == mini.tokenizer.encode(text)
    assert "".join(part.text for part in parts) == text
    for part in parts:
        assert mini.tokenizer.decode(part.ids).encode() == part.bytes
        ranks = [merge.rank for merge in part.merges]
        symbols = part.symbols
        for (
            merge
        ) in part.merges:  # each joins its pair, and no pair of lower rank is left
            assert "".join(merge.symbols) == "".join(symbols)
            assert "".join(merge.pair) in merge.symbols
            symbols = merge.symbols
        if ranks:
            assert symbols == part.tokens


def test_merges_are_the_vocabulary_s_own(mini):
    model = json.loads(mini.tokenizer.backend.to_str())["model"]
    for part in pre_tokens(mini.tokenizer, "The kingdom"):
        for merge in part.merges:
            assert tuple(model["merges"][merge.rank]) == merge.pair


def test_tokenize_says_it_all():
    shown = npgpt("tokenize", "The kingdom", "--steps")
    assert "' kingdom'  8 bytes: 20 6b 69 6e 67 64 6f 6d" in shown
    assert "Ġ stands for a space" in shown
    data = json.loads(npgpt("tokenize", "The kingdom", "--steps", "--json"))
    assert [part["text"] for part in data["pre_tokens"]] == ["The", " kingdom"]
    plain = json.loads(npgpt("tokenize", "é", "--json"))
    assert (
        bytes(plain["tokens"][0]["bytes"])
        + bytes(b for token in plain["tokens"][1:] for b in token["bytes"])
        == "é".encode()
    )
    assert npgpt("tokenize", input="The king\n").endswith("2 tokens\n")


def test_a_tokenizer_without_merges_is_refused(tmp_path):
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordPiece

    from npgpt.tokenizer import Tokenizer

    pieces = Tokenizer(Library(WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    with pytest.raises(InsideError, match="WordPiece has no merges"):
        pre_tokens(pieces, "a")


# shapes


def test_the_sums_are_those_of_info_and_the_roofline(mini):
    ids, config = mini.encode("The old king had a"), mini.config
    found = operations(mini, ids, passes=1)
    info, T = describe(config), len(ids)
    each = info.flops_per_token_full - info.flops_per_token
    seen = each // (config.n_positions - 1)  # of every position that is looked at
    expected = T * (info.flops_per_token - seen) + seen * T * (T + 1) // 2
    assert sum(one.flops for one in found) == expected
    assert sum(one.weight_bytes for one in found) == 4 * matrix_numbers(config)
    together = by_block(found)
    assert sum(one.flops for one in together) == expected
    assert [one.times for one in together if "{i}" in one.name] == [config.n_layer] * 15
    assert all(one.seconds >= 0 for one in found)


def test_shapes_are_those_of_the_arrays(mini):
    ids = mini.encode(PROMPT)
    shapes = {}
    mini.logits([ids], lambda name, x: (shapes.update({name: x.shape}), x)[1])
    for one in operations(mini, ids, passes=1):
        if not one.name.endswith("c_attn"):
            assert one.shape == shapes[one.name]
        assert len(one.axes) == len(one.shape)
        assert one.source.file.startswith("npgpt/")


def test_shapes_prints_a_row_an_operation():
    shown = npgpt("shapes", PROMPT, "--model", "tales-mini", "--formulas")
    assert "h.{i}.mlp.pre x3" in shown
    assert "    = Σ_c ln_2[b,t,c] · c_fc.weight[c,m] + c_fc.bias[m]" in shown
    every = npgpt("shapes", PROMPT, "--model", "tales-mini", "--names", "h.1.*")
    assert "h.1.attn.weights" in every
    assert "h.0.attn.weights" not in every
    data = json.loads(npgpt("shapes", PROMPT, "--model", "tales-mini", "--json"))
    assert data["total"]["flops"] == sum(one["flops"] for one in data["operations"])
    assert "ln_f.rstd" in data["virtual"]
