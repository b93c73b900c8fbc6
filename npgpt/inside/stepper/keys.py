"""Keys: what each does to a session, and how it looks, as lines of text.

The line mode and the full screen both are this: a line is a key and what it is about.
"""

from __future__ import annotations

import shlex
from textwrap import wrap
from typing import Any

from npgpt.errors import InsideError, NpgptError
from npgpt.inside import lenses
from npgpt.inside.stepper.saved import as_text, save
from npgpt.inside.stepper.tree import Session, removed_by

HELP = """\
left  <       one token back            right  >   one token on
up  k         a candidate up            down  j    a candidate down
enter         take the candidate        enter ' x' take this token
tab           the next branch from the same parent
go 3          to node 3
w [ADDRESS]   why a number is what it is: the candidate's logit, or any address
l NAME        a lens: logit, attribution, ablation, rollout, gradient, integrated
x LAYER HEAD  take a head out, or put it back: both columns side by side
b             a bookmark here           t          the tree
s FILE        save as .json or .txt     ?          this help
q             the end"""

ALIASES = {"<": "left", ">": "right", "k": "up", "j": "down", "": "enter", "h": "?"}
LENSES = {
    "logit": lenses.logit_lens,
    "attribution": lenses.attribution,
    "ablation": lenses.ablation,
    "gradient": lenses.gradient_input,
    "integrated": lenses.integrated_gradients,
}
LARGEST = 8  # terms of a sum that are named


class Stepper:
    """A session, the candidate that is pointed at, and what keys do.

    `press` returns what there is to be read besides the view, often nothing.
    """

    def __init__(self, session: Session, candidates: int = 10):
        self.session, self.candidates = session, candidates
        self.at, self.ended = 0, False

    @property
    def shown(self) -> list[int]:
        """The candidates here: the model's best, and the token that would be taken."""
        return self.session.choice().best(self.candidates)

    @property
    def candidate(self) -> int:
        """The one that is pointed at."""
        shown = self.shown
        return shown[min(self.at, len(shown) - 1)]

    def press(self, line: str) -> str:
        """Do what a line says. Raises NpgptError, with a sentence, for what cannot be.

        Wherever one goes, the candidate pointed at is the one that would be taken.
        """
        try:
            words = shlex.split(line)
        except ValueError:
            raise InsideError(f"{line!r}: a quote is not closed") from None
        key, *rest = words or [""]
        key = ALIASES.get(key, key)
        action = ACTIONS.get(key)
        if action is None:
            raise InsideError(f"there is no key {key!r}; ? lists them")
        before = self.session.here
        try:
            said = action(self, *rest)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise InsideError(f"{line!r}: see ? for what this key takes") from None
            raise
        if self.session.here != before:
            self.point()
        return said or ""

    def point(self) -> None:
        """Point at the token that would be taken here."""
        self.at = self.shown.index(self.session.choice().token_id)

    def _left(self) -> None:
        self.session.back()

    def _right(self) -> None:
        self.session.forward()

    def _up(self) -> None:
        self.at = max(0, self.at - 1)

    def _down(self) -> None:
        self.at = min(len(self.shown) - 1, self.at + 1)

    def _enter(self, token: str | None = None) -> None:
        if token is None:
            self.session.take(self.candidate)
        else:
            self.session.take(lenses.token_id(self.session.model, token))

    def _tab(self) -> None:
        self.session.sibling()

    def _go(self, node: str) -> None:
        self.session.go(_number(node))

    def _why(self, address: str | None = None) -> str:
        at = len(self.session.ids()) - 1
        address = address or f"logits[t={at},v={self.candidate}]"
        return why_text(self.session.trace().why(address))

    def _lens(self, name: str = "") -> str:
        return str(self.lens(name))

    def lens(self, name: str) -> lenses.Grid:
        """What a lens answers here, about the candidate."""
        model, ids = self.session.model, self.session.ids()
        if name == "rollout":
            return lenses.rollout(model, ids)
        if name not in LENSES:
            raise InsideError(f"lenses are {', '.join([*LENSES, 'rollout'])}")
        lens: Any = LENSES[name]
        grid: lenses.Grid = lens(model, ids, token=self.candidate)
        return grid

    def _off(self, layer: str, head: str) -> None:
        self.session.switch(_number(layer), _number(head))

    def _bookmark(self) -> None:
        self.session.bookmark()

    def _save(self, path: str = "steps.json") -> str:
        save(self.session, path)
        return f"wrote {path}"

    def _tree(self) -> str:
        return as_text(self.session).rstrip()

    def _help(self) -> str:
        return HELP

    def _quit(self) -> None:
        self.ended = True

    def view(self, width: int = 80) -> str:
        """Where one stands, no line wider than that."""
        session, choice = self.session, self.session.choice()
        node = session.nodes[session.here]
        room = max(8, width - 8 - len(str(session.here)))
        text = session.text
        text = repr(text if len(text) <= room else "..." + text[3 - room :])
        many = (
            len(session.nodes[node.parent].children) if node.parent is not None else 1
        )
        marks = " *" * node.bookmark + f" (of {many} branches)" * (many > 1)
        lines = [*wrap(f"[{session.here}] {text}{marks}", width), *self._table(width)]
        lines += wrap(choice.sentence, width)
        return "\n".join(line[:width] for line in lines)

    def _table(self, width: int) -> list[str]:
        """A row a candidate: its probability after each rule, or which rule cut it.

        Where there is no room, rules in the middle are left out; the last column still
        says which one it was.
        """
        session, stages = self.session, self.session.choice().stages
        taken, without = session.choice().token_id, session.without()
        every = [["", *(stage.name for stage in stages)]]
        for i, id in enumerate(self.shown):
            cells = [f"{stage.p[id]:.4f}" * bool(stage.p[id]) for stage in stages]
            cut = removed_by(session.choice(), id)
            if cut is not None:
                cells[-1] = f"cut by {cut}"
            mark = (">" if i == self.at else " ") + ("*" if id == taken else " ")
            every.append([mark + session.written(id), *cells])
        if without is not None:
            heads = ",".join(f"{i}.{h}" for i, h in sorted(session.off))
            column = [f"without {heads}", *(f"{without[id]:.4f}" for id in self.shown)]
            for row, cell in zip(every, column, strict=True):
                row.insert(2, cell)
        first = 2 if without is None else 3
        while True:
            widths = [max(map(len, column)) for column in zip(*every, strict=True)]
            if sum(widths) + 2 * len(widths) - 2 <= width or len(widths) <= first + 1:
                break
            for row in every:
                del row[first]
        return [
            "  ".join(
                cell.rjust(w) if j else cell.ljust(w)
                for j, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in every
        ]


ACTIONS: dict[str, Any] = {
    "left": Stepper._left,
    "right": Stepper._right,
    "up": Stepper._up,
    "down": Stepper._down,
    "enter": Stepper._enter,
    "tab": Stepper._tab,
    "go": Stepper._go,
    "w": Stepper._why,
    "l": Stepper._lens,
    "x": Stepper._off,
    "b": Stepper._bookmark,
    "s": Stepper._save,
    "t": Stepper._tree,
    "?": Stepper._help,
    "q": Stepper._quit,
}


def why_text(why: Any) -> str:
    """An explanation in a few lines: the sum, its largest terms, the rest in one."""
    terms = why.largest
    lines = [f"{why.address} = {why.value:.6g} = {why.formula}", why.meaning]
    lines += [f"{term.value:>12.6f}  {term.text}" for term in terms[:LARGEST]]
    if len(terms) > LARGEST:
        rest = sum(term.value for term in terms[LARGEST:])
        lines.append(f"{rest:>12.6f}  {len(terms) - LARGEST} other terms")
    lines.append(f"{why.recomputed:>12.6f}  sum, {why.ulps:.1f} ulp from the number")
    if why.source is not None:
        lines.append(f"{why.source}: {why.source.text}")
    return "\n".join(lines)


def _number(word: str) -> int:
    if not word.lstrip("-").isdigit():
        raise InsideError(f"{word!r} is no whole number")
    return int(word)


def run(stepper: Stepper, lines: Any, say: Any, *, strict: bool, width: int) -> bool:
    """Line after line: do it, show what came of it; whether every line could be done.

    strict: stop at the first that cannot, with its number; else say so and go on.
    """
    say(stepper.view(width))
    well = True
    for n, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if line.lstrip().startswith("#"):
            continue
        try:
            said = stepper.press(line)
            shown = said or stepper.view(width)
        except NpgptError as error:
            if strict:
                raise InsideError(f"line {n}: {error}") from None
            shown, well = f"npgpt: {error}", False
        if stepper.ended:
            break
        say(shown)
    return well
