"""Time a command beside busy cores, with several numbers of threads.

    python tools/busy_core.py -- npgpt generate "The king" --num-beams 4 --seed 1
    python tools/busy_core.py --threads default --threads 1 --threads 2 --busy 1 -- ...

Runs the command in turn on an idle machine and beside processes that only count, with
each number of threads (NPGPT_THREADS; "default" leaves it out), and prints medians and
the slowest run. The machine must be idle otherwise.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

COUNTING = [sys.executable, "-c", "while True: pass"]


@contextmanager
def busy(cores: int, settle: float) -> Iterator[None]:
    """So many cores busy, for a while already when it begins."""
    counting = [subprocess.Popen(COUNTING) for _ in range(cores)]
    try:
        time.sleep(settle if cores else 0)
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def seconds(command: Sequence[str], threads: str) -> float:
    """How long the command takes."""
    environment = {k: v for k, v in os.environ.items() if k != "NPGPT_THREADS"}
    if threads != "default":
        environment["NPGPT_THREADS"] = threads
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


@click.command()
@click.argument("command", nargs=-1, required=True)
@click.option("--busy", "cores", default=1, show_default=True, help="Cores kept busy.")
@click.option("--threads", multiple=True, default=["default", "1", "2"])
@click.option("--runs", default=3, show_default=True)
@click.option(
    "--settle",
    default=45.0,
    show_default=True,
    help="Seconds of being busy before the first run: the system's load is a mean.",
)
def main(
    command: tuple[str, ...],
    cores: int,
    threads: tuple[str, ...],
    runs: int,
    settle: float,
) -> None:
    """Time COMMAND on an idle machine and beside busy cores."""
    click.echo(f"{'busy cores':>10} {'threads':>8} {'median':>9} {'slowest':>9}")
    for n in (0, cores):
        times: dict[str, list[float]] = {one: [] for one in threads}
        with busy(n, settle):
            for _ in range(runs):
                for one in threads:
                    times[one].append(seconds(command, one))
        for one, found in times.items():
            click.echo(
                f"{n:>10} {one:>8} {statistics.median(found):>8.2f}s "
                f"{max(found):>8.2f}s"
            )


if __name__ == "__main__":
    main()
