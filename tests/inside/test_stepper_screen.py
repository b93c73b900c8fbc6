"""The full screen: keys, sizes, no colour, Ctrl-C, in a real terminal if there is one.

textual is an extra; tmux is a terminal that tells what it shows.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("textual", reason="textual is an extra")

from textual.widgets import Input, Static

from npgpt import GPT2, GenerationConfig
from npgpt.inside.stepper.keys import Stepper
from npgpt.inside.stepper.screen import HeatMap, Screen
from npgpt.inside.stepper.tree import Session

NPGPT = Path(sys.executable).parent / "npgpt"


@pytest.fixture
def app():
    options = GenerationConfig(do_sample=True, top_k=20, seed=3)
    model = GPT2.from_pretrained("tales-mini")
    stepper = Stepper(Session(model, "Once upon a time", options))
    stepper.point()
    return Screen(stepper)


def shown(app, name):
    return str(app.query_one(name, Static).content)


def play(app, keys, then, size=(80, 24)):
    """Press keys, each "[...]" being typed letter by letter, then look."""

    async def go():
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(*(key[1:-1] if key[0] == "[" else [key]))
                await pilot.pause()
            await then(pilot)

    asyncio.run(go())


def test_keys_are_steps(app):
    session = app.stepper.session

    async def then(pilot):
        assert shown(app, "#view") == app.stepper.view(80)
        first = app.stepper.at
        await pilot.press("down")
        assert app.stepper.at == first + 1
        await pilot.press("j", "k", "up", "enter", "enter", "left")
        assert session.here == 1
        await pilot.press("up", "up", "up", "up", "down", "enter", "tab")
        assert session.nodes[session.here].parent == 1
        await pilot.press("b")
        assert session.nodes[session.here].bookmark
        await pilot.press("w")
        assert shown(app, "#said").startswith("logits[t=5,")
        await pilot.press("t")
        assert shown(app, "#said").splitlines()[0] == "0 'Once upon a time'"
        await pilot.press("question_mark")
        assert "LAYER HEAD" in shown(app, "#said")
        await pilot.press("q")

    play(app, [], then)


def test_what_needs_words_opens_a_line(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def then(pilot):
        line = app.query_one("#line", Input)
        assert not line.display
        assert app.stepper.session.off == {(2, 1)}
        assert "without 2.1" in shown(app, "#view")
        await pilot.press("x", *"9 9", "enter")
        assert "layer 9 is not there" in shown(app, "#note")
        await pilot.press("s", "enter")
        assert (tmp_path / "steps.json").exists()
        await pilot.press("x", "escape")
        assert not line.display
        await pilot.press("right")
        assert app.stepper.session.here == 1

    play(app, ["x", "[2 1]", "enter"], then)


def test_a_lens_is_a_heat_map_line_by_line(app):
    async def then(pilot):
        heat = app.query_one(HeatMap)
        assert heat.display
        lines = [heat.render_line(y).text for y in range(4)]
        assert lines[0].startswith("Rollout of attention")
        assert lines[1].split() == ["0", "'Once'", "1", "'", "upon'", "2", "'", "a'",
                                    "3", "'", "time'"]  # fmt: skip
        assert lines[2].split()[-4:] == ["1.000", "0.000", "0.000", "0.000"]
        styles = {
            segment.style.bgcolor for segment in heat.render_line(5) if segment.style
        }
        assert len(styles) > 2
        await pilot.press("l", *"nothing", "enter")
        assert "lenses are" in shown(app, "#note")
        await pilot.press("w")
        assert not heat.display

    play(app, ["l", "[rollout]", "enter"], then)


@pytest.mark.parametrize("size", [(80, 24), (60, 20), (20, 6), (200, 60)])
def test_every_size_has_a_view(app, size):
    async def then(pilot):
        width = max(size[0], 20)
        assert shown(app, "#view") == app.stepper.view(width)
        await pilot.resize_terminal(70, 24)
        await pilot.pause()
        assert shown(app, "#view") == app.stepper.view(70)

    play(app, ["down", "enter"], then, size)


def test_ctrl_c_is_told_to_who_called(app):
    async def then(pilot):
        assert app.interrupted

    play(app, ["ctrl+c"], then)


class Terminal:
    """A tmux of its own, with the command in it."""

    def __init__(self, width, height, folder, **environment):
        self.socket = str(folder / "tmux")
        settings = " ".join(f"{k}={v}" for k, v in environment.items())
        command = (
            f"env -u COLUMNS -u LINES {settings} {NPGPT} step 'Once upon a time' "
            "-m tales-mini --top-k 20 --seed 3; echo status $?; sleep 60"
        )
        self.tmux(
            "-f", os.devnull, "new-session", "-d", "-x", width, "-y", height, command
        )

    def tmux(self, *words):
        return subprocess.run(
            ["tmux", "-u", "-S", self.socket, *map(str, words)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def until(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in (seen := self.tmux("capture-pane", "-p")):
            assert time.monotonic() < end, seen
            time.sleep(0.1)
        return seen


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not here")
@pytest.mark.parametrize(
    "environment",
    [
        dict(TERM="screen-256color"),
        dict(TERM="screen", NO_COLOR="1"),
        dict(TERM="screen-256color", LANG="C", LC_ALL="C"),
    ],
    ids=["colours", "none", "C"],
)
def test_in_a_terminal(tmp_path, environment):
    terminal = Terminal(80, 24, tmp_path, **environment)
    try:
        seen = terminal.until("arrows, Enter")
        assert seen.startswith("[0] 'Once upon a time'")
        terminal.press("Down", "Up", "Enter")
        seen = terminal.until("[1] ")
        terminal.press("w")
        terminal.until("The score of")
        terminal.tmux("resize-window", "-x", 60, "-y", 20)
        terminal.until("tree, s save")
        terminal.press("x")
        time.sleep(0.3)
        terminal.press("2 1", "Enter")
        terminal.until("without 2.1")
        terminal.press("Left")
        terminal.until("[0] ")
        terminal.press("C-c")
        terminal.until("status 130")
    finally:
        terminal.tmux("kill-server")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not here")
def test_a_terminal_that_cannot_be_filled_has_lines(tmp_path):
    terminal = Terminal(80, 24, tmp_path, TERM="dumb")
    try:
        terminal.until("[0] 'Once upon a time'")
        terminal.press("down", "Enter")
        terminal.press("z", "Enter")
        terminal.until("there is no key 'z'")
        terminal.press("q", "Enter")
        terminal.until("status 0")
    finally:
        terminal.tmux("kill-server")
