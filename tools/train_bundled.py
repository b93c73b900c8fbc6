"""Make the bundled models: clean the stories, train, measure, write the model cards.

    python tools/train_bundled.py all --out build/tales [--shared FOLDER]

FOLDER (or NPGPT_SHARED) holds data/stories, the public-domain books, and
data/tales-model/heldout.txt, which stays out of all training. Every step leaves its
files in --out and is not done again; training goes on at its last checkpoint. The steps
one by one: clean, train, measure, card.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import stories

SEPARATOR = f"\n\n{stories.END}\n\n"
FILES = (("tales", "1"), ("novels", "2"))  # and the tier that the manifest gives them


# clean


def clean(shared: Path, out: Path) -> dict:
    """Training text without what the held-out passages share, and what was dropped."""
    source = shared / "data" / "stories"
    heldout = read_passages(shared)
    shingles = stories.Shingles(heldout)
    rows = [
        row.split("\t")
        for row in (source / "MANIFEST.tsv").read_text("utf-8").splitlines()[1:]
    ]
    report: dict = {"heldout_passages": len(heldout)}
    texts: dict[str, list[list[str]]] = {}
    for name, tier in FILES:
        text = (source / f"{name}.txt").read_text("utf-8")
        books = list(stories.books(text, [row[2] for row in rows if row[0] == tier]))
        texts[name] = [tale for book in books for tale in stories.tales_of(book)]
        report[name] = {
            "books": sum(bool(book.paragraphs) for book in books),
            "bytes_of_source": len(text.encode()),
            "bytes_around_the_tales": sum(
                len(paragraph.encode()) for book in books for paragraph in book.dropped
            ),
        }
    text = (source / "fairytaleqa.txt").read_text("utf-8")
    texts["fairytaleqa"] = [stories.unwrapped(part) for part in text.split(stories.END)]
    report["fairytaleqa"] = {"bytes_of_source": len(text.encode())}
    known = stories.Shingles("\n\n".join(tale) for tale in texts["tales"])
    for name, tales in texts.items():
        kept, held_out, repeated = [], 0, 0
        for tale in tales:
            if name == "fairytaleqa" and known.marks("\n\n".join(tale)).mean() > 0.5:
                repeated += 1  # it is among the tales already, word for word
                continue
            parts, words = stories.without(tale, shingles)
            kept += parts
            held_out += words
        path = out / "text" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = SEPARATOR.join("\n\n".join(part) for part in kept)
        path.write_text(body, "utf-8")
        report[name] |= {
            "tales": len(tales),
            "tales_known_already": repeated,
            "words_dropped_as_held_out": held_out,
            "documents": len(kept),
            "words": sum(map(stories.words_in, kept)),
            "bytes": len(body.encode()),
        }
    return report


def read_passages(shared: Path) -> list[str]:
    """The held-out passages."""
    text = (shared / "data" / "tales-model" / "heldout.txt").read_text("utf-8")
    return text.split(SEPARATOR)


def main() -> None:
    """Do the steps that are asked for and not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=["all", "clean", "train", "measure", "card"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=os.environ.get("NPGPT_SHARED"))
    options = parser.parse_args()
    if options.shared is None:
        parser.error("where are the stories? give --shared, or set NPGPT_SHARED")
    report = clean(options.shared, options.out)
    (options.out / "clean.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
