"""What objects show of themselves: one line in a terminal, HTML in a notebook.

HTML is escaped, and needs no script, no style sheet and nothing from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from npgpt.support.figure import EDGES, SHADES, shade


def short(text: str, width: int = 48) -> str:
    r"""The text as Python writes it, cut to about so many characters.

    >>> short("Once upon a time\n"), short("a" * 100, width=8)
    ("'Once upon a time\\n'", "'aaaaa...'")
    """
    return repr(text if len(text) <= width else text[: max(0, width - 3)] + "...")


def coloured_tokens(
    texts: Sequence[str], logprobs: Sequence[float], notes: Sequence[str] = ()
) -> str:
    """The texts side by side, each on the colour of its probability, and a legend.

    notes: what each says when it is pointed at, before its probability.

    >>> coloured_tokens(["a", "<b>"], [-0.1, -9.0]).count("<span")
    9
    """
    spans = []
    for at, (text, logprob) in enumerate(zip(texts, logprobs, strict=True)):
        known = not math.isnan(logprob)
        note = [notes[at]] if notes else []
        note += [f"probability {math.exp(logprob):.4f}"] if known else []
        style = f"background:{shade(math.exp(logprob))};color:#000" if known else ""
        spans.append(
            f'<span style="{style}" title="{escaped(", ".join(note))}">'
            f"{escaped(text)}</span>"
        )
    legend = "".join(
        f'<span style="background:{colour};color:#000;padding:0 4px">≥ {edge:g}</span>'
        for colour, edge in zip(SHADES, (0, *EDGES), strict=True)
    )
    return (
        '<pre style="white-space:pre-wrap;line-height:1.5">'
        + "".join(spans)
        + f'</pre><div style="font-size:smaller">{legend} probability</div>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts; the first column to the left, the others to the right.

    >>> table(["a", "b"], [["<", "1"]]).count("<td")
    2
    """
    under = f"<caption>{escaped(caption)}</caption>" if caption else ""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return f"<table>{under}{''.join(lines)}</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    sides = ["left", *["right"] * (len(cells) - 1)]
    return (
        "<tr>"
        + "".join(
            f'<{kind} style="text-align:{side}">{escaped(cell)}</{kind}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        + "</tr>"
    )


def escaped(text: str) -> str:
    """The text so that HTML shows it and nothing of it is markup.

    >>> escaped("<script>&'")
    '&lt;script&gt;&amp;&#x27;'
    """
    import html  # its table of names is loaded where it is needed

    # A carriage return would be read as a line feed.
    return html.escape(text).replace("\r", "&#13;")
