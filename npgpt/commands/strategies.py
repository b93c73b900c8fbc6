"""`npgpt strategies`: the catalogue, and one strategy explained with five tokens."""

from __future__ import annotations

import inspect
from typing import Any

import click
import numpy as np

from npgpt.commands._shared import echo_json, json_option
from npgpt.decoding.catalogue import SECTIONS, find
from npgpt.decoding.registry import Parameter, Strategy, resolve

EXAMPLE = {"the": 0.4, "a": 0.3, "cat": 0.15, "old": 0.1, "queen": 0.05}


@click.command()
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List every decoding strategy, or explain the one called NAME.

    NAME is a code (C4), a name (min-p) or a parameter (min_p).

    Example: npgpt strategies min-p
    """
    if name is None:
        _list(as_json)
        return
    strategy = find(name)
    if as_json:
        echo_json(_fields(strategy))
        return
    function = resolve(strategy.function)
    _, start = inspect.getsourcelines(function)
    where = function.__module__.replace(".", "/") + ".py"
    click.secho(f"{strategy.name} ({strategy.code})", bold=True)
    click.echo(strategy.line)
    rows = [("formula", strategy.formula), ("source", f"{where}:{start}"),
            ("paper", strategy.paper), ("acts as", strategy.kind)]  # fmt: skip
    for title, text in rows:
        if text:
            click.echo(f"  {title:<9} {text}")
    for parameter in strategy.parameters:
        click.echo(f"  {parameter.name:<9} {_describe(parameter)}")
    if not strategy.parameters and strategy.switched_by:
        click.echo(f"  {'turned on':<9} {strategy.switched_by}={strategy.equals}")
    doc = inspect.getdoc(function) or ""
    click.echo("\n" + doc.split(">>>")[0].strip())
    example = worked_example(strategy)
    if example:
        click.echo("\n" + example)


def _list(as_json: bool) -> None:
    if as_json:
        echo_json(
            {
                section: [_fields(strategy) for strategy in strategies]
                for section, strategies in SECTIONS.items()
            }
        )
        return
    for section, strategies in SECTIONS.items():
        if not strategies:
            continue
        click.secho(section, bold=True)
        for s in strategies:
            click.echo(f"  {s.code:<4} {s.name}: {s.line}")
            names = ", ".join(p.name for p in s.parameters)
            details = "; ".join(text for text in (names, s.paper) if text)
            if details:
                click.secho(f"       {details}", dim=True)


def _describe(parameter: Parameter) -> str:
    allowed = parameter.bounds or "|".join(map(str, parameter.choices))
    allowed = f" ({allowed})" if allowed else ""
    return f"{parameter.help}{allowed} Default {parameter.default!r}."


def _fields(strategy: Strategy) -> dict[str, Any]:
    return {
        "code": strategy.code,
        "name": strategy.name,
        "line": strategy.line,
        "formula": strategy.formula,
        "function": f"npgpt.decoding.{strategy.function}",
        "kind": strategy.kind,
        "paper": strategy.paper,
        "parameters": [
            {"name": p.name, "kind": p.kind, "default": p.default, "help": p.help}
            for p in strategy.parameters
        ],
    }


SETTINGS: dict[str, dict[str, Any]] = {  # one telling setting for each example
    "B1": {"temperature": 0.5}, "B2": {"dynatemp_range": 0.5}, "B3": {"edt_theta": 0.5},
    "B4": {"smoothing_factor": 0.5}, "B5": {"skew": 0.5},
    "B6": {"renormalize_logits": True}, "C1": {"top_k": 2}, "C2": {"top_p": 0.6},
    "C3": {"top_p": 0.9, "top_p_decay": 0.9}, "C4": {"min_p": 0.3},
    "C5": {"typical_p": 0.5}, "C6": {"epsilon_cutoff": 0.12}, "C7": {"eta_cutoff": 0.3},
    "C8": {"top_a": 0.7}, "C9": {"tfs": 0.9}, "C10": {"top_n_sigma": 1.0},
    "C11": {"top_h": 0.5}, "C12": {"p_less": "on"},
    "C13": {"xtc_probability": 1.0, "xtc_threshold": 0.12},
    "D1": {"repetition_penalty": 1.5}, "D2": {"presence_penalty": 1.0},
    "D3": {"frequency_penalty": 1.0},
    "D4": {"repetition_penalty": 1.5, "repeat_last_n": 2},
    "D5": {"no_repeat_ngram_size": 2}, "D6": {"encoder_repetition_penalty": 1.5},
    "D7": {"encoder_no_repeat_ngram_size": 2},
    "D8": {"dry_multiplier": 1.0, "dry_allowed_length": 1},
    "D9": {"penalty_decoding": 1.5}, "D10": {"fsd_alpha": 0.4},
    "E1": {"logit_bias": {4: 2.0}}, "E2": {"sequence_bias": [[[0, 2], -3.0]]},
    "E3": {"bad_words_ids": [[0, 2]]}, "E4": {"suppress_tokens": [0]},
    "E5": {"allowed_token_ids": [2, 4]}, "E11": {"choice": [[2, 4], [3]]},
    "I1": {"watermark": "lefthash"}, "I2": {"watermark": "selfhash"},
    "I3": {"watermark": "synthid"}, "I5": {"watermark": "unigram"},
}  # fmt: skip


def worked_example(strategy: Strategy) -> str:
    """What a rule makes of five tokens after "the cat the"; empty for the rest.

    >>> print(worked_example(find("top_k")).splitlines()[-1])
      queen     0.050   0.000  -
    """
    from npgpt.decoding import GenerationConfig
    from npgpt.decoding.chain import build_chain, run_chain
    from npgpt.decoding.rules import Context, probabilities

    if strategy.code not in SETTINGS or strategy.kind != "rule":
        return ""
    setting, sampling = SETTINGS[strategy.code], strategy.code != "D10"
    options = GenerationConfig(do_sample=sampling, **setting)
    words, p = list(EXAMPLE), np.array(list(EXAMPLE.values()))
    ids = [0, 2, 0]
    # logits as a model might give them: log-probabilities plus a constant
    z = np.log(p) + 2.0
    # penalty decoding looks at new tokens only
    c = Context(prompt_length=0 if strategy.code == "D9" else len(ids), step=0)
    y = run_chain(build_chain(options, (1,), vocab_size=5), ids, z, c)
    q = probabilities(y) if sampling else np.where(y > -np.inf, y, 0)
    shown = ", ".join(f"{name}={value!r}" for name, value in setting.items())
    lines = [f"Example: {shown}, after {' '.join(words[i] for i in ids)!r}", ""]
    lines.append(f"  {'token':<8} {'before':>6}  {'after' if sampling else 'score':>6}")
    for word, before, after, logit in zip(words, p, q, y, strict=True):
        bar = "#" * round(40 * max(0.0, after)) if logit > -np.inf else "-"
        lines.append(f"  {word:<8} {before:6.3f}  {after:6.3f}  {bar}")
    return "\n".join(lines)
