"""One engine in a process of its own, which waits while the others are timed.

    python -m npgpt.bench.worker ENGINE FOLDER THREADS

reads lines like "prefill 128" or "decode 16 1 8" and answers each with one line of
JSON. Thread pools of different engines never share a process, so none spins while
another is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from npgpt.errors import BackendError


class Worker:
    """The other end: starts the process and asks."""

    def __init__(self, engine: str, folder: str, threads: int, **environment: str):
        self.engine = engine
        self.process = subprocess.Popen(
            [sys.executable, "-m", "npgpt.bench.worker", engine, folder, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "NPGPT_THREADS": str(threads), **environment},
        )
        try:
            self._answer("start")
        except BackendError:
            self.close()
            raise

    def ask(self, what: str, *numbers: int) -> Any:
        """One measurement: the seconds, or what else the engine answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join([what, *map(str, numbers)]) + "\n")
        self.process.stdin.flush()
        return self._answer(what)

    def _answer(self, what: str) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BackendError(
                f"bench: engine {self.engine} ended during {what!r} with status "
                f"{self.process.wait()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise BackendError(f"bench: engine {self.engine}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """End the process, by force where it does not end by itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def main(engine: str, folder: str, threads: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the answers

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        from npgpt.bench.engines import make

        model = make(engine, folder, int(threads))
        answer(value=None)
    except Exception as error:  # whatever an engine raises is reported by name
        answer(error=f"{type(error).__name__}: {error}")
        return
    for line in sys.stdin:
        what, *numbers = line.split()
        try:
            answer(value=getattr(model, what)(*map(int, numbers)))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
