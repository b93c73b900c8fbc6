"""Run a comparison: every setting continues every prompt with every seed.

A text depends on its setting, prompt and seed alone, not on the order of work or the
number of processes. Each is appended to a file of JSON lines as soon as it is written,
so a run that was interrupted goes on, and one that has ended runs nothing again. What
the texts are worth is measured in npgpt.lab.frontier. Needs the extra `lab`.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.errors import (
    CheckpointError,
    ContextOverflowError,
    GridError,
    NpgptError,
    TokenizerError,
)
from npgpt.evaluation.score import last_logprobs
from npgpt.lab.grid import Setting, model_names, with_models
from npgpt.model import GPT2
from npgpt.storage import hub
from npgpt.support.arguments import check_fields, checked, shown
from npgpt.support.files import check_readable

MOST_SEEDS = 10_000  # seeds of one prompt; those of the next begin after them
MOST_JOBS = 256  # processes, which all start at once
BUNDLE = 64  # texts that come back at once where they cannot come one by one


@dataclass(frozen=True)
class Plan:
    """What is to be run. Models are names, which every process loads for itself.

    seeds: texts a setting and prompt; text k of prompt i has seed 10,000 i + k, with
    which `generate` writes it again. max_new_tokens: tokens a text, at most. judge: a
    second model, which scores too. backend and dtype are those of all models.
    """

    model: str
    settings: Sequence[Setting]
    prompts: Sequence[str]
    seeds: int = 5
    max_new_tokens: int = 64
    judge: str | None = None
    backend: str = "numpy"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self, GridError)
        if not 2 <= self.seeds <= MOST_SEEDS:
            raise GridError(
                f"seeds must be 2 to {MOST_SEEDS:,}, not {self.seeds}: one text alone "
                "has no diversity"
            )
        if self.max_new_tokens < 4:
            raise GridError(
                f"max_new_tokens must be at least 4, not {self.max_new_tokens}: the "
                "measures count runs of four tokens"
            )
        if not self.settings or not self.prompts:
            raise GridError(
                "there is nothing to compare without a setting and a prompt"
            )
        if len(set(self.prompts)) < len(self.prompts):
            raise GridError("a prompt stands there twice; ask for more seeds instead")


class Text(NamedTuple):
    """One continuation. Log-probabilities are sums in nats, given the prompt."""

    setting: str
    prompt: int
    seed: int
    text: str
    ids: list[int]
    finish_reason: str
    logprob: float  # under the model itself, whatever the strategy made of it
    judge_logprob: float | None = None
    judge_tokens: int = 0  # the judge's own, which may be cut differently


@checked(GridError)
def compare(
    plan: Plan,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Text]:
    """Run what is missing and return all texts, setting by setting.

    out: the file of results, read first, then appended to. jobs: processes; None takes
    what joblib.parallel_config says, which may name a Dask or Ray cluster. progress
    hears (texts that are there, texts in all). Raises GridError where `out` holds
    another comparison; it may hold fewer seeds.
    """
    if jobs is not None and not (jobs == -1 or 1 <= jobs <= MOST_JOBS):
        raise GridError(
            f"jobs must be 1 to {MOST_JOBS}, or -1 for one a core, not {shown(jobs)}"
        )
    wanted = [
        (setting, i, MOST_SEEDS * i + k)
        for k in range(plan.seeds)
        for i in range(len(plan.prompts))
        for setting in plan.settings
    ]
    file = None if out is None else _Results(Path(out), _header(plan))
    done = {} if file is None else file.read()
    missing = [cell for cell in wanted if (cell[0].name, *cell[1:]) not in done]
    have = len(wanted) - len(missing)
    if progress is not None:
        progress(have, len(wanted))
    if missing:
        check(plan)
    for text in _run(plan, missing, jobs):
        done[text.setting, text.prompt, text.seed] = text
        if file is not None:
            file.append(text)
        have += 1
        if progress is not None:
            progress(have, len(wanted))
    order = {setting.name: at for at, setting in enumerate(plan.settings)}
    cells = sorted(wanted, key=lambda cell: (order[cell[0].name], *cell[1:]))
    return [done[setting.name, i, seed] for setting, i, seed in cells]


def check(plan: Plan) -> None:
    """Load the models and refuse, before any text, what cannot be run.

    Raises GridError that names the setting, or what loading raises.
    """
    model = load(plan.model, plan.backend, plan.dtype)
    judge = plan.judge and load(plan.judge, plan.backend, plan.dtype)
    for name, one in ((plan.model, model), (plan.judge, judge)):
        if one and one.tokenizer is None:
            raise TokenizerError(f"{name} has no tokenizer, which a comparison needs")
        if one and plan.max_new_tokens > one.config.n_positions:
            raise ContextOverflowError(
                f"max_new_tokens {plan.max_new_tokens} is more than the "
                f"{one.config.n_positions} positions of {name}"
            )
    for setting in plan.settings:
        options = _options(plan, setting, seed=0)
        for prompt in plan.prompts:
            try:
                model.stream(prompt, defaults=False, **options)
            except NpgptError as error:
                raise GridError(f"setting {setting.name}: {error}") from None


def write(plan: Plan, setting: Setting, prompt: int, seed: int) -> Text:
    """One text of the plan, with its log-probabilities."""
    model = load(plan.model, plan.backend, plan.dtype)
    start = plan.prompts[prompt]
    try:
        options = _options(plan, setting, seed)
        made = model.generate(start, defaults=False, **options)
    except NpgptError as error:
        raise GridError(f"setting {setting.name}, seed {seed}: {error}") from None
    judged, tokens = None, 0
    if plan.judge is not None:
        judge = load(plan.judge, plan.backend, plan.dtype)
        if _same_tokens(plan.model, plan.judge, plan.backend, plan.dtype):
            context, target = made.prompt_ids, made.ids
        else:
            context = judge.encode(start)
            target = judge.encode(made.text) if made.text else []
        judged, tokens = continuation_logprob(judge, context, target), len(target)
    return Text(
        setting.name,
        prompt,
        seed,
        made.text,
        made.ids,
        made.finish_reason,
        continuation_logprob(model, made.prompt_ids, made.ids),
        judged,
        tokens,
    )


def continuation_logprob(model: Any, context: list[int], target: list[int]) -> float:
    """log P(target | context) in nats.

    What does not fit the model is cut from the context's beginning.

    >>> from npgpt import GPT2
    >>> model = GPT2.from_pretrained("tales")
    >>> a, b = model.encode("Once upon"), model.encode(" a time")
    >>> round(continuation_logprob(model, a, b), 2)
    -0.68
    """
    if not target:
        return 0.0
    room = model.config.n_positions + 1 - len(target)  # the last id is never read
    if room < 1:
        raise ContextOverflowError(
            f"a text of {len(target)} tokens is more than a model's "
            f"{model.config.n_positions} positions; ask for fewer new tokens"
        )
    return sum(last_logprobs(model, [*context[-room:], *target], len(target)))


@lru_cache(maxsize=16)
def load(name: str, backend: str, dtype: str) -> GPT2:
    """The model of this name, once a process."""
    return GPT2.from_pretrained(name, backend=backend, dtype=dtype)


@lru_cache(maxsize=16)
def _same_tokens(one: str, other: str, backend: str, dtype: str) -> bool:
    a, b = (load(name, backend, dtype).tokenizer for name in (one, other))
    return a.backend.to_str() == b.backend.to_str()


def _options(plan: Plan, setting: Setting, seed: int) -> dict[str, Any]:
    own = with_models(setting, lambda name: load(name, plan.backend, plan.dtype))
    return {**own, "max_new_tokens": plan.max_new_tokens, "seed": seed}


def _run(plan: Plan, cells: list[tuple], jobs: int | None) -> Iterator[Text]:
    try:
        import joblib
    except ImportError:
        raise GridError("a comparison needs joblib: pip install 'npgpt[lab]'") from None
    tasks = [joblib.delayed(write)(plan, *cell) for cell in cells]
    # One text a task: what is killed loses no more than the texts being written.
    try:
        parallel = joblib.Parallel(jobs, batch_size=1, return_as="generator_unordered")
    except ValueError:  # Ray's backend gives back whole lists only
        parallel = joblib.Parallel(jobs, batch_size=1)
        for start in range(0, len(tasks), BUNDLE):
            yield from parallel(tasks[start : start + BUNDLE])
        return
    yield from parallel(tasks)


def _header(plan: Plan) -> dict[str, Any]:
    """What a file of results says of itself; the number of seeds may grow."""
    header = asdict(plan) | {"settings": {s.name: s.options for s in plan.settings}}
    del header["seeds"]
    names = {plan.model, *(name for s in plan.settings for name in model_names(s))}
    names |= {plan.judge} - {None}
    header["weights"] = {name: fingerprint(name) for name in sorted(names)}
    return json.loads(json.dumps(header, default=str))


def fingerprint(name: str) -> str:
    """Eight hex digits that change with a model's config or weights.

    Of a file of weights its size, its first MiB and its last are read.
    """
    folder, mark = hub.resolve(name), 0
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        try:
            check_readable(path)
            size = path.stat().st_size
            with path.open("rb") as file:
                mark = zlib.crc32(b"%d" % size + file.read(2**20), mark)
                file.seek(max(0, size - 2**20))
                mark = zlib.crc32(file.read(), mark)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from None
    return f"{mark:08x}"


class _Results:
    """A file of JSON lines: what was asked for, then a text a line."""

    def __init__(self, path: Path, header: dict[str, Any]):
        self.path, self.header = path, header

    def read(self) -> dict[tuple[str, int, int], Text]:
        """The texts that are there; a last line that was not finished is cut off."""
        try:
            with self.path.open("a+b") as file:
                file.seek(0)
                lines = file.read().split(b"\n")
                file.truncate(os.fstat(file.fileno()).st_size - len(lines[-1]))
                if len(lines) == 1:
                    line = json.dumps({"npgpt": "compare", **self.header})
                    file.write(line.encode() + b"\n")
                    return {}
        except OSError as error:
            raise GridError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from None
        self._check_header(lines[0])
        texts = {}
        for number, line in enumerate(lines[1:-1], 2):
            try:
                text = Text(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise GridError(
                    f"{self.path}, line {number}: not a text of a comparison; remove "
                    "the line, and it is written again"
                ) from None
            texts[text.setting, text.prompt, text.seed] = text
        return texts

    def _check_header(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            if found.pop("npgpt") != "compare":
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise GridError(
                f"{self.path} does not hold results of a comparison; name another file"
            ) from None
        other = [k for k, value in self.header.items() if found.get(k) != value]
        if other:
            raise GridError(
                f"{self.path} holds a comparison with other {' and '.join(other)}; "
                "give what it was begun with, or name another file"
            )

    def append(self, text: Text) -> None:
        """Add a text, so that it outlives this process."""
        with self.path.open("ab") as file:
            file.write(json.dumps(text._asdict()).encode() + b"\n")
