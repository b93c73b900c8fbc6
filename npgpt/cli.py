"""The `npgpt` command: finds a verb's module in npgpt.commands and reports errors.

Results go to stdout, progress and figures of speed to stderr. Exit status: 0, 1 (it
failed, with one sentence), 2 (it was called wrongly), 130 (Ctrl-C).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import click

from npgpt import __version__
from npgpt.commands import _streams
from npgpt.errors import NpgptError
from npgpt.support.hints import meant
from npgpt.support.notes import Note

VERBS = {  # verb: one line of help, here so that `npgpt --help` imports nothing else
    "generate": "Continue a text.",
    "sample": "One next-token distribution, through every element of the chain.",
    "step": "A text token by token: back, forth, other branches.",
    "strategies": "Every decoding strategy: formula, parameters, paper, example.",
    "compare": "Decoding strategies: diversity against quality, with a figure.",
    "train": "Train a model on text files, or fine-tune one.",
    "score": "How probable a text is, token by token.",
    "eval": "Zero-shot LAMBADA, HellaSwag and cloze questions.",
    "why": "A number of the forward pass: its formula, operands and line.",
    "explain": "A page of a forward pass: open any number, see what it is made of.",
    "lens": "One question to a model: who made this logit, what if a head were off?",
    "tokenize": "A text in tokens: bytes, merges, ids.",
    "shapes": "The forward pass as a table: formulas, shapes, FLOPs, time.",
    "plot": "Figures: the causal mask, attention.",
    "download": "Bring a model from the Hugging Face Hub.",
    "scaling": "How large a model, how many tokens, for so many FLOPs.",
    "info": "Sizes of a model: parameters, FLOPs, memory.",
    "bench": "How fast, against NumPy, the machine and the peers.",
    "warmup": "Compile all kernels now, once.",
    "convert": "Store a model in another dtype, or packed for the kernels.",
    "verify": "Check a model's numbers on this machine.",
}


class Verbs(click.Group):
    """Loads a verb's module only when it is called, so that the command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb's command, imported now."""
        if name not in VERBS:
            return None
        return importlib.import_module(f"npgpt.commands.{name}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The verb, or which one may have been meant."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            hint = meant(args[0], VERBS).strip()
            hint = f" {hint[0].upper()}{hint[1:]}" if hint else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """The list of verbs, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, *args: Any, **extra: Any) -> Any:
        """The whole command, with streams that carry any text."""
        _streams.prepare()
        try:
            return super().main(*args, **extra)
        except OSError as error:  # where click itself writes: --help, wrong calls
            _give_up(error)
            sys.exit(1)
        except SystemExit as leaving:
            if _streams.say_what_was_lost() and not leaving.code:
                sys.exit(1)
            raise

    def in_shell(self, sentence: str, ctx: click.Context) -> str:
        """A sentence with the shell's names of options for Python's."""
        verb = self.get_command(ctx, ctx.invoked_subcommand or "")
        flags = {
            str(option.name): max(option.opts, key=len)
            for option in (verb.get_params(ctx) if verb else ())
            if isinstance(option, click.Option) and option.opts
        }
        return with_flags(sentence, flags)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; turn what can go wrong into one sentence and a status."""
        try:
            return super().invoke(ctx)
        except NpgptError as error:
            click.echo(f"npgpt: {self.in_shell(str(error), ctx)}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            _write_no_more()  # the reader has all it wanted
            ctx.exit(0)
        except OSError as error:  # a full disk under stdout, a terminal that went away
            _give_up(error)
            ctx.exit(1)


def _give_up(error: OSError) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"npgpt: cannot go on: {error}", err=True)
    _write_no_more()


def _write_no_more() -> None:
    """Let Python find a stdout at exit that takes what is left, else it complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_flags(sentence: str, flags: Mapping[str, str]) -> str:
    """A sentence about Python's options, as it is said of these flags.

    >>> flags = {"overflow": "--overflow", "stop_strings": "--stop", "seed": "--seed"}
    >>> with_flags("stop_strings and seed; use overflow='stop' or 'slide'", flags)
    '--stop and seed; use --overflow stop or slide'
    """

    def setting(found: re.Match[str]) -> str:
        name, value = found[1], found[2].replace("'", "")
        if name == "do_sample":
            return "sampling" if value == "True" else "--greedy"
        if name not in flags or value == "None":
            return found[0]
        words = {"True": flags[name], "False": f"no {flags[name]}"}
        return words.get(value, f"{flags[name]} {value}")

    def bare(found: re.Match[str]) -> str:
        return flags.get(found[0], found[0])

    value = r"('[^']*'(?: or '[^']*')*|[\w.]+)"
    sentence = re.sub(rf"(?<![\w'/-])([a-z_]+)={value}", setting, sentence)
    if "chain" in sentence:  # whose rules have names like options
        return sentence
    sentence = re.sub(r"^[a-z_]+(?=[ ,:](?!'))|(?<=without )[a-z_]+$", bare, sentence)
    return re.sub(r"(?<![\w'\"/.-])[a-z]+(_[a-z]+)+(?![\w'\"/.=-]\w)", bare, sentence)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """A note is one line for the user, another warning what Python makes of it."""
    plain = f"note: {message}"
    text = warnings.formatwarning(message, category, filename, lineno).rstrip()
    click.echo(plain if issubclass(category, Note) else text, err=True)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`npgpt VERB --help` explains a verb, with an example; docs/glossary.md "
    "explains the words (prefill, tap, twin, roofline, nats, chain, ...).",
)
@click.version_option(__version__, prog_name="npgpt")
def main() -> None:
    """GPT-2 in plain NumPy: generate text, look inside, measure."""
    warnings.showwarning = _show


if __name__ == "__main__":
    main()
