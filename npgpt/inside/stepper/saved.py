"""A session's tree in a file: as JSON, which can be read again, and as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from npgpt.decoding.options import GenerationConfig
from npgpt.errors import InsideError
from npgpt.inside.stepper.tree import Session
from npgpt.support.arguments import shown

SUFFIXES = (".json", ".txt")


def as_json(session: Session) -> dict[str, Any]:
    """The tree as plain data; the text of every token beside its id."""
    return {
        "model": getattr(session.model, "name", None),
        "prompt": session.prompt,
        "prefix": session.prefix.hex(),
        "here": session.here,
        "off": [list(one) for one in sorted(session.off)],
        "nodes": [
            {
                "token": node.token,
                "text": None if node.token is None else session.written(node.token),
                "parent": node.parent,
                "bookmark": node.bookmark,
            }
            for node in session.nodes
        ],
    }


def as_text(session: Session) -> str:
    """The tree as lines, a node each: only where texts part they move to the right.

    * is a bookmark, < is where one stands.
    """
    lines, stack = [], [(0, 0)]
    while stack:
        number, depth = stack.pop()
        node = session.nodes[number]
        tokens = session.prompt if node.token is None else [node.token]
        marks = " *" * node.bookmark + " <" * (number == session.here)
        lines.append(f"{'  ' * depth}{number} {session.written(*tokens)}{marks}")
        deeper = depth + (len(node.children) > 1)
        stack += [(child, deeper) for child in reversed(node.children)]
    return "\n".join(lines) + "\n"


def save(session: Session, path: str | Path) -> None:
    """Write the tree as .json (which `load` reads) or as .txt."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InsideError(f"{path}: a tree is written as .json or .txt")
    data = json.dumps(as_json(session), ensure_ascii=False, indent=1) + "\n"
    text = data if path.suffix == ".json" else as_text(session)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InsideError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from None


def load(
    path: str | Path, model: Any, options: GenerationConfig | None = None
) -> Session:
    """A session with the tree of a file, on a model that has its tokens."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        session = Session(model, data["prompt"], options)
        session.prompt = [int(id) for id in data["prompt"]]  # healed when it was saved
        session.prefix = bytes.fromhex(data["prefix"])
        for number, node in enumerate(data["nodes"][1:], 1):
            if not 0 <= int(node["parent"]) < number:
                raise ValueError(f"node {number} has parent {shown(node['parent'])}")
            session.go(int(node["parent"]))
            if session.take(int(node["token"])) != number:
                raise ValueError(f"node {number} is there twice")
        for node, saved in zip(session.nodes, data["nodes"], strict=True):
            node.bookmark = bool(saved["bookmark"])
        for layer, head in data["off"]:
            session.switch(int(layer), int(head))
        session.go(int(data["here"]))
    except OSError as error:
        raise InsideError(
            f"{path}: cannot be read ({error.strerror or error})"
        ) from None
    except KeyError as error:
        raise InsideError(f"{path}: this is no saved tree (no {error})") from None
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise InsideError(f"{path}: this is no saved tree ({error})") from None
    return session
