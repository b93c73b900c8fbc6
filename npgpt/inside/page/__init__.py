"""The page: a forward pass in one HTML file, every number of it to be opened.

    write_page(model, "The old king", "page.html")

It opens from disk and sends no request. The browser recomputes every number that is
opened, in float64, by the same formulas (npgpt.inside.formula), and says how far the
model's own is from it. page.html, page.css and *.js here are what it is made of.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npgpt.errors import InsideError
from npgpt.inside.page.cone import cone
from npgpt.inside.page.contents import described
from npgpt.inside.page.pack import Pack, everything, focus, packed
from npgpt.support.arguments import checked, shown
from npgpt.support.notebook import escaped

WEIGHTS = ("all", "focus", "cone")
MOST_TOKENS = 64  # more could not be told apart
MOST_NUMBERS = 16 << 20
SMALL = 4 << 20  # bytes of float16 that a page takes whole unless told otherwise

HERE = Path(__file__).parent
SCRIPTS = (  # in this order: each uses those above it
    "numbers.js", "formula.js", "notation.js", "explain.js", "choice.js", "colours.js",
    "elements.js", "heat.js", "model.js", "grid.js", "tensor.js", "sum.js", "cell.js",
    "next.js", "page.js",
)  # fmt: skip


class Page(str):
    """The HTML of a page, which shows itself in a notebook, in a frame of its own."""

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escaped(self)}" sandbox="allow-scripts" '
            'style="width:100%;height:720px;border:0"></iframe>'
        )


@checked(InsideError)
def page(
    model: Any,
    prompt: str | Sequence[int],
    weights: str | None = None,
    cell: str | None = None,
) -> Page:
    """The HTML of a page about the forward pass of a prompt; a notebook shows it.

    weights: "all"; "focus", those of one layer (of the cell, else the first) and of
    the tokens that matter; "cone", the numbers alone that the cell is made of. By
    default all of a small model, else focus. cell: the address that it opens with.
    """
    ids = model.encode(prompt)
    if len(ids) > MOST_TOKENS:
        raise InsideError(
            f"a page shows at most {MOST_TOKENS} tokens, and the prompt has {len(ids)}"
        )
    if weights is None:
        weights = "all" if 2 * _parameters(model.config) <= SMALL else "focus"
    if weights not in WEIGHTS:
        raise InsideError(
            f"weights must be one of {', '.join(WEIGHTS)}, not {shown(weights)}"
        )
    if weights == "cone" and cell is None:
        raise InsideError("a cone needs the cell that it ends in: give its address")
    with model.trace() as trace:
        model.logits([ids])
    at = None if cell is None else trace.at(cell)
    chosen: Pack
    if weights == "cone" and at is not None:
        chosen = cone(trace, at[1], at[2])
    elif weights == "focus":
        chosen = focus(trace, 0 if at is None else _layer(at[1], model.config))
    else:
        chosen = everything(trace)
    if chosen.count > MOST_NUMBERS:
        raise InsideError(
            f"this page would hold {chosen.count / 1e6:.0f} million numbers; give "
            "fewer tokens, or weights='cone' and the address of a cell (--weights cone "
            "--cell ADDRESS)"
        )
    arrays, data = packed(chosen)
    start = None if at is None else trace.write(*at)
    text = prompt if isinstance(prompt, str) else None
    contents = described(trace, text, weights, start, chosen, model.name)
    return Page(_html({**contents, "arrays": arrays}, data))


def write_page(
    model: Any,
    prompt: str | Sequence[int],
    path: str | Path,
    weights: str | None = None,
    cell: str | None = None,
) -> int:
    """Write the page into a file; its size in bytes."""
    html = page(model, prompt, weights, cell).encode()
    try:
        Path(path).write_bytes(html)
    except OSError as error:
        raise InsideError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from None
    return len(html)


def _parameters(config: Any) -> int:
    C, M = config.n_embd, config.inner_dim
    tables = (config.vocab_size + config.n_positions) * C
    return int(tables + config.n_layer * (4 * C * C + 2 * C * M))


def _layer(name: str, config: Any) -> int:
    """The layer of a name; the last one behind the blocks."""
    if name.startswith("h."):
        return int(name.split(".")[1])
    return config.n_layer - 1 if name.startswith(("ln_f", "logits")) else 0


def _html(contents: dict[str, Any], data: bytes) -> str:
    """The file: its policy lets no request out and no other script in."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n{script}'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # `<` as an escape: no text of a token can end the element.
    text = json.dumps(contents, ensure_ascii=True, separators=(",", ":"))
    parts = {
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "CONTENTS": text.replace("<", "\\u003c"),
        "NUMBERS": base64.b64encode(data).decode(),
    }
    html = (HERE / "page.html").read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], html)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
