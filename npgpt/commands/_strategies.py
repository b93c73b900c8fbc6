"""Command-line options of decoding, made from the catalogue: one each parameter."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click

from npgpt.commands._shared import load_model
from npgpt.commands._words import PromptCommand, complete
from npgpt.decoding.catalogue import strategies
from npgpt.decoding.catalogue.entry import SECTIONS
from npgpt.decoding.catalogue.kinds import KINDS, Parameter
from npgpt.decoding.chain import ORDERS
from npgpt.decoding.names import advice
from npgpt.decoding.options import OPTIONS
from npgpt.errors import TokenizerError
from npgpt.texts import read_text


def option_name(parameter: str) -> str:
    """The flag of a parameter.

    >>> option_name("min_p")
    '--min-p'
    """
    return "--" + parameter.replace("_", "-")


chain_option = click.option(
    "--chain",
    shell_complete=complete(ORDERS),
    help="Order of the rules: hf, llama.cpp, vllm, or names: "
    '"penalties;top_k;temperature"  [default: hf]',
)


class StrategyOption(click.Option):
    """An option that a strategy has entered, listed in its section."""

    section = ""


USUAL = ("min_p", "repetition_penalty", "num_beams")  # of the catalogue, in --help
RARE = ("threads", "overflow", "min_new_tokens", "chain")  # of the verb's own: not


class StrategyCommand(PromptCommand):
    """A command with an option for every parameter of the catalogue.

    The verb's own options come first, and stand for the parameters of their name.
    --help shows those that people use, --help-all all.
    """

    def __init__(self, *args: Any, usual: Sequence[str] = USUAL, **settings: Any):
        super().__init__(*args, **settings)
        self.usual = usual

    def is_usual(self, option: click.Option) -> bool:
        """Whether --help shows it."""
        rare = isinstance(option, StrategyOption) or option.name in RARE
        return option.name in self.usual or not rare

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters, and those that are in the catalogue by now."""
        own = super().get_params(ctx)
        names = {p.name for p in own} | {"do_sample"}  # a verb says --greedy
        return [
            *own,
            HELP_ALL,
            *(p for p in _options(tuple(strategies())) if p.name not in names),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; an option of another system is answered with ours."""
        flags = {p.name: p.opts[0] for p in self.get_params(ctx)}
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            said = advice(name, lambda option: flags.get(option, option))
            if name in flags:  # the verb has a flag of its own for this option
                said = f"here it is {flags[name]}"
            elif name == "do_sample":
                said = "sampling is the default, --greedy is not to sample"
            if not said:
                raise
            sentence = f"No such option {error.option_name}; {said}."
            raise click.UsageError(sentence, ctx) from None

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The verb's own options, then one block a section; or the usual ones."""
        params = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        if not ctx.meta.get(HELP_ALL.name or ""):
            usual = sorted(filter(self.is_usual, params), key=_comes_last)
            lines = [record for p in usual if (record := p.get_help_record(ctx))]
            with formatter.section("Options"):
                formatter.write_dl(lines)
            return
        for section in ("", *SECTIONS.values()):
            lines = [
                record
                for p in params
                if getattr(p, "section", "") == section
                and (record := p.get_help_record(ctx))
            ]
            if lines:
                with formatter.section(section or "Options"):
                    formatter.write_dl(lines)


def _comes_last(option: click.Option) -> bool:
    return option.name in ("as_json", "help", "help_all")


def _help_all(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[str(option.name)] = True
        click.echo(ctx.get_help())
        ctx.exit()


HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Every decoding strategy's options too.",
)


@cache
def _options(entered: tuple) -> list[click.Option]:
    """The options of these strategies; the first of a strategy names it."""
    options: list[click.Option] = []
    for strategy in entered:
        for parameter in strategy.parameters:
            if parameter.kind != "function":
                first = parameter is strategy.parameters[0]
                option = _option(parameter, strategy.name if first else "")
                option.section = strategy.section
                options.append(option)
    return options


def _option(parameter: Parameter, strategy: str) -> StrategyOption:
    flag, default = parameter.kind == "flag", parameter.default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    shown = shown if len(shown) < 30 else shown[:27] + "..."
    tail = "" if flag or default in (None, (), {}, "") else f"  [default: {shown}]"
    what = f"{strategy[0].upper()}{strategy[1:]}: " if strategy else ""
    what += parameter.help + " @FILE reads it." * KINDS[parameter.kind].file
    kind: dict[str, Any] = {"is_flag": True, "flag_value": True}
    if not flag:
        choices = "|".join(map(str, parameter.choices))
        kind = {"metavar": choices or KINDS[parameter.kind].metavar}
    names = [option_name(parameter.name), parameter.name]
    return StrategyOption(names, default=None, help=what + tail, **kind)


def parsed(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, with texts turned into values."""
    return {
        name: _parse(OPTIONS[name], value) if isinstance(value, str) else value
        for name, value in options.items()
        if value is not None
    }


def _parse(parameter: Parameter, text: str) -> Any:
    if parameter.kind == "model":
        return _load(text)
    if parameter.kind == "models":
        return [_load(name.strip()) for name in text.split(",")]
    file = KINDS[parameter.kind].file
    return parameter.parse(_text(text, parameter) if file else text)


def _text(text: str, parameter: Parameter) -> str:
    """The text itself, or that of the file it names."""
    flag, file = option_name(parameter.name), Path(text.removeprefix("@"))
    if not text.startswith("@"):
        if len(text) < 256 and file.is_file():
            raise click.UsageError(
                f"{flag} is the text itself; write {flag} @{text} to read that file"
            )
        return text
    try:
        return "".join(read_text(io.BytesIO(file.read_bytes())))
    except (OSError, TokenizerError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"{flag} {text} cannot be read: {reason}") from None


def _load(name: str) -> Any:
    """A second model, on the backend and in the dtype of the first."""
    given = click.get_current_context().params
    return load_model(name, given["backend"], given["dtype"])
