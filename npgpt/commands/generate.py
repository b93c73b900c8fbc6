"""`npgpt generate`: the main job, a text continued as it is being written."""

from __future__ import annotations

import secrets
import sys
from typing import Any

import click
from click.core import ParameterSource

from npgpt.commands._clock import Clock, weight_rate
from npgpt.commands._shared import (
    echo_json,
    json_option,
    length_option,
    load_model,
    model_options,
    sampling_options,
    seed_option,
)
from npgpt.commands._strategies import StrategyCommand, chain_option, parsed
from npgpt.commands._streams import read_stdin
from npgpt.commands._words import Choice
from npgpt.decoding import GenerationConfig, Step
from npgpt.decoding.catalogue import strategies
from npgpt.decoding.catalogue.entry import Strategy
from npgpt.decoding.catalogue.kinds import unescaped
from npgpt.decoding.chain import build_chain, parse_order
from npgpt.decoding.defaults import with_defaults
from npgpt.decoding.options import OPTIONS, OVERFLOW
from npgpt.decoding.selection import build_selector
from npgpt.errors import DecodingError
from npgpt.model import GPT2


@click.command(cls=StrategyCommand)
@click.argument("prompt", required=False)
@model_options
@length_option(200)
@sampling_options(0.8, "0.95 when sampling", min_new_tokens=0)
@seed_option(None)
@click.option("--num-return-sequences", "-n", default=1, help="Texts to write.")
@click.option(
    "--stop",
    "stop_strings",
    multiple=True,
    callback=lambda context, option, texts: tuple(map(unescaped, texts)),
    help=r"End before this text; \n is a line end.",
)
@click.option(
    "--overflow",
    default="error",
    show_default=True,
    type=Choice(OVERFLOW),
    help="Beyond the model's positions: refuse, end, or keep the last half and go on.",
)
@chain_option
@json_option
def command(
    prompt: str | None,
    name: str,
    backend: str,
    dtype: str,
    as_json: bool,
    greedy: bool,
    seed: int | None,
    **options: Any,
) -> None:
    """Continue PROMPT, or the text on stdin (PROMPT left out or "-").

    Example: npgpt generate "Once upon a time" --seed 7 --min-p 0.05

    Every decoding strategy is an option here; `npgpt strategies NAME` explains one.
    Lists are JSON: --bad-words-ids "[[5, 7]]". What is not given is taken from the
    model's generation_config.json, then from the defaults below.
    """
    prompt = _read_prompt(prompt)
    config = _config(greedy, seed, options)
    model = load_model(name, backend, dtype)
    prompts = [model.encode(prompt)]
    config = _with_model_defaults(config, greedy, model, prompts)
    # A search shows its steps only when it has ended: reading and writing are one time.
    clock = Clock(len(prompts[0]), whole=any(config.active("search")))
    steps: list[Step] = []
    interrupted = False
    try:
        stream = model.stream(prompts[0], defaults=False, **config.given)
        for step in stream:
            clock.tick()
            steps.append(step)
            if not as_json and config.num_return_sequences == 1:
                if len(steps) == 1:  # what was said before has lines of its own
                    click.secho(prompt, bold=True, nl=False)
                click.echo(step.text, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        interrupted = True
    texts = [""] * config.num_return_sequences
    for step in steps:
        texts[step.row] += step.text
    if as_json:
        _print_json(model, name, prompt, prompts[0], config, steps, clock)
    elif config.num_return_sequences == 1:
        click.echo("" if steps else click.style(prompt, bold=True))
    else:
        for i, text in enumerate(texts):
            click.secho(f"--- {i + 1} of {len(texts)}", dim=True)
            click.echo(click.style(prompt, bold=True) + text)
    click.echo(_figures(model, name, config, clock), err=True)
    _say_what_was_cut(config, steps)
    if interrupted:
        raise KeyboardInterrupt


def _say_what_was_cut(config: GenerationConfig, steps: list[Step]) -> None:
    """A text that max_new_tokens ended may be the beginning of a match only."""
    rules = config.active("rule")
    constraint = next((rule.switched_by for rule in rules if rule.constrains), None)
    cut = sum(step.finish_reason == "length" for step in steps)
    if constraint is None or not cut or config.finish_in_time:
        return
    which = "the text was" if config.num_return_sequences == 1 else f"{cut} texts were"
    click.echo(
        f"note: {which} cut at --max-new-tokens {config.max_new_tokens}, perhaps "
        f"before the {constraint} was complete",
        err=True,
    )


def _read_prompt(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        return ""
    return read_stdin().removesuffix("\n")


def _config(
    greedy: bool, seed: int | None, options: dict[str, Any]
) -> GenerationConfig:
    given = click.get_current_context().get_parameter_source
    if greedy:
        taken = {name for s in strategies() if _given(s, options) for name in s.uses}
        for option in ("temperature", "top_k", "top_p"):
            if option not in taken and given(option) is ParameterSource.COMMANDLINE:
                flag = option.replace("_", "-")
                raise click.UsageError(f"--greedy and --{flag} exclude each other")
        options.update(temperature=None)
    said = given("temperature") is ParameterSource.COMMANDLINE
    finds = not greedy and _finds(options)
    if finds and not said:
        options.update(temperature=None)
    elif not greedy:
        order = parse_order(options["chain"] or "hf")
        if "temperature" not in order and not said:
            options.update(temperature=None)
        own = any(  # a selector that truncates by itself
            s.kind == "selector" and s.section == "Truncation" and _given(s, options)
            for s in strategies()
        )
        wanted = "top_p" in order and not own and options["temperature"] != 0
        if options["top_p"] is None and wanted:
            options.update(top_p=0.95)
    return GenerationConfig(
        do_sample=not (greedy or finds),
        seed=secrets.randbelow(2**32) if seed is None else seed,
        **parsed(options),
    )


def _finds(options: dict[str, Any]) -> bool:
    """Whether a search is asked for that draws nothing, and nothing of sampling."""
    given = click.get_current_context().get_parameter_source
    typed = {
        name: value
        for name, value in options.items()
        if given(name) not in (None, ParameterSource.DEFAULT)
        and OPTIONS[name].kind not in ("model", "models")  # which take long to load
    }
    try:
        config = GenerationConfig(**parsed(typed))
    except DecodingError:  # what needs sampling, for one
        return False
    return _draws_nothing(config)


def _draws_nothing(config: GenerationConfig) -> bool:
    """Whether a search is on that takes what is best, as long as sampling is off."""
    said = [s.deterministic for kind in ("search", "part") for s in config.active(kind)]
    return True in said and False not in said


def _given(strategy: Strategy, options: dict[str, Any]) -> bool:
    """Whether the option that turns a strategy on has been given."""
    return bool(options.get(strategy.switched_by))


def _with_model_defaults(
    config: GenerationConfig, greedy: bool, model: GPT2, prompts: list[list[int]]
) -> GenerationConfig:
    """What was typed; below it what the model asks for, then our own defaults."""
    source = click.get_current_context().get_parameter_source
    typed = {
        name
        for name in config.given
        if source(name) not in (None, ParameterSource.DEFAULT)
    } | ({"do_sample"} if greedy else set())
    given = {name: value for name, value in config.given.items() if name in typed}
    return with_defaults(given, model.config, prompts, soft=config.given)


def _figures(model: GPT2, name: str, config: GenerationConfig, clock: Clock) -> str:
    prefill, decode = clock.rates()
    chain = build_chain(
        config, config.eos_ids(model.config), model.tokenizer, model.config.vocab_size
    )
    whole = [s for kind in ("guidance", "search") for s in config.active(kind)]
    parts = [s for s in config.active("part") if s.switched_by]
    how = " ".join([*(_run(s, config) for s in [*whole, *parts]), *map(str, chain)])
    if not (config.greedy and any(search.deterministic for search in whole)):
        how = f"{how} {build_selector(config)}".strip()
    if not config.greedy or any(s.deterministic is False for s in parts):
        how += f" seed {config.seed}"
    return (
        f"[{name}, {model.backend.name} {model.dtype}: "
        f"prefill {clock.prompt_tokens} tokens at {prefill:,.0f} tok/s, "
        f"decode {clock.tokens} at {decode:,.0f} tok/s, "
        f"{weight_rate(model, config, decode):.1f} GB/s of weights; {how}]"
    )


def _run(strategy: Strategy, config: GenerationConfig) -> str:
    """A strategy that ran, and its first parameter where that is short."""
    value = getattr(config, strategy.switched_by)
    short = isinstance(value, int | float) and value is not True
    return f"{strategy.name}({value:g})" if short else strategy.name


def _print_json(
    model: GPT2,
    name: str,
    prompt: str,
    prompt_ids: list[int],
    config: GenerationConfig,
    steps: list[Step],
    clock: Clock,
) -> None:
    rows: list[list[Step]] = [[] for _ in range(config.num_return_sequences)]
    for step in steps:
        rows[step.row].append(step)
    prefill, decode = clock.rates()
    given = click.get_current_context().params
    settings = {  # a second model by its name
        k: given[k] if OPTIONS[k].kind in ("model", "models") else v
        for k, v in config.given.items()
        if k != "logits_processor"
    }
    echo_json(
        {
            "model": name,
            "backend": model.backend.name,
            "dtype": model.dtype,
            "options": settings,
            "prompt": prompt,
            "prompt_ids": prompt_ids,
            "generations": [
                {
                    "text": "".join(step.text for step in row),
                    "ids": [step.token_id for step in row],
                    "logprobs": [step.logprob for step in row],
                    "processed_logprobs": [step.processed_logprob for step in row],
                    "ranks": [step.rank for step in row],
                    "finish_reason": row[-1].finish_reason if row else "length",
                    "score": row[-1].score if row else None,
                }
                for row in rows
            ],
            "prefill_tokens_per_second": prefill,
            "tokens_per_second": decode,
            "weight_gigabytes_per_second": weight_rate(model, config, decode),
        }
    )
