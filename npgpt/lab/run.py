"""Run a comparison: every setting continues every prompt with every seed.

A text depends on its setting, prompt and seed alone, not on the order of work or the
number of processes. Each is appended to a file of JSON lines as soon as it is written,
so a run that was interrupted goes on, and one that has ended runs nothing again. What
the texts are worth is measured in npgpt.lab.measures. Needs the extra `lab`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from npgpt.errors import ContextOverflowError, GridError, NpgptError, TokenizerError
from npgpt.evaluation.score import last_logprobs
from npgpt.interface import Model
from npgpt.lab.grid import Setting, with_models
from npgpt.lab.plan import FEWEST, LENGTH, MOST_SEEDS, Plan, Text
from npgpt.lab.results import Results, header
from npgpt.model import GPT2
from npgpt.support.arguments import checked, shown
from npgpt.texts import following

MOST_JOBS = 256  # processes, which all start at once
BUNDLE = 64  # texts that come back at once where they cannot come one by one


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
    plan = fitted(plan)
    wanted = [
        (setting, i, MOST_SEEDS * i + k)
        for k in range(plan.seeds)
        for i in range(len(plan.prompts))
        for setting in plan.settings
    ]
    file = None if out is None else Results(Path(out), header(plan))
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


def fitted(plan: Plan) -> Plan:
    """The plan with a length, one for all texts: 64 tokens, or as many as fit.

    >>> from npgpt.lab.grid import make_grid
    >>> long = "Once upon a time there was a king. " * 50
    >>> plan = Plan("tales-mini", make_grid([{}]), ["The king", long])
    >>> fitted(plan).max_new_tokens
    13
    """
    if plan.max_new_tokens is not None:
        return plan
    fits, longest = LENGTH, 0
    for i, (name, model) in enumerate(_models(plan)):
        fits = min(fits, model.config.n_positions)
        if not i and not all(s.options.get("overflow") for s in plan.settings):
            longest = max(len(model.encode(prompt)) for prompt in plan.prompts)
            fits = min(fits, model.config.n_positions + 1 - longest)
        if fits < FEWEST:
            raise ContextOverflowError(
                f"beside a prompt of {longest} tokens the {model.config.n_positions} "
                f"positions of {name} have no room for texts of {FEWEST} new ones"
            )
    return replace(plan, max_new_tokens=fits)


def _models(plan: Plan) -> list[tuple[str, GPT2]]:
    """The model, and the judge if there is one, by name."""
    names = [name for name in (plan.model, plan.judge) if name is not None]
    models = [(name, load(name, plan.backend, plan.dtype)) for name in names]
    for name, model in models:
        if model.tokenizer is None:
            raise TokenizerError(f"{name} has no tokenizer, which a comparison needs")
    return models


def check(plan: Plan) -> None:
    """Load the models and refuse, before any text, what cannot be run.

    Raises GridError that names the setting, or what loading raises.
    """
    models, asked = _models(plan), plan.max_new_tokens or 0
    for name, one in models:
        if asked > one.config.n_positions:
            raise ContextOverflowError(
                f"max_new_tokens {asked} is more than the "
                f"{one.config.n_positions} positions of {name}"
            )
    model = models[0][1]
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
        (made,) = model.generate([start], defaults=False, **options)
    except NpgptError as error:
        raise GridError(f"setting {setting.name}, seed {seed}: {error}") from None
    judged, tokens = None, 0
    if plan.judge is not None:
        judge = load(plan.judge, plan.backend, plan.dtype)
        if _same_tokens(plan.model, plan.judge, plan.backend, plan.dtype):
            context, target = made.prompt_ids, made.ids
        else:
            context = judge.encode(start)
            target = following(judge, made.text) if made.text else []
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


def continuation_logprob(model: Model, context: list[int], target: list[int]) -> float:
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
    if a is None or b is None:
        return False
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
