"""The stepper on the full screen: the same keys, a heat map where a lens has a table.

textual is imported here, so import this module only where a terminal is to be filled.
What it draws is plain text, so it can be read without colours and in any encoding.
"""

from __future__ import annotations

from typing import Any

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, Static

from npgpt.errors import NpgptError
from npgpt.inside.lenses import Grid
from npgpt.inside.stepper.keys import Stepper
from npgpt.support.figure import tint

KEYS = {  # textual's name: the line that it stands for
    "left": "left", "right": "right", "up": "up", "down": "down", "enter": "enter",
    "k": "up", "j": "down", "w": "w", "b": "b", "t": "t", "q": "q", "h": "?",
    "question_mark": "?", "less_than_sign": "left", "greater_than_sign": "right",
}  # fmt: skip
TYPED = {"l": "l ", "x": "x ", "s": "s steps.json", "g": "go ", "W": "w ",
         "upper_w": "w ", "colon": "", "slash": "enter ' "}  # fmt: skip
HINT = "arrows, Enter, Tab, w why, l lens, x head off, b mark, t tree, s save, ? q"


class HeatMap(ScrollView, can_focus=False):
    """A grid line by line: only what is seen is drawn, however wide it is."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.grid: Grid | None = None
        self.first = 0
        self.widths: list[int] = []

    def show(self, grid: Grid) -> None:
        """Take another grid."""
        R, C = grid.shape
        self.grid, self.first = grid, max(map(len, grid.rows)) + 1
        self.widths = [
            1 + max(len(grid.columns[j]), *(len(grid.cell(i, j)) for i in range(R)))
            for j in range(C)
        ]
        self.virtual_size = Size(self.first + sum(self.widths), R + 2 + bool(grid.law))
        self.scroll_to(0, 0, animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of what is seen."""
        grid, x = self.grid, self.scroll_offset.x
        y += self.scroll_offset.y
        if grid is None or y >= self.virtual_size.height:
            return Strip.blank(self.size.width)
        R, C = grid.shape
        if y in (0, R + 2):
            text = grid.caption if y == 0 else str(grid.law)
            return Strip([Segment(text)]).crop(0, self.size.width)
        if y == 1:
            cells = [Segment(" " * self.first)]
            cells += [Segment(grid.columns[j].rjust(self.widths[j])) for j in range(C)]
        else:
            i = y - 2
            cells = [Segment(grid.rows[i].ljust(self.first))]
            for j in range(C):
                back = tint(grid.values[i, j] / grid.limit)
                style = Style(color="black", bgcolor=back)
                cells.append(Segment(grid.cell(i, j).rjust(self.widths[j]), style))
        return Strip(cells).crop(x, x + self.size.width)


class Screen(App[None]):
    """The stepper in a terminal: the view above, what was asked for below."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    BINDINGS = [  # noqa: RUF012
        Binding("tab", "tab", priority=True),
        Binding("ctrl+c", "interrupt", priority=True),
        Binding("escape", "leave", priority=True),
    ]
    CSS = """
    #view { height: auto; max-height: 70%; }
    #below { height: 1fr; scrollbar-size: 1 1; }
    HeatMap { height: 1fr; display: none; scrollbar-size: 1 1; }
    #note { height: auto; dock: bottom; }
    #line { dock: bottom; height: 1; border: none; padding: 0; display: none; }
    """

    def __init__(self, stepper: Stepper):
        super().__init__(ansi_color=True)
        self.stepper, self.interrupted = stepper, False

    def compose(self) -> ComposeResult:
        """Two halves, a line for notes, a line to type in."""
        yield Static(id="view", markup=False)
        with VerticalScroll(id="below", can_focus=False):
            yield Static(id="said", markup=False)
        yield HeatMap(id="map")
        yield Static(HINT, id="note", markup=False)
        yield Input(id="line", compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        """Show where one stands."""
        self.set_focus(None)
        self.look()

    def on_resize(self, event: events.Resize) -> None:
        """The view again, at the new width."""
        self.look(event.size.width)

    def look(self, width: int | None = None) -> None:
        """Where one stands."""
        width = width or self.size.width
        self.query_one("#view", Static).update(self.stepper.view(max(width, 20)))

    def on_key(self, event: events.Key) -> None:
        """A key does what it does in a line; some open a line to type the rest in."""
        below = self.query_one("#map" if self._mapped else "#below")
        moves = {"shift+right": (12, 0), "shift+left": (-12, 0),
                 "pagedown": (0, 8), "pageup": (0, -8)}  # fmt: skip
        if self.focused is not None:
            return
        if event.key in moves:
            x, y = moves[event.key]
            below.scroll_relative(x, y, animate=False)
        elif event.key in KEYS:
            self.press(KEYS[event.key])
        elif event.key in TYPED:
            line = self.query_one("#line", Input)
            line.value, line.display = TYPED[event.key], True
            line.cursor_position = len(line.value)
            self.set_focus(line, scroll_visible=False)
            event.prevent_default()

    @property
    def _mapped(self) -> bool:
        return bool(self.query_one("#map").display)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The line that was typed."""
        self.action_leave()
        self.press(event.value)

    def on_input_blurred(self) -> None:
        """Nobody types any more."""
        self.query_one("#line").display = False

    def press(self, line: str) -> None:
        """Do what a line says; before what may take long, say so."""
        if line.split()[:1] == ["l"]:
            self.query_one("#note", Static).update("reading ...")
            self.call_after_refresh(self._do, line)
        else:
            self._do(line)

    def _do(self, line: str) -> None:
        """Do it, and show what came of it."""
        note, said, grid = HINT, None, None
        try:
            if line.split()[:1] == ["l"]:
                grid = self.stepper.lens(" ".join(line.split()[1:]))
            else:
                said = self.stepper.press(line)
        except NpgptError as error:
            note = f"npgpt: {error}"
        if self.stepper.ended:
            self.exit()
            return
        if grid is not None:
            self.query_one("#map", HeatMap).show(grid)
        if said is not None:
            self.query_one("#said", Static).update(said)
        if grid is not None or said is not None:
            self.query_one("#map").display = grid is not None
            self.query_one("#below").display = grid is None
        self.query_one("#note", Static).update(note)
        self.look()

    def action_tab(self) -> None:
        """The next branch."""
        if self.focused is None:
            self.press("tab")

    def action_leave(self) -> None:
        """Back from the line to the keys."""
        self.set_focus(None)
        self.query_one("#line").display = False

    def action_interrupt(self) -> None:
        """Ctrl-C ends it, and is told to who called."""
        self.interrupted = True
        self.exit()
