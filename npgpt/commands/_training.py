"""What a training run shows on stderr while it goes on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from npgpt.errors import PlotError
from npgpt.training.presets import FINE_TUNE, PRESETS

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from npgpt.tokenizer import Tokenizer


class Show:
    """The run on stderr: a bar on a terminal, and a line and a sample a validation."""

    tokenizer: Tokenizer  # known when it begins
    end: int
    bar: Progress | None = None
    task: TaskID

    def __init__(
        self,
        settings: Any,
        prompt: str,
        sample_tokens: int,
        step: int = 0,
        draw: Callable[[], object] = lambda: None,
    ):
        self.settings, self.prompt, self.sample_tokens = settings, prompt, sample_tokens
        self.step = self.saved = step  # that it goes on from
        self.draw = draw  # the curve as it is by now
        self.speed, self.parameters, self.loss = 0.0, 0, 0.0

    def reading(self, what: str, done: int, total: int) -> None:
        """Bytes of the corpus that were read, on a terminal."""
        if sys.stderr.isatty() and total:
            self.read = getattr(self, "read", 0) + done
            click.echo(f"\r\033[Kreading for {what}", nl=False, err=True)

    def begin(self, params: Any, data: Any) -> None:
        """What is about to happen, in one line."""
        from npgpt.support.leaves import leaves

        if sys.stderr.isatty():
            click.echo("\r\033[K", nl=False, err=True)
        self.tokenizer, self.end = data.tokenizer, data.end
        self.parameters = sum(x.size for x in leaves(params).values())
        click.echo(
            f"{self.parameters:,} parameters, {len(data.train):,} tokens to learn "
            f"from, {len(data.validation):,} to validate, {self.settings.steps:,} "
            f"steps of {self.settings.tokens_per_step:,} tokens"
            + (f", going on after step {self.step:,}" if self.step else ""),
            err=True,
        )

    def __enter__(self) -> Show:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(
                "", total=self.settings.steps, completed=self.step, figures=""
            )
            self.bar.start()
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        if kind is KeyboardInterrupt:
            self.say_how_to_go_on()

    def stopping(self) -> None:
        """Said in a signal's handler, so past what another write may hold locked."""
        clear = "\r\033[K" if self.bar is not None else ""
        line = "stopping after this step; once more: now, without saving"
        with contextlib.suppress(OSError):
            os.write(2, f"{clear}{line}\n".encode())

    def say_how_to_go_on(self) -> None:
        """What is there of a run that was stopped, and what it takes to go on."""
        if not self.saved:
            click.echo("stopped; nothing had been saved, nothing is left", err=True)
            return
        click.echo(
            f"stopped; step {self.saved:,} of {self.settings.steps:,} is saved: the "
            "same command with --resume goes on",
            err=True,
        )

    def __call__(self, event: dict[str, Any]) -> None:
        """A line of the curve, a step or a validation; or that it was saved."""
        if "saved" in event:
            self.saved = event["step"]
            if self.saved < self.settings.steps:
                with contextlib.suppress(PlotError):  # the end will tell
                    self.draw()
            return
        if "loss" in event:
            self.speed, self.loss = event["tokens_per_second"], event["loss"]
            self.left = event["seconds_left"]
            if self.bar is not None:
                figures = f"loss {self.loss:.3f}  {self.speed:,.0f} tok/s"
                self.bar.update(self.task, completed=event["step"], figures=figures)
            return
        line = f"step {event['step']}: "
        if event["step"] and self.speed:
            line += f"loss {self.loss:.3f}, {self.speed:,.0f} tok/s, "
            line += f"{_duration(self.left)} left; "
        line += f"validation {event['validation_loss']:.3f} nats a token"
        if "bits_per_byte" in event:
            line += f", {event['bits_per_byte']:.3f} bits per byte"
        self._echo(line)
        if self.sample_tokens:
            self._echo(f"    {self._sample(event['params'])!r}")

    def _sample(self, params: Any) -> str:
        """What the model writes now; the same random numbers every time."""
        from npgpt import GPT2
        from npgpt.backend import NUMPY
        from npgpt.support.leaves import map_leaves

        model = GPT2(map_leaves(NUMPY.to_numpy, params), self.tokenizer)
        prompt = model.encode(self.prompt or [self.end])
        n = min(self.sample_tokens, params.config.n_positions - len(prompt))
        (result,) = model.generate(
            [prompt],
            defaults=False,
            max_new_tokens=max(1, n),
            do_sample=True,
            temperature=0.8,
            seed=0,
            eos_token_id=(),
        )
        return result.text

    def _echo(self, line: str) -> None:
        if self.bar is not None:
            self.bar.console.print(line, highlight=False, markup=False)
        else:
            click.echo(line, err=True)


def preset_table() -> str:
    """The numbers of the presets, and of fine-tuning, as lines of help."""
    heads = (
        "layers",
        "width",
        "heads",
        "vocabulary",
        "context",
        "steps",
        "windows",
        "rate",
        "warm-up",
    )
    rows: list[tuple[str, ...]] = [("", *heads)]
    for name, preset in PRESETS.items():
        shape = (preset.n_layer, preset.n_embd, preset.n_head, preset.vocabulary)
        rows.append((name, *map(str, (*shape, *_recipe(preset.train)))))
    rows.append(("--init-from", *[""] * 4, *map(str, _recipe(FINE_TUNE))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        row[0].ljust(widths[0])
        + "".join(f" {x:>{n}}" for x, n in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    what = [f"{name}: {preset.summary}" for name, preset in PRESETS.items()]
    return "\n".join(["\b", "Presets:", *lines, "", "\b", *what])


def _recipe(train: Any) -> tuple[Any, ...]:
    windows = train.batch_size * train.accumulate
    return (
        train.context,
        train.steps,
        windows,
        f"{train.learning_rate:g}",
        train.warmup_steps,
    )


def _duration(seconds: float) -> str:
    """Hours, minutes or seconds.

    >>> _duration(75), _duration(7300)
    ('1 min 15 s', '2 h 1 min')
    """
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
