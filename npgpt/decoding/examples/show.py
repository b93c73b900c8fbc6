"""What strategies make of five words, as text: a table, or what they write.

An entry's example is a setting, which is run here; or a function of this module, for
what a setting cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.examples.five import SMALLER, TABLE, WORDS, FiveWords, Words
from npgpt.decoding.healing import heal
from npgpt.decoding.options import OPTIONS, GenerationConfig
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.selection import build_selector

Columns = Mapping[str, Sequence[Any] | np.ndarray]

P = np.array(TABLE[0])  # what follows "the"
Z = np.log(P)
BEFORE = (0, 1, 0)  # "the cat the"
NOW = Context(prompt_length=3, step=0)
TEXTS = ["the old cat", "the cat", "a queen", "the old queen", "the cat"]


def made(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The setting, with the models that its names stand for."""
    tables = {"model": TABLE, "smaller": SMALLER}
    kinds: dict[str, Callable[[Any], Any]] = {
        "model": lambda name: FiveWords(tables[name]),
        "models": lambda names: [FiveWords(tables[name]) for name in names],
    }
    return {
        name: kinds.get(OPTIONS[name].kind, lambda value: value)(value)
        for name, value in setting.items()
    }


def rule(
    setting: Mapping[str, Any],
    words: Sequence[str] = WORDS,
    ids: Sequence[int] = BEFORE,
    new: int = 0,
) -> str:
    """Five probabilities before and after the chain; so many of the ids are new.

    Logits are as a model might give them: log-probabilities plus a constant. What a
    greedy search takes the largest of are scores, not probabilities.
    """
    options = GenerationConfig(**{"do_sample": True, **setting})
    tokenizer = Words(words)
    prompt = heal(ids, tokenizer, options)
    context = Context(len(prompt.ids) - new, new, prefix=prompt.prefix)
    chain = build_chain(options, (4,), tokenizer, vocab_size=5)
    y = run_chain(chain, prompt.ids, Z + 2.0, context)
    left = y > -np.inf
    after = probabilities(y) if options.do_sample else np.where(left, y, 0)
    bars = [
        "#" * round(40 * max(0.0, a)) if kept else "-"
        for a, kept in zip(after, left, strict=True)
    ]
    name = "after" if options.do_sample else "score"
    place = f"after {say(ids, words)}" + f", {new} of them new" * bool(new)
    columns: Columns = {"before": P, name: after, "": bars}
    return f"{settings(setting)}, {place}\n\n{table(columns, words)}"


def selector(setting: Mapping[str, Any]) -> str:
    """1,000 draws of one selector, and the texts that it writes."""
    options = GenerationConfig(**{"do_sample": True, "seed": 1, **setting})
    chosen = build_selector(options)
    state = chosen.start(Context(1, 0, options.seed))
    drawn, states = [], [state]
    for step in range(1000):
        id, state = chosen.choose([], Z, Context(1, step, options.seed), state)
        drawn.append(id)
        states.append(state)
    share = np.bincount(drawn, minlength=5) / 1000
    lines = [f"{settings(setting)}, 1,000 times after 'the'", ""]
    lines.append(table({"p": P, "F": P.cumsum(), "bits": -np.log2(P), "drawn": share}))
    if state is not None:
        shown = [_numbers(state) for state in states[:4]]
        lines += ["", f"  its state: {' -> '.join(shown)} ..."]
    found = FiveWords().generate("the", max_new_tokens=3, **options.given)
    said = ", ".join(say(text.ids) for text in _listed(found))
    return "\n".join([*lines, "", f"  it writes {said}"])


def guidance(setting: Mapping[str, Any]) -> str:
    """The probabilities of every reading after "the", and what becomes of them."""
    given = made(setting)
    options = GenerationConfig(max_new_tokens=1, **given)
    models = [FiveWords(), *(x for value in given.values() for x in _listed(value))]
    guided: Any = models[0]
    for strategy in options.active("guidance"):
        guided = strategy.function(guided, [[0]], options)
    z = guided.next_logits([[0]], guided.new_cache(1))[0]
    said = [p for one in models for p in getattr(one, "said", [])]
    columns = {f"reading {i + 1}": p for i, p in enumerate(said)}
    return f"{settings(setting)}, after 'the'\n\n" + table(
        {**columns, "after": probabilities(z)}
    )


def writes(setting: Mapping[str, Any], name: str) -> str:
    """The texts of greedy search and of another, and what the model read for them."""
    setting = {"max_new_tokens": 6, **setting}
    plain = {"max_new_tokens": setting["max_new_tokens"]}
    rows = []
    for who, how in (("greedy search", plain), (name, made(setting))):
        model = FiveWords()
        for text in _listed(model.generate("the", **how)):
            numbers = f"log p {sum(text.logprobs):.3f}"
            if text.score is not None:
                numbers += f", score {text.score:.3f}"
            rows.append([who, say(text.ids), numbers])
        rows[-1][2] += f"; {text.finish_reason} after {len(model.read)} readings"
    wide, long = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [f"  {who:<{wide}}  {text:<{long}}  {n}" for who, text, n in rows]
    drafts = _drafts([0, *text.ids], model.read)
    return "\n".join([f"{settings(setting)}, after 'the'", "", *lines, *drafts])


def _drafts(ids: Sequence[int], reads: Sequence[tuple[int, list[int]]]) -> list[str]:
    """What each reading read besides the text, and the words that it brought."""
    known = [1, *(held + 1 for held, _ in reads[1:]), len(ids)]
    lines = []
    for i, (held, new) in enumerate(reads):
        drafted = new[known[i] - held :]
        gained = ids[known[i] : known[i + 1]]
        lines.append(f"  {i + 1:>7}  {say(drafted):<34} {say(gained)}")
    drafts = any(new[known[i] - held :] for i, (held, new) in enumerate(reads))
    if not drafts or known != sorted(set(known)):
        return []
    return ["", f"  reading  {'drafted':<34} what it brings", *lines]


def texts(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """What a function makes of five texts."""
    lines = [f"  {i}: {text}" for i, text in enumerate(TEXTS)]
    found = function(TEXTS, **arguments)
    return "\n".join(["5 texts", "", *lines, "", f"  returned: {found}"])


def invalid(setting: Mapping[str, Any]) -> str:
    """What a rule makes of numbers that are none."""
    z = np.array([np.nan, 1.0, 2.0, -np.inf, np.inf])
    y = run_chain(build_chain(GenerationConfig(**setting)), BEFORE, z, NOW)
    columns = {"z": [str(x) for x in z], "after": [f"{x:.4g}" for x in y]}
    return f"{settings(setting)}\n\n{table(columns)}"


def table(columns: Columns, words: Sequence[str] = WORDS) -> str:
    """Lines of a table, a word each; numbers with three places.

    >>> print(table({"p": [0.5, 0.5], "": ["", "taken"]}, ["the", "a"]))
      token         p
      the       0.500
      a         0.500  taken
    """
    cells = [
        [x if isinstance(x, str) else f"{x:.3f}" for x in column]
        for column in columns.values()
    ]
    widths = [
        max(6, len(name), *map(len, column))
        for name, column in zip(columns, cells, strict=True)
    ]
    names = [word.strip() for word in words]
    first = max(8, *map(len, names))
    lines = [["token", *columns], *map(list, zip(names, *cells, strict=True))]
    return "\n".join(
        f"  {word:<{first}} "
        + "  ".join(
            cell.rjust(width) if name else cell
            for cell, width, name in zip(rest, widths, columns, strict=True)
        ).rstrip()
        for word, *rest in lines
    )


def say(ids: Iterable[int], words: Sequence[str] = WORDS) -> str:
    """The words of some ids, quoted.

    >>> say([0, 2])
    "'the old'"
    """
    return repr(" ".join(words[id].strip() for id in ids))


def settings(setting: Mapping[str, Any]) -> str:
    """A setting as one would write it."""
    return ", ".join(
        f"{name}={'a function' if callable(value) else repr(value)}"
        for name, value in setting.items()
    )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _numbers(state: Any) -> str:
    numbers = state if isinstance(state, tuple) else (state,)
    return "(" + ", ".join(f"{x:.3f}" for x in numbers) + ")"
