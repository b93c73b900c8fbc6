"""Numbers of readings by their addresses, and where the operands of a number are.

In a cached reading a query looks at keys that an earlier reading computed: those are
found by the text that it had read, and what a cache held before the trace began was
kept when it was first looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.config import GPT2Config
from npgpt.errors import InsideError
from npgpt.gpt2 import GPT2Params
from npgpt.inside.address import Address, axes, filled, parse_address, write_address
from npgpt.inside.derivatives import every
from npgpt.inside.given import GIVEN
from npgpt.inside.reading import Pass, Tensor
from npgpt.inside.source import Source
from npgpt.interface import Tokens


class Numbers:
    """Every number of some readings: arrays by name, single numbers by address."""

    def __init__(
        self, config: GPT2Config, params: GPT2Params, tokenizer: Tokens | None
    ):
        self.config, self.params, self.tokenizer = config, params, tokenizer
        self.passes: list[Pass] = []
        self.names: set[str] = set()  # what was recorded
        self.gradients: dict[str, np.ndarray] = {}  # of parameters, where asked for
        self.sources: dict[str, Source] = {}
        self.path = ""  # what the model read by, where that is not its own backend
        self.nbytes = 0

    @property
    def dtype(self) -> str:
        """What the numbers were computed in."""
        return str(self.params.wte.weight.dtype)

    def __getitem__(self, text: str) -> Any:
        """The array of a name, or the number at an address."""
        if "[" in text:
            return self.number(text)
        letters = axes(text, self.config)
        found = [
            Tensor(text, letters, one.array(text, self), one, step)
            for step, one in enumerate(self.passes)
            if one.has(text, self)
        ]
        if not found:
            raise InsideError(self.absent(text))
        return found[0] if len(self.passes) == 1 else found

    def __len__(self) -> int:
        return len(self.passes)

    def __repr__(self) -> str:
        tokens = sum(one.T * len(one.ids) for one in self.passes)
        return (
            f"Trace({len(self.passes)} readings, {tokens} tokens, {len(self.names)} "
            f"names, {self.nbytes / 1e6:.1f} MB{', ' * bool(self.path)}{self.path})"
        )

    def number(self, text: str) -> float:
        """The number at an address."""
        return self.value(*self.at(text))

    def at(self, text: str) -> tuple[Pass, str, tuple[int, ...]]:
        """The reading, the name and the whole index of an address."""
        address = parse_address(text, self.config)
        if not self.passes:
            raise InsideError("nothing was read while this trace was on")
        sizes = self.sizes(address.step)
        index = filled(address, sizes)
        if not self._rowed(address.name):
            return self.passes[-1], address.name, index
        slot = index[address.letters.index("t")]
        return self._read(address, index[0], slot), address.name, index

    def _rowed(self, name: str) -> bool:
        return axes(name, self.config)[0] == "b"

    def _read(self, address: Address, row: int, slot: int) -> Pass:
        """The last reading that read this token, or the one that was named."""
        every = self.passes if address.step is None else [self.passes[address.step]]
        held = [one.before[row] for one in every if row in one.before]
        for one in reversed([*held, *every]):
            here = 0 if one in held else row
            reads = here < len(one.ids) and one.reads(here, slot)
            if reads and one.has(address.name, self):
                return one
        raise InsideError(self.absent(address.name, f" at token {slot} of row {row}"))

    def absent(self, name: str, where: str = "") -> str:
        """What to say of a name that no reading has."""
        if name[:2] == "d.":
            return f"{name} is a gradient; ask for grad=True, or --grad"
        if name not in self.names and name in every(self.config):
            return f"{name} was not recorded; give the trace names='*', or '{name}'"
        return f"no reading has {name}{where}"

    def sizes(self, step: int | None = None) -> dict[str, int]:
        """How long every axis is, over all readings or in one."""
        if step is not None and not 0 <= step < len(self.passes):
            last = len(self.passes) - 1
            raise InsideError(f"step={step} is not there; steps are 0 to {last}")
        passes = self.passes if step is None else [self.passes[step]]
        config = self.config
        S = max(one.S for one in passes)
        return {
            "b": max(len(one.ids) for one in passes),
            "t": S,
            "s": S,
            "h": config.n_head,
            "d": config.head_dim,
            "c": config.n_embd,
            "e": config.n_embd,
            "m": config.inner_dim,
            "j": 3 * config.n_embd,
            "v": config.vocab_size,
            "p": config.n_positions,
        }

    def located(
        self, name: str, at: Pass, row: int, slot: int
    ) -> tuple[Pass, int] | None:
        """The reading and the row that computed this of a token which `at` looks at."""
        if at.reads(row, slot) and at.has(name, self):
            return at, row
        text = at.ids[row][: slot + 1]
        for one in reversed(self.passes[: self.passes.index(at)]):
            for r, ids in enumerate(one.ids):
                if (
                    one.reads(r, slot)
                    and ids[: slot + 1] == text
                    and one.has(name, self)
                ):
                    return one, r
        return None

    def where(self, name: str, at: Pass, row: int, slot: int) -> tuple[Pass, int]:
        """The same, or what a cache held of it."""
        if at not in self.passes:
            return at, 0
        found = self.located(name, at, row, slot)
        if found is None and row in at.before:
            return at.before[row], 0
        if found is None:
            raise InsideError(self.absent(name, f" at token {slot}"))
        return found

    def value(self, at: Pass, name: str, index: Sequence[int]) -> float:
        """A number that a formula of this reading reads."""
        if not self._rowed(name):
            array = self.gradient(name) if name[:2] == "d." else self.parameter(name)
            return float(array[tuple(index)])
        row, rest = index[0], list(index[1:])
        letters = axes(name, self.config)[1:]
        if name in GIVEN and name not in ("token", "position"):
            return float(at.given(name, row, *rest))
        place = letters.index("t")
        one, row = self.where(name, at, row, rest[place])
        return one.number(name, row, place, rest, self)

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of a tensor of the checkpoint."""
        if name not in self.gradients:
            raise InsideError(self.absent(name))
        return self.gradients[name]

    def parameter(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint."""
        node: Any = self.params
        for part in name.split("."):
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        return np.asarray(node)

    def write(self, at: Pass, name: str, index: Sequence[int]) -> str:
        """The address of a number that a formula of this reading reads."""
        letters = axes(name, self.config)
        if not self._rowed(name):
            return write_address(name, letters, index)
        row, step = index[0], None
        if "t" in letters:
            slot = index[letters.index("t")]
            one, row = self.where(name, at, row, slot)
            if one not in self.passes:
                row = index[0]  # of a cache: the row that holds it
            elif one is not self._default(name, row, slot):
                step = self.passes.index(one)
        batch = max(len(one.ids) for one in self.passes) > 1
        return write_address(name, letters, (row, *index[1:]), batch=batch, step=step)

    def _default(self, name: str, row: int, slot: int) -> Pass | None:
        for one in reversed(self.passes):
            reads = row < len(one.ids) and one.reads(row, slot)
            if reads and one.has(name, self):
                return one
        return None

    def source(self, one: Pass, name: str) -> Source | None:
        """Where in the code a number was computed; None for what is not tapped."""
        if one not in self.passes:
            return None  # it was read from a cache
        return self.sources.get(name)

    def text(self, id: int) -> str:
        """A token as Python writes it, or its id where there is no tokenizer."""
        if self.tokenizer is None:
            return f"<{id}>"
        return repr(self.tokenizer.decode([id]))

    def token(self, one: Pass, row: int, slot: int) -> str:
        """The number and the text of a token, as a sentence has them."""
        if slot >= len(one.ids[row]):
            return f"token {slot}"
        return f"token {slot} ({self.text(one.ids[row][slot])})"
