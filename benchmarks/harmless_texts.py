"""Passages of ordinary texts, a line each: what a tagger of toxic spans should leave alone.

From every file the same number of passages, a few words to a post's length, each beginning where a sentence begins:
stories, encyclopedias, web pages, answers. WikiText's marks of a tokenizer are taken back, lest they give it away.

    python benchmarks/harmless_texts.py stories.txt wiki.txt web.jsonl answers.json --each 600 --out harmless.jsonl
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from common import add_numbers, add_paths, new_parser, run_main

from remodeler.runs.folders import refuse_existing
from remodeler.runs.records import append_lines

KEYS = ("text", "output", "ctx")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
SPACED = ((r" @(.)@ ", r"\1"), (r" ([.,;:!?)])", r"\1"), (r"([(]) ", r"\1"), (r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1"))


def documents(path: Path) -> Iterator[str]:
    """The texts of a file: paragraphs of .txt, the texts or answers of .jsonl and .json."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        yield from content.replace("<|endoftext|>", "\n\n").split("\n")
        return
    rows = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
    for row in rows:
        yield next(row[key] for key in KEYS if key in row)


def tidy(text: str) -> str:
    """A line without a tokenizer's spaces."""
    for pattern, instead in SPACED:
        text = re.sub(pattern, instead, text)
    return " ".join(text.split())


def passages(path: Path, count: int, chance: random.Random, shortest: int, longest: int) -> list[str]:
    """So many passages of a file, none twice."""
    sentences = [
        parts for text in documents(path) if (parts := SENTENCE.split(tidy(text))) and not text.startswith(" =")
    ]
    found: set[str] = set()
    for _ in range(50 * count):
        if len(found) == count:
            break
        parts, words = chance.choice(sentences), chance.randint(shortest, longest)
        passage = " ".join(" ".join(parts[chance.randrange(len(parts)) :]).split()[:words])
        if len(passage.split()) >= shortest:
            found.add(passage)
    return sorted(found)


def main() -> None:
    """Draw, write."""
    parser = new_parser(__doc__, tables=False)
    parser.add_argument("files", nargs="+", type=Path)
    add_paths(parser, "out")
    add_numbers(parser, each=600, shortest=4, longest=60, seed=1)
    given = parser.parse_args()
    refuse_existing(given.out)
    chance = random.Random(given.seed)
    texts = [each for path in given.files for each in passages(path, given.each, chance, given.shortest, given.longest)]
    chance.shuffle(texts)
    append_lines(given.out, [{"text": text} for text in texts])


if __name__ == "__main__":
    run_main(main)
