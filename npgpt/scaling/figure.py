"""Figures of scaling: one's own runs with their law, and the slopes of the papers.

Import this module only where a figure is wanted: it imports matplotlib.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from npgpt.scaling.fit import Fit
from npgpt.scaling.laws import EXPONENTS, compute_optimal
from npgpt.scaling.sizes import PUBLISHED
from npgpt.support.figure import AMBER, BLUE, DARK, INK, LIGHT, RED, blues

_PAPERS = (RED, DARK, BLUE, LIGHT, AMBER)  # one paper's approaches are blue


def plot_scaling(runs: list[dict[str, Any]], fit: Fit | None = None) -> Figure:
    """Loss against FLOPs of the runs, and the best size against FLOPs by every law.

    Without runs only the second, at the scale of the papers.
    """
    figure = Figure(figsize=(11 if runs else 6.5, 4.8), layout="constrained")
    axes = figure.subplots(1, 2 if runs else 1, squeeze=False)[0]
    if runs:
        _losses(axes[0], runs, fit)
    _slopes(axes[-1], runs, fit)
    return figure


def _losses(axes: Any, runs: list[dict[str, Any]], fit: Fit | None) -> None:
    key = "parameters" if fit is None or fit.count == "all" else fit.count
    sizes = sorted({run[key] for run in runs})
    colours = blues(len(sizes))
    for size, colour in zip(sizes, colours, strict=True):
        own = sorted((r for r in runs if r[key] == size), key=lambda r: r["tokens"])
        D = np.array([run["tokens"] for run in own])
        axes.plot(
            6 * size * D,
            [r["loss"] for r in own],
            "o",
            color=colour,
            ms=5,
            label=f"{size / 1e6:.2g} M",
        )
        if fit:
            D = np.geomspace(D[0] / 1.5, D[-1] * 1.5, 60)
            axes.plot(6 * size * D, fit.law.loss(size, D), color=colour, lw=1)
    if fit:
        spent = [6 * run[key] * run["tokens"] for run in runs]
        C = np.geomspace(min(spent) / 1.5, max(spent) * 1.5, 60)
        best = [fit.law.loss(*fit.law.optimum(c)) for c in C]
        axes.plot(C, best, "--", color=INK, lw=1.2, label="least, by the law")
        law = fit.law
        axes.set_title(
            f"L = {law.E:.3g} + {law.A:.3g}/N^{law.alpha:.2f} + "
            f"{law.B:.3g}/D^{law.beta:.2f}",
            fontsize=10,
        )
    axes.set_xscale("log")
    axes.set_xlabel("training FLOPs, C = 6 N D")
    axes.set_ylabel("validation loss, nats a token")
    axes.legend(title="parameters", fontsize=8, title_fontsize=8, frameon=False)


def _slopes(axes: Any, runs: list[dict[str, Any]], fit: Fit | None) -> None:
    if fit:  # all lines through our own optimum: only slopes compare
        spent = [6 * run["parameters"] * run["tokens"] for run in runs]
        C = np.geomspace(min(spent), max(spent) * 1e3, 40)
        middle = float(np.exp(np.mean(np.log(spent))))
        start = fit.law.optimum(middle)[0]
        low, high = fit.interval("exponent")
        edges = (start * (C / middle) ** low, start * (C / middle) ** high)
        axes.fill_between(
            C, np.minimum(*edges), np.maximum(*edges), color=INK, alpha=0.12, lw=0
        )
        a = fit.law.exponent
        axes.plot(
            C,
            start * (C / middle) ** a,
            color=INK,
            lw=2,
            label=f"our runs: {a:.2f} ({low:.2f} to {high:.2f})",
        )
    else:
        C, middle = np.geomspace(1e18, 1e25, 40), 5.76e23
        start = compute_optimal(middle)[0].parameters
        known = [model for model in PUBLISHED if model.flops]
        axes.plot(
            [m.flops for m in known],
            [m.parameters for m in known],
            ".",
            color=INK,
            label="GPT-3's sizes",
        )
    for (name, a), colour in zip(EXPONENTS.items(), _PAPERS, strict=True):
        axes.plot(
            C, start * (C / middle) ** a, color=colour, lw=1.2, label=f"{name}: {a:.2f}"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training FLOPs, C")
    axes.set_ylabel("best number of parameters")
    axes.set_title("N ~ C^a: slopes through one point", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
