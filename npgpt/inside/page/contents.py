"""What a page says besides numbers: tokens, formulas, functions, lines of code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np

from npgpt.block import attention_scale
from npgpt.inside.address import LETTERS, axes
from npgpt.inside.attention import token_labels
from npgpt.inside.page.pack import Pack, parameters
from npgpt.inside.recipes import recipes
from npgpt.inside.source import short
from npgpt.inside.trace import Trace
from npgpt.inside.why import doc_formula

SMALL = 8192  # a vocabulary whose texts are all told
BEST = 200  # of a larger one those of so many tokens, at every position


def described(
    trace: Trace,
    prompt: str | None,
    weights: str,
    start: str | None,
    pack: Pack,
    model: str | None,
) -> dict[str, Any]:
    """Everything but the arrays, as plain data."""
    config, ids = trace.config, trace.passes[0].ids[0]
    bound = recipes(config)
    layers = range(config.n_layer)
    labels = token_labels(trace.model, ids)
    return {
        "model": model or "a model without a name",
        "prompt": "".join(labels) if prompt is None else prompt,
        "weights": weights,
        "start": start or "",
        "path": trace.path,
        "dtype": trace.dtype,
        "layers": config.n_layer,
        "sizes": trace.sizes(),
        "letters": LETTERS,
        "constants": {
            "D": config.head_dim,
            "C": config.n_embd,
            "epsilon": config.layer_norm_epsilon,
        },
        "scale": [attention_scale(config, layer) for layer in layers],
        "tokens": [
            {"id": id, "label": label, "shown": trace.text(id)}
            for id, label in zip(ids, labels, strict=True)
        ],
        "texts": _texts(trace, pack),
        "recipes": _recipes(trace),
        "taps": [
            {
                "name": name,
                "pattern": _pattern(name),
                "layer": int(name.split(".")[1]) if name.startswith("h.") else 0,
                "names": one.full,
                "virtual": one.virtual is not None,
            }
            for name, one in bound.items()
        ],
        "parameters": {name: axes(name, config) for name in parameters(trace)},
        "functions": _functions(trace),
    }


def _pattern(name: str) -> str:
    return re.sub(r"^h\.\d+\.", "h.{i}.", name)


def _recipes(trace: Trace) -> dict[str, Any]:
    """Every recipe once, whatever its layer."""
    said = {}
    for name, one in recipes(trace.config).items():
        if _pattern(name) in said:
            continue
        source = trace.sources.get(name)
        said[_pattern(name)] = {
            "letters": one.letters,
            "node": one.short,
            "function": one.function.__name__ if one.function is not None else "",
            "meaning": one.meaning,
            "source": None if source is None else [str(source), source.text],
        }
    return said


def _functions(trace: Trace) -> dict[str, Any]:
    """The functions of the pass: where they stand, their formula, their code."""
    said = {}
    for one in recipes(trace.config).values():
        function = one.function
        if function is None or function.__name__ in said:
            continue
        function = inspect.unwrap(function)
        lines, first = inspect.getsourcelines(function)
        said[function.__name__] = {
            "place": f"{short(inspect.getsourcefile(function) or '')}:{first}",
            "doc": doc_formula(function),
            "code": "".join(lines),
        }
    return said


def _texts(trace: Trace, pack: Pack) -> dict[int, str]:
    """Texts of tokens: all, or those of the best of every position that is here."""
    V = trace.config.vocab_size
    if trace.tokenizer is None:
        return {}
    if V <= SMALL:
        return {id: trace.text(id) for id in range(V)}
    z = pack.array("logits")
    lines = pack.lines["logits"]
    rows = range(len(z)) if lines is None else sorted(lines.at)
    best = {*trace.passes[0].ids[0]}
    for row in rows:
        best.update(np.argpartition(-z[row], BEST)[:BEST].tolist())
    return {int(id): trace.text(int(id)) for id in sorted(best)}
