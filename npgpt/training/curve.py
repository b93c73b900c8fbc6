"""The figure of a training run: its losses against its steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from npgpt.errors import DataError
from npgpt.support.arguments import checked
from npgpt.support.figure import BLUE, PALE, PAPER, RED


@checked(DataError)
def read_curve(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a loss.jsonl. Raises DataError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a loss curve ({error})") from None


def plot_curve(lines: list[dict[str, Any]], title: str = "Training") -> Figure:
    """Loss of every step, its running mean, and the validations.

    >>> figure = plot_curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    >>> figure.axes[0].get_xlabel()
    'step'
    """
    steps = [line for line in lines if "loss" in line]
    held = [line for line in lines if "validation_loss" in line]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if steps:
        x = [line["step"] for line in steps]
        y = [line["loss"] for line in steps]
        axes.plot(x, y, color=PALE, linewidth=0.8, label="training, each step")
        axes.plot(x, _smooth(y), color=BLUE, label="training, running mean")
    if held:
        x = [line["step"] for line in held]
        y = [line["validation_loss"] for line in held]
        axes.plot(x, y, "o-", color=RED, markersize=3, label="validation")
        last = held[-1]
        text = f"{last['validation_loss']:.3f} nats a token"
        if "bits_per_byte" in last:
            text += f"\n{last['bits_per_byte']:.3f} bits a byte"
        axes.annotate(
            text,
            (x[-1], y[-1]),
            xytext=(-6, 18),
            ha="right",
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title(title, fontsize=11)
    axes.grid(color=PAPER, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _smooth(values: Any) -> list[float]:
    """Running mean that forgets with the square root of what it has seen."""
    result, mean = [], math.nan
    for i, value in enumerate(values):
        share = 1 / (1 + i**0.5)
        mean = value if i == 0 else mean + share * (value - mean)
        result.append(mean)
    return result
