"""What a training run shows on stderr while it goes on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from npgpt.tokenizer import Tokenizer


class Show:
    """The run on stderr: a bar on a terminal, and a line and a sample a validation."""

    tokenizer: Tokenizer  # known when it begins
    bar: Progress | None = None
    task: TaskID

    def __init__(self, settings: Any, prompt: str, sample_tokens: int, step: int = 0):
        self.settings, self.prompt, self.sample_tokens = settings, prompt, sample_tokens
        self.step = step  # that it goes on from
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
                TextColumn(
                    "loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tok/s"
                ),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(
                "", total=self.settings.steps, completed=self.step, loss=0.0, speed=0.0
            )
            self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """A line of the curve: a step, or a validation."""
        if "loss" in event:
            self.speed, self.loss = event["tokens_per_second"], event["loss"]
            self.left = event["seconds_left"]
            if self.bar is not None:
                self.bar.update(
                    self.task, completed=event["step"], loss=self.loss, speed=self.speed
                )
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


def _duration(seconds: float) -> str:
    """Hours, minutes or seconds.

    >>> _duration(75), _duration(7300)
    ('1 min 15 s', '2 h 1 min')
    """
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 60} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
