"""A strategy is added in one place: everything else follows while the program runs."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from npgpt import DecodingError, GenerationConfig
from npgpt.bench.rules import cases
from npgpt.cli import main
from npgpt.decoding import catalogue
from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.chain import build_chain, parse_order, preset
from npgpt.decoding.rules.base import keep


def npgpt(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def gapped(z, most):
    """Tokens whose logit is small enough: keep z <= max z - m.

    A rule of this test alone. Source: nobody (2026, arXiv:0000.00000).
    """
    return keep(z, z <= z.max() - most)


@pytest.fixture
def added():
    """The rule above, entered as a module of decoding would enter it, and removed."""
    assert "gapped" not in str(everywhere()) + str(parse_order("top_k"))  # nor kept
    enter = strategy("C18", "gapped", rank=35, sampling=True, limit=1.0)
    enter(
        parameter("gapped", 0.0, "Distance; 0 is off.", 0)(example(gapped=0.1)(gapped))
    )
    yield catalogue.find("gapped")
    catalogue.remove(catalogue.find("gapped"))


def everywhere():
    """Where a strategy shows: a place, and what is said there."""
    listed = json.loads(npgpt("strategies", "--json").stdout)
    names = [s["name"] for s in listed["Truncation"]]
    return {
        "list": npgpt("strategies").output,
        "list as JSON": json.dumps(names),
        "help of generate": npgpt("generate", "--help-all").output,
        "help of sample": npgpt("sample", "--help-all").output,
        "orders": " ".join([*preset("hf"), *preset("llama.cpp"), *preset("vllm")]),
        "benchmark": str(cases()),
    }


def test_a_rule_is_added_in_one_place(added):
    shows = everywhere()
    assert "  C18  gapped: Tokens whose logit is small enough." in shows["list"]
    assert "gapped; nobody (2026, arXiv:0000.00000)" in shows["list"]
    assert json.loads(shows["list as JSON"])[-1] == "gapped"  # in the codes' order
    for verb in ("generate", "sample"):
        assert "--gapped X" in shows[f"help of {verb}"]
        assert "Gapped: Distance; 0 is off." in shows[f"help of {verb}"]
    assert cases()["gapped"] == ({"gapped": 0.1}, 1.0)
    explained = npgpt("strategies", "gapped").output
    for part in (
        "keep z <= max z - m",
        "test_catalogue.py:",
        "Example: gapped=0.1",
    ):
        assert part in explained


@pytest.mark.parametrize(
    ("chain", "order"),
    [
        ("hf", "temperature(0.5) top_k(3) gapped(0.25) top_p(0.9)"),
        ("llama.cpp", "top_k(3) gapped(0.25) top_p(0.9) temperature(0.5)"),
        (
            "gapped;temp;top_p,top_k",
            "gapped(0.25) temperature(0.5) top_p(0.9) top_k(3)",
        ),
    ],
)
def test_the_rule_stands_in_every_chain(added, chain, order):
    options = GenerationConfig(
        do_sample=True, temperature=0.5, top_k=3, top_p=0.9, gapped=0.25, chain=chain
    )
    rules = build_chain(options)
    assert " ".join(map(str, rules)) == order
    (rule,) = (rule for rule in rules if rule.name == "gapped")
    left = rule.apply([0], np.array([0.0, -0.2, -0.3]), None)
    assert left.tolist() == [-np.inf, -np.inf, -0.3]


def test_the_rule_is_checked_and_runs_at_the_command_line(added):
    given = ["-m", "tales-mini", "--gapped", "0.5", "--seed", "1"]
    stages = npgpt("sample", "Once upon", *given, "--show").output
    assert "gapped(0.5)" in stages
    written = npgpt("generate", "Once", *given, "--max-new-tokens", "2")
    assert "gapped(0.5)" in written.stderr
    with pytest.raises(DecodingError, match="gapped must be at least 0, not -1"):
        GenerationConfig(do_sample=True, gapped=-1)
    with pytest.raises(DecodingError, match="gapped changes nothing without do_sample"):
        GenerationConfig(gapped=1.0)
    with pytest.raises(DecodingError, match="called gapped already"):
        catalogue.enter(added)


def test_a_removed_rule_is_gone_everywhere(added):
    assert all("gapped" in said for said in everywhere().values())
    catalogue.remove(added)
    try:
        assert not [place for place, said in everywhere().items() if "gapped" in said]
        with pytest.raises(DecodingError, match="unknown option 'gapped'"):
            GenerationConfig(gapped=1.0)
    finally:
        catalogue.enter(added)
