"""Make the tables in the pages of ``docs/`` from the measurements in ``results/``.

A page has a table between two comments, which stay when the table is made anew:

    <!-- table: quality-stories12l/part_b-perplexity -->

    | method | ...

    <!-- end -->

Its name is that of the file in ``results/`` and, behind the slash, that of one of the tables in it. ``--check`` writes
nothing and ends with 1 where a page is not what the measurements give.

    python benchmarks/tables.py
    python benchmarks/tables.py --check
"""

import argparse
import re
import sys
from functools import cache
from pathlib import Path

from measurements import RESULTS, Measurement, read_measurement

DOCS = RESULTS.parents[1] / "docs"
PLACE = re.compile(r"^<!-- table: (?P<name>\S+) -->\n(?P<table>.*?)^<!-- end -->", re.DOTALL | re.MULTILINE)
OPENED, CLOSED = re.compile(r"^<!-- table: ", re.MULTILINE), re.compile(r"^<!-- end -->", re.MULTILINE)


class PageError(Exception):
    """A page asks for a table that is not there, or a comment has no partner."""


@cache
def measured(path: Path) -> Measurement:
    """A measurement, read once."""
    return read_measurement(path)


def table(name: str, results: Path) -> str:
    """A table as Markdown, by ``FILE/TABLE``."""
    file, _, part = name.partition("/")
    path = results / f"{file}.json"
    if not path.exists():
        raise PageError(f"table {name}: there is no {path}")
    tables = measured(path).tables
    if part not in tables:
        raise PageError(f"table {name}: {path} has {', '.join(tables)}")
    return tables[part].markdown()


def made(page: Path, results: Path) -> str:
    """A page with its tables made anew."""
    text = page.read_text(encoding="utf-8")
    whole = len(PLACE.findall(text))
    if not whole == len(OPENED.findall(text)) == len(CLOSED.findall(text)):
        raise PageError(f"{page}: every <!-- table: NAME --> needs its <!-- end -->")

    def anew(place: re.Match[str]) -> str:
        name = place["name"]
        return f"<!-- table: {name} -->\n\n{table(name, results)}\n\n<!-- end -->"

    return PLACE.sub(anew, text)


def pages(docs: Path) -> list[Path]:
    """The pages that have tables of measurements."""
    return [page for page in sorted(docs.rglob("*.md")) if OPENED.search(page.read_text(encoding="utf-8"))]


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a page differs")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--from", dest="results", type=Path, default=RESULTS, metavar="FOLDER", help="measurements")
    given = parser.parse_args()
    stale = []
    try:
        for page in pages(given.docs):
            text = made(page, given.results)
            if text != page.read_text(encoding="utf-8"):
                stale.append(page)
                if not given.check:
                    page.write_text(text, encoding="utf-8")
    except PageError as error:
        print(error, file=sys.stderr)
        return 2
    for page in stale:
        print(f"{page}: {'differs from the measurements' if given.check else 'tables made anew'}")
    return int(given.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
