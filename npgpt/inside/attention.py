"""Figures of what attention may see and what it looks at, for slides and for reading.

Every function returns a matplotlib Figure that belongs to no window, for
npgpt.support.figure.save to write. matplotlib is imported here, so import this module
only where a figure is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.colors import BoundaryNorm, ListedColormap, PowerNorm
from matplotlib.figure import Figure

from npgpt.errors import PlotError
from npgpt.interface import Model, TappedModel
from npgpt.ops import causal_mask
from npgpt.shapes import Float
from npgpt.support.arguments import checked
from npgpt.support.figure import BLUE, BLUES, INK, MONOSPACE, PAPER
from npgpt.taps import Recorder

MOST_TOKENS = 64  # beyond this no label is legible
_FONTS = ("DejaVu Sans Mono", "DejaVu Sans")  # of labels and of titles


@checked(PlotError)
def plot_mask(T: int, S: int | None = None, window: int | None = None) -> Figure:
    """The causal mask of T new positions among S: which key each query may see.

    window: only the last so many keys are seen. Raises PlotError for sizes that
    cannot be.
    """
    S = T if S is None else S
    if not 1 <= T <= S:
        raise PlotError(f"the mask needs 1 <= T <= S, not T={T} and S={S}")
    if window is not None and window < 1:
        raise PlotError(f"window must be at least 1, not {window}")
    if S > MOST_TOKENS:
        raise PlotError(f"S is {S}; a figure shows at most {MOST_TOKENS} positions")
    mask = causal_mask(T, S, window=None if window is None else min(window, S))
    cell = min(0.5, 10 / S)
    figure = Figure(figsize=(cell * S + 2.6, cell * T + 1.9), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap([PAPER, BLUE])
    image = axes.imshow(mask, cmap=colours, norm=BoundaryNorm([0, 0.5, 1], 2))
    axes.set_xticks(np.arange(S) - 0.5, minor=True)
    axes.set_yticks(np.arange(T) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    step = max(1, S // 16)
    axes.set_xticks(range(0, S, step))
    axes.set_yticks(range(0, T, step), [str(i) for i in range(S - T, S, step)])
    axes.set_xlabel("key: position that is looked at")
    axes.set_ylabel("query: position that looks")
    rule = "key ≤ query" if window is None else f"query − {window} < key ≤ query"
    size = f"T = {T}" if S == T else f"T = {T} new of S = {S}"
    axes.set_title(f"Causal mask, {size}\n{rule}", fontsize=11)
    bar = figure.colorbar(image, ax=axes, ticks=[0.25, 0.75], shrink=0.6, aspect=12)
    bar.ax.set_yticklabels(["hidden (−∞)", "visible"])
    bar.ax.tick_params(which="both", length=0)
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure


@checked(PlotError)
def attention_weights(
    model: TappedModel, ids: Sequence[int]
) -> Float[np.ndarray, "L H T T"]:
    """Attention of every layer and head over these tokens; each row sums to 1."""
    recorder = Recorder(
        lambda name: name.endswith(".attn.weights"),
        lambda array: np.array(model.backend.to_numpy(array)[0]),
    )
    model.logits([ids], recorder)
    return np.stack(list(recorder.arrays.values()))


@checked(PlotError)
def plot_attention(
    model: TappedModel, text: Any, layer: int | None = None, head: int | None = None
) -> Figure:
    """Who looks at whom: attention weights over the tokens of a text (or its ids).

    One head, or a grid of small pictures where layer, head or both are left out.
    Layers and heads count from 0. Raises PlotError for one that is not there, and for
    a text too long to be shown.
    """
    ids = model.encode(text)
    config = model.config
    for name, value, n in (
        ("layer", layer, config.n_layer),
        ("head", head, config.n_head),
    ):
        if value is not None and not 0 <= value < n:
            raise PlotError(f"{name} {value} is not there; it has {name}s 0 to {n - 1}")
    if len(ids) > MOST_TOKENS:
        raise PlotError(
            f"the text has {len(ids)} tokens; a figure shows at most {MOST_TOKENS}, "
            "shorten it"
        )
    weights = attention_weights(model, ids)
    labels = token_labels(model, ids)
    if layer is not None and head is not None:
        return _one_head(weights[layer, head], labels, f"layer {layer}, head {head}")
    layers = range(config.n_layer) if layer is None else [layer]
    heads = range(config.n_head) if head is None else [head]
    return _grid(weights, layers, heads, labels)


@checked(PlotError)
def token_labels(model: Model, ids: Sequence[int]) -> list[str]:
    """What to write beside a token: spaces and line ends made visible.

    >>> from npgpt import GPT2
    >>> model = GPT2.from_pretrained("tales")
    >>> token_labels(model, [0, *model.encode("The king\\n")])
    ['<|endoftext|>', 'The', '␣king', '↵']
    """
    if model.tokenizer is None:
        return [str(id) for id in ids]
    labels = []
    for id in ids:
        text = model.tokenizer.token_bytes(id).decode(errors="backslashreplace")
        for character, shown in ((" ", "␣"), ("\n", "↵"), ("\t", "⇥"), ("\r", "␍")):
            text = text.replace(character, shown)
        text = text if len(text) < 16 else text[:14] + "…"
        labels.append("".join(map(_drawable, text)))
    return labels


def _drawable(character: str) -> str:
    """The character, or its escape: a control, or no glyph in matplotlib's own fonts.

    >>> _drawable("é"), _drawable("漢"), _drawable("\\0")
    ('é', '\\\\u6f22', '\\\\x00')
    """
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in _FONTS]
    if character.isprintable() and all(f.get_char_index(ord(character)) for f in fonts):
        return character
    return character.encode("unicode_escape").decode()


def _one_head(
    weights: Float[np.ndarray, "T T"], labels: list[str], where: str
) -> Figure:
    T = len(labels)
    cell = min(0.42, 12 / T) if T > 6 else 0.6
    room = 0.09 * max(map(len, labels)) + 0.6  # inches beside the picture for labels
    size = cell * T
    figure = Figure(
        figsize=(max(size + room + 1.5, 4.5), max(size + room + 0.6, 3.6)),
        layout="constrained",
    )
    axes = figure.subplots()
    image = axes.imshow(_hide_future(weights), cmap=BLUES, vmin=0, vmax=1)
    font = min(10, 62 * cell)
    style: dict[str, Any] = {"fontsize": font, **MONOSPACE}
    axes.set_xticks(range(T), labels, rotation=90, **style)
    axes.set_yticks(range(T), labels, **style)
    axes.set_facecolor(PAPER)
    axes.tick_params(length=0)
    axes.set_xlabel("key: token that is looked at")
    axes.set_ylabel("query: token that looks")
    axes.set_title(f"Attention weights, {where}", fontsize=12)
    if T <= 16:
        for i, j in np.ndindex(T, T):
            if j <= i and weights[i, j] >= 0.005:
                colour = "white" if weights[i, j] > 0.55 else INK
                axes.text(
                    j,
                    i,
                    f"{weights[i, j]:.2f}".removeprefix("0"),
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=7,
                )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=24)
    bar.set_label("weight (each row sums to 1)")
    bar.outline.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure


def _grid(
    weights: Float[np.ndarray, "L H T T"],
    layers: Sequence[int],
    heads: Sequence[int],
    labels: list[str],
) -> Figure:
    rows, columns = len(layers), len(heads)
    if rows == 1 or columns == 1:  # one line of pictures is folded
        n = rows * columns
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
    cells = [(i, j) for i in layers for j in heads]
    T = len(labels)
    named = T <= 16
    size = max(1.35, 0.2 * T) if named and len(cells) <= 16 else 1.35
    style: dict[str, Any] = {"fontsize": min(6.5, 65 * size / T), "parse_math": False}
    room = 0.08 * max(map(len, labels)) if named else 0
    figure = Figure(
        figsize=(columns * size + room + 1.8, rows * (size + 0.22) + room + 1.1),
        layout="constrained",
    )
    pictures = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in pictures.flat[len(cells) :]:
        axes.set_visible(False)
    for axes, (i, j) in zip(pictures.flat, cells, strict=False):
        # The root lets small weights be seen in a small picture.
        image = axes.imshow(
            _hide_future(weights[i, j]), cmap=BLUES, norm=PowerNorm(0.5, 0, 1)
        )
        axes.set_facecolor(PAPER)
        axes.set_title(f"layer {i}, head {j}", fontsize=8, pad=3)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.set_yticks([])
        if named:
            axes.set_xticks(range(T), labels, rotation=90, **style)
            axes.set_yticks(range(T), labels, **style)
    figure.supxlabel("key: token that is looked at", fontsize=10)
    figure.supylabel("query: token that looks", fontsize=10)
    shown = " ".join("".join(labels).replace("␣", " ").replace("↵", " ").split())
    shown = shown if len(shown) <= 60 else shown[:58] + "…"
    figure.suptitle(f"Attention weights over “{shown}”", fontsize=12, parse_math=False)
    bar = figure.colorbar(
        image, ax=pictures, shrink=0.6, aspect=30, ticks=[0, 0.05, 0.2, 0.5, 1]
    )
    bar.set_label("weight (each row sums to 1; colours by its root)")
    bar.outline.set_visible(False)
    return figure


def _hide_future(weights: Float[np.ndarray, "T T"]) -> np.ma.MaskedArray:
    """Keys after the query masked, so that hidden does not look like weight 0."""
    return np.ma.masked_where(~causal_mask(len(weights)), weights)
