"""Worked examples of rules: five probabilities before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npgpt.decoding import GenerationConfig, healing
from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.chain import Setup, build_chain, run_chain
from npgpt.decoding.examples.five import ENDING, WORDS, Words, say, table
from npgpt.decoding.rules import regex, reshaping
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.errors import DecodingError

P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
END = np.array([0.3, 0.2, 0.15, 0.1, 0.25])  # of ENDING

SETTINGS: dict[str, dict[str, Any]] = {  # by name: one telling setting for each
    "temperature": {"temperature": 0.5},
    "dynamic temperature": {"dynatemp_range": 0.5},
    "EDT": {"edt_theta": 0.5},
    "quadratic smoothing": {"smoothing_factor": 0.5},
    "skew": {"skew": 0.5},
    "logit normalisation": {"renormalize_logits": True},
    "top-k": {"top_k": 2},
    "top-p": {"top_p": 0.6},
    "factual nucleus": {"top_p": 0.9, "top_p_decay": 0.9},
    "min-p": {"min_p": 0.3},
    "locally typical": {"typical_p": 0.5},
    "epsilon": {"epsilon_cutoff": 0.12},
    "eta": {"eta_cutoff": 0.3},
    "top-a": {"top_a": 0.7},
    "tail-free": {"tfs": 0.9},
    "top-n-sigma": {"top_n_sigma": 1.0},
    "top-H": {"top_h": 0.5},
    "p-less": {"p_less": "on"},
    "XTC": {"xtc_probability": 1.0, "xtc_threshold": 0.12},
    "repetition penalty": {"repetition_penalty": 1.5},
    "presence penalty": {"presence_penalty": 1.0},
    "frequency penalty": {"frequency_penalty": 1.0},
    "windowed and decaying penalty": {"repetition_penalty": 1.5, "repeat_last_n": 1},
    "no-repeat n-gram": {"no_repeat_ngram_size": 2},
    "encoder repetition penalty": {"encoder_repetition_penalty": 1.5},
    "encoder no-repeat n-gram": {"encoder_no_repeat_ngram_size": 2},
    "DRY": {"dry_multiplier": 1.0, "dry_allowed_length": 1},
    "penalty decoding": {"penalty_decoding": 1.5},
    "FSD": {"fsd_alpha": 0.4},
    "logit bias": {"logit_bias": {4: 2.0}},
    "sequence bias": {"sequence_bias": [[[0, 2], -3.0]]},
    "bad words": {"bad_words_ids": [[0, 2]]},
    "bad words as text": {"bad_words": ["old"]},
    "suppress tokens": {"suppress_tokens": [0]},
    "suppress tokens at begin": {"begin_suppress_tokens": [0, 1]},
    "allowed tokens": {"allowed_token_ids": [2, 4]},
    "prefix trie": {"choice": [[2, 4], [3]]},
    "KGW, left hash": {"watermark": "lefthash"},
    "KGW, self hash": {"watermark": "selfhash"},
    "SynthID": {"watermark": "synthid"},
    "Unigram": {"watermark": "unigram"},
    "allowed tokens by function": {
        "prefix_allowed_tokens_fn": lambda row, ids: [2, 3] if ids[-1] == 0 else [0, 1]
    },
}
ENDINGS: dict[str, dict[str, Any]] = {  # the same, where a text can end
    "minimum length": {"min_length": 5},
    "minimum new tokens": {"min_new_tokens": 2},
    "forced first token": {"forced_bos_token_id": 3},
    "forced last token": {"forced_eos_token_id": 4, "max_new_tokens": 1},
    "ignore EOS": {"ignore_eos": True},
    "exponential length decay": {"exponential_decay_length_penalty": (1, 1.3)},
}


def chain_example(strategy: Strategy) -> str:
    """What the chain makes of five tokens after "the cat the"."""
    ending = strategy.name in ENDINGS
    setting = (ENDINGS if ending else SETTINGS)[strategy.name]
    words, p, ids = (ENDING, END, [0, 1, 0]) if ending else (WORDS, P, [0, 2, 0])
    scores = strategy.code == "D10"  # no distribution follows
    options = GenerationConfig(do_sample=not scores, **setting)
    # penalty decoding looks at new tokens only, a length decays with them
    prompt = 0 if strategy.code in ("D9", "E10") else len(ids)
    context = Context(prompt_length=prompt, step=len(ids) - prompt)
    # logits as a model might give them: log-probabilities plus a constant
    chain = build_chain(options, (4 if ending else 1,), Words(words), vocab_size=5)
    y = run_chain(chain, ids, np.log(p) + 2.0, context)
    shown = ", ".join(f"{name}={_value(value)}" for name, value in setting.items())
    new = "" if prompt else " (new tokens)"
    head = f"{shown}, after {say(ids, words)}{new}\n\n"
    return head + before_after(p, y, words, scores)


def _value(value: Any) -> str:
    return "cat or old after the" if isinstance(value, Callable) else repr(value)


def before_after(p: Any, y: Any, words: Any = WORDS, scores: bool = False) -> str:
    """Probabilities before, and what the logits y make of them, with bars."""
    after = np.where(y > -np.inf, y, 0) if scores else probabilities(y)
    bars = [
        "#" * round(40 * max(0.0, a)) if z > -np.inf else "-"
        for a, z in zip(after, y, strict=True)
    ]
    return table({"before": p, "score" if scores else "after": after, "": bars}, words)


def invalid_example() -> str:
    """B7: numbers that are none."""
    z = np.array([np.nan, 1.0, 2.0, -np.inf, 0.5])
    y = reshaping.remove_invalid(z)
    return "remove_invalid_values=True\n\n" + table(
        {"z": [str(x) for x in z], "after": [f"{x:.4g}" for x in y]}
    )


def regex_example() -> str:
    """E12: tokens that may stand in a match."""
    words, pattern = ["a", "b", "ab", "c", "<end>"], "(ab)+c"
    tokens = [word.encode() for word in words[:4]] + [b""]
    mask = regex.RegexMask(pattern, tokens, eos=[4])

    def allowed(text: list[int]) -> np.ndarray:
        context = Context(0, len(text))
        return regex.regex(np.log(P), text, context, (mask, np.inf))

    return f"regex={pattern!r}\n\n" + after_texts(
        allowed, ([], [0], [2], [2, 3]), words
    )


def after_texts(rule: Callable, texts: Sequence[list[int]], words: Any) -> str:
    """What a rule leaves of five probabilities after each of some texts."""
    columns: dict[str, Any] = {"before": P}
    for text in texts:
        said = "".join(words[id] for id in text)
        columns[f"after {said!r}"] = probabilities(rule(text))
    return table(columns, words)


class Pieces(Words):
    """Tokens that are parts of words."""

    def token_bytes(self, id: int) -> bytes:
        """Their own letters."""
        return self.words[id].encode()


def grammar_example(strategy: Strategy) -> str:
    """E13 and E14: tokens on the way to a sentence."""
    from npgpt.decoding.rules import grammar

    schema = strategy.code == "E13"
    words = ["1", "2", "x", "-", "<end>"] if schema else ["(", ")", "x", "+", "<end>"]
    text = '{"type": "integer"}' if schema else 'root ::= "x" | "(" root ")"'
    prepare = grammar.prepare_schema if schema else grammar.prepare_grammar
    setup = Setup((4,), Pieces(words), 5, GenerationConfig(do_sample=True))
    try:
        mask = prepare(text, (), (), setup)
    except DecodingError as error:  # the library is an extra
        return str(error)
    texts = ([], [3], [3, 0]) if schema else ([], [0], [0, 2, 1])
    name = "json_schema" if schema else "grammar"
    return f"{name}={text!r}\n\n" + after_texts(
        lambda ids: grammar.grammar(np.log(P), ids, mask), texts, words
    )


def healing_example() -> str:
    """E16: the prompt's last token written anew."""
    words = [" t", " ti", " time", "me", " old"]
    context = Context(prompt_length=1, step=0, prefix=b" ti")
    y = healing.begin_with_prefix(np.log(P), [], context, Pieces(words))
    shown = "token_healing=True, the prompt 'Once upon a ti' without its last ' ti'"
    return f"{shown}\n\n" + before_after(P, y, [repr(word) for word in words])
