"""HTML pages as tests read them."""

import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from remodeler.reporting.page import render
from remodeler.reporting.results import Results
from remodeler.runs.records import Record, append_lines

VOID = {"meta", "br", "col", "link", "img", "input", "hr"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking hide-scrollbars"
HOSTILE = """<script>alert("x")</script>'&$\\frac$\\1"""


def page_of(record: Record, kind: type[Results], **logs: Sequence[Any]) -> str:
    """The page of a record whose results are of a kind, with logs by the names of their files."""
    with TemporaryDirectory() as place:
        for name, lines in logs.items():
            append_lines(Path(place, f"{name}.jsonl"), lines)
        return render(record, kind.parse(record), Path(place))


class Page(HTMLParser):
    """Checks that tags nest, and gathers the text and what the page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            assert not name.startswith("on")
            self.links += [value or ""] if name in ("src", "href", "xlink:href") else []
            self.ids += [value or ""] if name == "id" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open = self.open if tag in VOID else self.open[:-1]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += [] if self.open[-1:] == ["style"] else [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_stands_alone(page: Page) -> None:
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not page.tags & {"script", "link", "iframe", "img", "object", "form"}


# What the page holds ------------------------------------------------------------------------------------------------
