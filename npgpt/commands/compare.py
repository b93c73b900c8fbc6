"""`npgpt compare`: decoding strategies side by side, diversity against quality."""

from __future__ import annotations

import math
from pathlib import Path

import click

from npgpt.commands._shared import (
    MODEL,
    backend_options,
    check_figure,
    chosen_backend,
    echo_json,
    figure_option,
    json_option,
    length_option,
    out_option,
    renamed,
)
from npgpt.commands._words import Choice
from npgpt.errors import GridError
from npgpt.lab.frontier import DIVERSITIES, Frontier, find_frontier
from npgpt.lab.grid import GRIDS, read_grid
from npgpt.lab.intervals import Interval
from npgpt.lab.measures import Measures, measure
from npgpt.lab.plan import LENGTH, Plan, Text
from npgpt.lab.report import summary, write_csv
from npgpt.lab.run import compare, fitted
from npgpt.storage import hub
from npgpt.support.figure import save

COLUMN = 36  # characters of a sample text's column


@click.command()
@click.argument("prompts", nargs=-1, required=True)
@click.option(
    "--grid",
    default="notebook",
    show_default=True,
    help=f"A YAML file of settings, or a preset: {', '.join(GRIDS)}.",
)
@MODEL
@click.option("--judge", help="A larger model, which scores the texts too.")
@backend_options
@click.option(
    "--seeds", default=5, show_default=True, help="Texts a setting and prompt."
)
@length_option(otherwise=f"{LENGTH}, or what fits")
@click.option("--jobs", default=1, show_default=True, help="Processes; -1: one a core.")
@out_option(
    "Keep the texts here, a line of JSON each; if it was interrupted, the same "
    "command goes on.",
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option(
    "--by",
    default="diversity",
    show_default=True,
    type=Choice([d.replace("_", "-") for d in DIVERSITIES]),
    help="Diversity of the frontier; diversity: 1 - self-BLEU.",
)
@click.option(
    "--samples",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Show N texts of each setting, side by side.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures as CSV.",
)
@figure_option()
@renamed("--plot", to="figure", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def command(
    prompts: tuple[str, ...],
    grid: str,
    name: str,
    judge: str | None,
    backend: str,
    dtype: str,
    seeds: int,
    max_new_tokens: int | None,
    jobs: int,
    out: Path | None,
    by: str,
    samples: int,
    table: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Compare decoding settings: how varied are the texts, and how probable?

    Every setting of the grid continues every PROMPT with every seed.

    Example: npgpt compare "Once upon a time" --grid temperature --figure frontier.png
    """
    check_figure(figure)
    if not jobs:
        raise click.UsageError("--jobs must be 1 or more, or -1 for one a core")
    try:
        plan = Plan(
            name,
            read_grid(grid, hub.resolve),
            prompts,
            seeds,
            max_new_tokens,
            judge,
            chosen_backend(backend),
            dtype,
        )
    except GridError as error:
        raise click.UsageError(str(error)) from None
    plan = fitted(plan)
    texts = _run(plan, out, jobs)
    measures = measure(texts)
    frontier = find_frontier(measures, by.replace("-", "_"))
    if table is not None:
        write_csv(measures, frontier, table)
    if figure is not None:
        from npgpt.lab.figure import plot_comparison

        save(plot_comparison(plan, measures, frontier), figure)
        click.echo(f"wrote {figure}", err=True)
    if as_json:
        echo_json(summary(plan, texts, measures, frontier, samples))
        return
    _print(measures, frontier)
    if samples:
        _print_samples(plan, texts, samples)
    click.echo(frontier.sentence)
    click.echo(
        f"[{name}{f', judged by {judge}' if judge else ''}, {backend} {dtype}: "
        f"{len(texts):,} texts of {plan.max_new_tokens} tokens at most, {seeds} a "
        "setting and prompt; intervals: jackknife, Student's t, 95 %, for these "
        "prompts]",
        err=True,
    )


def _run(plan: Plan, out: Path | None, jobs: int) -> list[Text]:
    from tqdm import tqdm

    bar, have = None, 0

    def progress(there: int, total: int) -> None:
        nonlocal bar, have
        have = there
        if bar is None:  # texts of an earlier run are no part of the speed
            bar = tqdm(
                total=total,
                initial=there,
                unit="text",
                desc="comparing",
                leave=False,
                disable=None,
            )
        else:
            bar.update()

    try:
        return compare(plan, out, jobs, progress)
    except KeyboardInterrupt:
        if out is not None:
            click.echo(
                f"\nnpgpt: stopped with {have} texts in {out}; the same command goes "
                "on from there",
                err=True,
            )
        raise
    finally:
        if bar is not None:
            bar.close()


def _number(x: float) -> str:
    """Three digits that a reader takes in at once.

    >>> _number(0.0312), _number(7.216), _number(41.26), _number(4023.8)
    ('0.03', '7.22', '41.3', '4,024')
    """
    if math.isnan(x):
        return "–"
    return f"{x:,.{2 if abs(x) < 10 else 1 if abs(x) < 100 else 0}f}"


def _shown(x: Interval | None) -> str:
    """A figure, its interval under it."""
    if x is None or math.isnan(x.value):
        return "–"
    ends = (
        "" if math.isnan(x.low) else f"\n[dim]{_number(x.low)}–{_number(x.high)}[/dim]"
    )
    return _number(x.value) + ends


LEGEND = (
    "●: on the frontier; diversity: 1 - self-BLEU; dist-2: different pairs of tokens; "
    "rep-4: share of repeated fours; Zipf: how fast frequencies fall with rank; below "
    "a figure its 95 % interval (docs/glossary.md)"
)


def _print(measures: list[Measures], frontier: Frontier) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = {"diversity": "diversity", "perplexity": "perplexity"}
    if frontier.x not in columns:
        columns[frontier.x] = frontier.x.replace("_", "-")
    if any(m.judge_perplexity is not None for m in measures):
        columns["judge_perplexity"] = "the judge's"
    plain = {
        "distinct_2": "dist-2",
        "repetition": "rep-4",
        "zipf": "Zipf",
        "tokens": "tokens",
    }
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("  setting")
    for head in (*columns.values(), *plain.values()):
        table.add_column(head, justify="right", no_wrap=True)
    for m in measures:
        on = m.name in frontier.on
        table.add_row(
            escape(("● " if on else "  ") + m.name),
            *(_shown(getattr(m, name)) for name in columns),
            *(_number(getattr(m, name).value) for name in plain),
            style="bold" if on else None,
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"[dim]{LEGEND}[/dim]")


def _print_samples(plan: Plan, texts: list[Text], samples: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    names = list(dict.fromkeys(text.setting for text in texts))
    wide = max(1, console.width // COLUMN)
    for i, prompt in enumerate(plan.prompts):
        console.print(f"\n[bold]{escape(prompt)}[/bold]")
        for start in range(0, len(names), wide):
            group = names[start : start + wide]
            table = Table(*map(escape, group), show_lines=True, expand=True)
            for column in table.columns:
                column.ratio = 1
            rows = [
                [t.text for t in texts if (t.setting, t.prompt) == (one, i)]
                for one in group
            ]
            for row in list(zip(*rows, strict=True))[:samples]:
                table.add_row(*(escape(text.strip()) for text in row))
            console.print(table)
