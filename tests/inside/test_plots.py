"""Figures: what they show is what the model computes, and labels name it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, tiny_params
from PIL import Image

import npgpt
from npgpt import GPT2, PlotError
from npgpt.inside import attention
from npgpt.ops import causal_mask
from npgpt.support.figure import save

NPGPT = str(Path(sys.executable).parent / "npgpt")
TEXT = "The king had $2 and $3."


def pictures(figure):
    """The axes that show an array, without colour bars."""
    return [axes for axes in figure.axes if axes.images and axes.get_visible()]


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("T", "S", "window"), [(8, None, None), (3, 7, None), (1, 1, None), (4, 12, 3)]
)
def test_the_mask_is_drawn_as_it_is(T, S, window):
    figure = attention.plot_mask(T, S, window)
    (axes,) = pictures(figure)
    expected = causal_mask(T, S, window=window)
    assert (np.asarray(axes.images[0].get_array()) == expected).all()
    first = (S or T) - T
    assert tick_labels(axes.yaxis)[0] == str(first)  # positions among all S
    assert axes.get_xlabel().startswith("key")
    assert axes.get_ylabel().startswith("query")
    assert "Causal mask" in axes.get_title()
    bar = next(axes for axes in figure.axes if axes not in pictures(figure))
    assert tick_labels(bar.yaxis) == ["hidden (−∞)", "visible"]


def test_one_head_is_drawn_with_its_tokens(tales):
    figure = attention.plot_attention(tales, TEXT, layer=1, head=2)
    (axes,) = pictures(figure)
    taps = {}
    tales.logits(tales.encode(TEXT), lambda n, x: taps.setdefault(n, x))
    shown = axes.images[0].get_array()
    weights = taps["h.1.attn.weights"][0, 2]
    assert (shown.mask == ~causal_mask(len(weights))).all()
    np.testing.assert_array_equal(shown.filled(0), weights)
    assert axes.images[0].get_clim() == (0, 1)
    labels = attention.token_labels(tales, tales.encode(TEXT))
    assert labels[:2] == ["The", "␣king"]
    assert tick_labels(axes.xaxis) == tick_labels(axes.yaxis) == labels
    assert axes.get_title() == "Attention weights, layer 1, head 2"


@pytest.mark.parametrize(
    ("layer", "head", "names"),
    [
        (None, None, [(i, j) for i in range(6) for j in range(4)]),
        (3, None, [(3, j) for j in range(4)]),
        (None, 2, [(i, 2) for i in range(6)]),
    ],
)
def test_a_grid_holds_every_head_that_was_asked_for(tales, layer, head, names):
    figure = attention.plot_attention(tales, TEXT, layer=layer, head=head)
    weights = attention.attention_weights(tales, tales.encode(TEXT))
    assert weights.shape[:2] == (6, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    drawn = pictures(figure)
    assert [axes.get_title() for axes in drawn] == [
        f"layer {i}, head {j}" for i, j in names
    ]
    for axes, (i, j) in zip(drawn, names, strict=True):
        shown = axes.images[0].get_array().filled(0)
        np.testing.assert_array_equal(shown, weights[i, j])
    assert TEXT in figure.get_suptitle()
    labels = attention.token_labels(tales, tales.encode(TEXT))
    assert tick_labels(drawn[-1].xaxis) == tick_labels(drawn[0].yaxis) == labels
    assert figure.get_supxlabel().startswith("key")
    assert figure.get_supylabel().startswith("query")


def test_a_model_without_tokenizer_is_labelled_with_ids():
    figure = attention.plot_attention(GPT2(tiny_params()), [3, 1, 4], 0, 0)
    assert tick_labels(pictures(figure)[0].xaxis) == ["3", "1", "4"]
    assert attention.plot_attention(GPT2(tiny_params(TINY)), [3], 1, 1)


def test_characters_without_a_glyph_are_escaped(tales, tmp_path):
    ids = tales.encode("漢 é\n$x$")
    labels = "".join(attention.token_labels(tales, ids))
    assert "é" in labels
    assert "↵" in labels
    assert labels.isprintable()
    save(
        attention.plot_attention(tales, "漢 é\n$x$ $\\frac$", 0, 0), tmp_path / "a.svg"
    )


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (attention.plot_mask, (4, 3), "1 <= T <= S"),
        (attention.plot_mask, (0,), "1 <= T <= S"),
        (attention.plot_mask, (65,), "at most 64"),
        (attention.plot_mask, (4, 4, 0), "window must be at least 1"),
    ],
)
def test_masks_that_cannot_be_are_refused(function, arguments, sentence):
    with pytest.raises(PlotError, match=sentence):
        function(*arguments)


@pytest.mark.parametrize(
    ("text", "layer", "head", "sentence"),
    [
        ("a", 6, None, "it has layers 0 to 5"),
        ("a", 0, -1, "it has heads 0 to 3"),
        ("a b c " * 40, 0, 0, "at most 64"),
    ],
)
def test_heads_that_are_not_there_are_refused(tales, text, layer, head, sentence):
    with pytest.raises(PlotError, match=sentence):
        attention.plot_attention(tales, text, layer, head)


# The command


def run(*arguments, cwd, status=0):
    done = subprocess.run(
        [NPGPT, "plot", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_command_draws_the_mask_as_png(tmp_path):
    done = run("mask", "-T", "4", "-S", "10", "--window", "3", cwd=tmp_path)
    assert done.stdout == "mask.png\n"
    with Image.open(tmp_path / "mask.png") as image:
        assert min(image.size) > 400
        colours = {colour for _, colour in image.convert("RGB").getcolors(100_000)}
    assert {(0x2F, 0x6F, 0x9F), (0xE8, 0xE6, 0xE1), (255, 255, 255)} <= colours


def test_command_draws_attention_as_svg(tmp_path):
    arguments = ("attention", TEXT, "--layer", "1", "--head", "2", "--figure")
    for name in ("one.svg", "two.svg"):
        assert run(*arguments, name, cwd=tmp_path).stdout == f"{name}\n"
    assert ET.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    one, two = (tmp_path / name for name in ("one.svg", "two.svg"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("mask", "--figure", "mask.gif"),
            "mask.gif: a figure is written as .png or .svg",
        ),
        (("mask", "--figure", "no/folder/mask.png"), "cannot be written (No such file"),
        (("attention", "a", "--layer", "9"), "layer 9 is not there"),
    ],
)
def test_command_fails_in_one_sentence(tmp_path, arguments, sentence):
    done = run(*arguments, cwd=tmp_path, status=1)
    assert sentence in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_all_figures_take_their_colours_from_one_palette():
    root = Path(npgpt.__file__).parent
    own = {
        str(path.relative_to(root)): found
        for path in root.rglob("*.py")
        if (found := re.findall(r"[\"']#[0-9a-fA-F]{3,8}[\"']", path.read_text()))
    }
    assert set(own) == {"support/figure.py"}


def test_the_palette_needs_no_matplotlib():
    code = (
        "import sys; from npgpt.support.figure import BLUE, save; "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
