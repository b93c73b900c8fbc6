"""Time a command beside busy cores, with several numbers of threads.

    python tools/busy_core.py -- npgpt generate "The king" --num-beams 4 --seed 1
    python tools/busy_core.py --threads default 1 --busy 1 --runs 5 -- ...

Runs the command in turn on an idle machine and beside processes that only count, with
each number of threads (NPGPT_THREADS; "default" leaves it out), and prints medians and
the slowest run. The machine must be idle otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


def main() -> None:
    """Time the command that stands after --."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="+")
    parser.add_argument("--busy", type=int, default=1, help="cores kept busy")
    parser.add_argument("--threads", nargs="+", default=["default", "1", "2"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--settle",
        type=float,
        default=45.0,
        help="seconds of being busy before the first run: the load is a mean",
    )
    options = parser.parse_args()
    print(f"{'busy cores':>10} {'threads':>8} {'median':>9} {'slowest':>9}")
    for n in (0, options.busy):
        times: dict[str, list[float]] = {one: [] for one in options.threads}
        with busy(n, options.settle):
            for _ in range(options.runs):
                for one in options.threads:
                    times[one].append(seconds(options.command, one))
        for one, found in times.items():
            print(
                f"{n:>10} {one:>8} {statistics.median(found):>8.2f}s "
                f"{max(found):>8.2f}s"
            )


if __name__ == "__main__":
    main()
