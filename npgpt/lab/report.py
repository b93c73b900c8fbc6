"""A comparison's figures as CSV and as one object for JSON."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from npgpt.errors import PlotError
from npgpt.lab.frontier import Frontier
from npgpt.lab.intervals import Interval
from npgpt.lab.measures import MEASURES, Measures
from npgpt.lab.plan import Plan, Text


def _figures(m: Measures) -> dict[str, Interval | None]:
    return {name: getattr(m, name) for name in MEASURES}


def write_csv(measures: list[Measures], frontier: Frontier, path: Path) -> None:
    """A row a setting; an interval is three columns, empty where it is undefined."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            ends = ("", "_low", "_high")
            names = [name + end for name in MEASURES for end in ends]
            writer.writerow(["setting", "frontier", *names])
            for m in measures:
                cells = [
                    "" if math.isnan(x) else repr(x)
                    for one in _figures(m).values()
                    for x in (one or (math.nan,) * 3)
                ]
                writer.writerow([m.name, int(m.name in frontier.on), *cells])
    except OSError as error:
        raise PlotError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from None


def summary(
    plan: Plan,
    texts: list[Text],
    measures: list[Measures],
    frontier: Frontier,
    samples: int,
) -> dict[str, Any]:
    """All that was asked and found, and the first `samples` texts of each setting."""
    options = {setting.name: setting.options for setting in plan.settings}
    settings = []
    for m in measures:
        found: dict[str, Any] = {
            "name": m.name,
            "options": options[m.name],
            "frontier": m.name in frontier.on,
        } | {key: x and x._asdict() for key, x in _figures(m).items()}
        if samples:
            found["samples"] = [
                {"prompt": plan.prompts[i], "seed": t.seed, "text": t.text}
                for i in range(len(plan.prompts))
                for t in [t for t in texts if (t.setting, t.prompt) == (m.name, i)][
                    :samples
                ]
            ]
        settings.append(found)
    return {
        "model": plan.model,
        "judge": plan.judge,
        "backend": plan.backend,
        "dtype": plan.dtype,
        "prompts": list(plan.prompts),
        "seeds": plan.seeds,
        "max_new_tokens": plan.max_new_tokens,
        "settings": settings,
        "frontier": {
            "x": frontier.x,
            "y": frontier.y,
            "on": frontier.on,
            "near": frontier.near,
            "behind": frontier.behind,
        },
        "sentence": frontier.sentence,
    }
