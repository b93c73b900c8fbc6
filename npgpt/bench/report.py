"""The bench's table, and its figure for a slide: decoding and prompts, all engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from npgpt.bench.functions import STEADY, unsteady
from npgpt.bench.rounds import goals
from npgpt.support.figure import AMBER, BLUE, GREEN, GREY, INK

COLOURS = {"numpy": GREY, "numba": BLUE, "transformers": AMBER, "llama.cpp": GREEN}


FUNCTION_LEGEND = """\
# ceiling: share of what this machine reads or multiplies at most
# pays after: calls that win back the compiling
# unsteady: the spread, half the quartiles' distance over the median, is above 20 %"""
MODEL_LEGEND = """\
# spread: half the quartiles' distance over the median; above 20 % a row is unsteady
# roofline: tokens a second if a step only read its bytes; reached: the share of that"""


def lines(result: dict[str, Any]) -> Iterator[str]:
    """A whole run as text."""
    yield f"# {result['machine']}"
    if "functions" in result:
        yield from function_lines(result["functions"])
        yield FUNCTION_LEGEND
    if "measured" in result:
        yield from ("", f"# {result['model']}", *model_lines(result))
        if result["model"] == "gpt2":
            yield from ("", *goal_lines(result))


def function_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Part (a) as text."""
    yield (
        f"{'function':<14}{'shape':<20}{'NumPy':>14}{'Numba':>14}{'times':>7}"
        f"{'GB/s':>7}{'GFLOP/s':>9}{'ceiling':>8}{'error':>9}{'compile':>9}"
        f"{'pays after':>11}"
    )
    for row in rows:
        faster = row["numpy_seconds"] / row["numba_seconds"]
        pays = row["pays_after_calls"]
        after = f"{pays:,.0f} calls" if pays is not None else "never"
        yield (
            f"{row['function']:<14}{row['shape']:<20}"
            f"{_time(row['numpy_seconds']):>14}{_time(row['numba_seconds']):>14}"
            f"{faster:>6.1f}x{row['gigabytes_per_second']:>7.1f}"
            f"{row['gigaflops_per_second']:>9.1f}{row['ceiling_share']:>8.0%}"
            f"{row['error']:>9.0e}{row['compile_seconds']:>8.1f}s{after:>11}"
            + (f"  {row['note']}" if row["note"] else "")
            + unsteady(max(row["numpy_spread"], row["numba_spread"]))
        )


def model_lines(result: dict[str, Any]) -> Iterator[str]:
    """Parts (b) to (d) as text."""
    if result["read_ceiling"]:
        yield f"read ceiling {result['read_ceiling'] / 1e9:.1f} GB/s"
    yield (
        f"{'engine':<24}{'task':<9}{'tokens':>7}{'batch':>6}{'time':>11}"
        f"{'spread':>8}{'tok/s':>10}{'roofline':>10}{'reached':>9}"
    )
    for m in result["measured"]:
        roof = m["roofline"]
        reached = f"{m['tokens_per_second'] / roof:>9.0%}" if roof else f"{'':>9}"
        predicted = f"{roof:>10,.0f}" if roof else f"{'':>10}"
        yield (
            f"{m['engine']:<24}{m['task']:<9}{m['tokens']:>7,}{m['batch']:>6}"
            f"{_time(m['seconds']):>11}{m['spread']:>8.0%}"
            f"{m['tokens_per_second']:>10,.1f}{predicted}{reached}"
            + unsteady(m["spread"])
        )
    yield MODEL_LEGEND
    for name, seconds in result["greedy_loop_seconds"].items():
        line = f"{name:<24}greedy generation {1 / seconds:,.0f} tok/s"
        bytes_, rate = result["step_bytes"][name], result["cached_read_rate"].get(name)
        if bytes_ and rate:  # the numba engines alone measure how fast memory is read
            line += f", {bytes_ / rate / seconds:.0%} of what its {bytes_ / 1e6:,.0f} "
            line += f"MB cost at {rate / 1e9:.0f} GB/s"
        yield line
    for name, size in result["peak_memory"].items():
        yield f"{name:<24}peak memory {size / 1e6:,.0f} MB"
    for name, reason in result["absent"].items():
        yield f"{name:<24}not measured: {reason}"


def goal_lines(result: dict[str, Any]) -> Iterator[str]:
    """Each aim of the project, what this run found, and whether it is reached."""
    for what, found, wanted, larger in goals(result):
        if found is None:
            continue
        reached = found >= wanted if larger else found <= wanted
        sign = "at least" if larger else "at most"
        mark = "reached" if reached else "not reached"
        yield f"{what:<46}{found:>6.2f}  {sign} {wanted:<5} {mark}"


def markdown(result: dict[str, Any]) -> Iterator[str]:
    """A run's tables as Markdown: what docs/benchmarks.md holds."""
    yield f"{result['machine']}."
    if "functions" in result:
        yield ""
        yield (
            "| function | shape | NumPy | Numba | times | ceiling | compile "
            "| pays after |"
        )
        yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for row in result.get("functions", []):
        pays = row["pays_after_calls"]
        after = "never" if pays is None else f"{pays:,.0f} calls"
        cells = (
            row["function"], row["shape"], _time(row["numpy_seconds"]),
            _time(row["numba_seconds"]),
            f"{row['numpy_seconds'] / row['numba_seconds']:.1f}",
            f"{row['ceiling_share']:.0%}", f"{row['compile_seconds']:.1f} s",
            after + _mark(max(row["numpy_spread"], row["numba_spread"])),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    if "measured" not in result:
        return
    yield ""
    if result["read_ceiling"]:
        yield f"Read ceiling {result['read_ceiling'] / 1e9:.1f} GB/s."
        yield ""
    yield "| engine | task | tokens | batch | time | spread | tok/s | of the roofline |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for m in result["measured"]:
        roof = m["roofline"]
        cells = (
            m["engine"], m["task"], f"{m['tokens']:,}", str(m["batch"]),
            _time(m["seconds"]), f"{m['spread']:.0%}{_mark(m['spread'])}",
            f"{m['tokens_per_second']:,.1f}",
            f"{m['tokens_per_second'] / roof:.0%}" if roof else "",
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    if result.get("model") == "gpt2":
        yield ""
        yield "| aim | found | wanted | |"
        yield "|---|--:|--:|---|"
        for what, found, wanted, larger in goals(result):
            if found is not None:
                reached = found >= wanted if larger else found <= wanted
                sign = "at least" if larger else "at most"
                mark = "reached" if reached else "not reached"
                yield f"| {what} | {found:.2f} | {sign} {wanted} | {mark} |"


def _mark(spread: float) -> str:
    return " unsteady" if spread > STEADY else ""


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.1f} us"
    return f"{seconds * 1e3:,.2f} ms"


def plot_speeds(result: dict[str, Any], title: str) -> Any:
    """Decoding (with each roofline) and prompts: tokens a second of every engine."""
    from matplotlib.figure import Figure

    decode = [
        m for m in result["measured"] if m["task"] == "decode" and m["batch"] == 1
    ]
    nearest = min((m["tokens"] for m in decode), default=0)
    decode = [m for m in decode if m["tokens"] == nearest]
    prompts = [m for m in result["measured"] if m["task"] == "prefill"]
    shown = max((m["tokens"] for m in prompts if m["tokens"] <= 512), default=0)
    prompts = [m for m in prompts if m["tokens"] == shown]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, decode, f"decoding, context {nearest}")
    _bars(right, prompts, f"reading a prompt of {shown}")
    left.set_xlabel("tokens a second (dotted: what memory allows)")
    figure.suptitle(title)
    return figure


def _bars(axis: Any, rows: list[dict[str, Any]], what: str) -> None:
    rows = sorted(rows, key=lambda m: m["tokens_per_second"])
    for y, m in enumerate(rows):
        colour = COLOURS[m["engine"].partition(":")[0]]
        rate = m["tokens_per_second"]
        axis.barh(y, rate, color=colour, xerr=rate * m["spread"], ecolor=INK)
        axis.text(rate * (1 + m["spread"]), y, f"  {rate:,.0f}", va="center")
        if m["roofline"]:
            axis.plot([m["roofline"]] * 2, [y - 0.4, y + 0.4], ":", color=INK, lw=1.5)
    axis.set_yticks(range(len(rows)), [m["engine"] for m in rows])
    axis.set_xlabel("tokens a second")
    axis.set_title(what)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.15)
