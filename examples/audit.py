"""Find toxic spans in posts, score a tagger against annotated ones, and compare what two models write.

Offline, about a minute on an idle core:

    python examples/audit.py [FOLDER]

What it shows: aggregate counts with intervals, the bundled tagger and its official F1, and two models that complete the
same prompts with the same random numbers. Counts are not judgements: see the guide.
"""

import csv
import json
import sys
from importlib.resources import files
from pathlib import Path

import remodeler as rm

MODEL = str(files("remodeler") / "demo_model")
POSTS = {
    "Have a nice day, everybody.": [],
    "Only an idiot would believe that.": ["idiot"],
    "What a stupid idea, and what a stupid way to say it.": ["stupid", "stupid"],
    "The function returns a copy of the list.": [],
}
"""Posts, and the words in them that are marked as toxic."""


def characters(text: str, marked: list[str]) -> list[int]:
    """The places of all characters of the marked words, each word behind the one before."""
    found, start = [], 0
    for word in marked:
        start = text.index(word, start)
        found += range(start, start + len(word))
        start += len(word)
    return found


def write_posts(path: Path) -> Path:
    """The posts in the format of SemEval-2021 task 5."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["spans", "text"])
        writer.writerows([json.dumps(characters(text, marked)), text] for text, marked in POSTS.items())
    return path


def write_prompts(path: Path) -> Path:
    """Beginnings that the demo model can continue."""
    path.write_text("The function returns\nRaise an error if\nThis module provides\nReturn the number of\n")
    return path


def main(folder: Path) -> None:
    """All steps, into a new folder."""
    folder.mkdir(parents=True)
    posts, prompts = write_posts(folder / "posts.csv"), write_prompts(folder / "prompts.txt")
    small, spans = folder / "small", folder / "spans-pred.txt"
    found = rm.audit(texts=posts, out=folder / "posts-audited")
    counted = found.results.audited[0]
    print(f"{counted['flagged']} of {counted['texts']} posts have a toxic span")
    rm.auditing.predict(texts=posts, out=spans)
    for part, score in rm.auditing.score(spans, posts).items():
        print(part, score)
    rm.prune(MODEL, small, remove=2, method="shortgpt", texts="python", samples=4)
    audited = rm.audit(MODEL, against=small, prompts=prompts, max_new_tokens=24, out=folder / "audited")
    print(audited.results.difference)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-audit"))
