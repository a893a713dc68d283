"""The project's Markdown pages, taken apart: blocks, prose, headings, links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GUIDES = sorted(page for page in (DOCS / "guides").glob("*.md") if page.stem != "index")
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
CARDS = sorted((ROOT / "src").rglob("*.md"))
"""Cards of the models that ship with the package."""
USED = [README, DOCS / "index.md", DOCS / "tutorial.md", DOCS / "methods" / "index.md", *GUIDES]
"""Pages that tell how the command is used."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^(?:<!-- ([^>]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Snippet:
    """A block of code, and what the comment above it says of it."""

    code: str
    mark: str
    line: int


def name(page: Path) -> str:
    """As a test calls it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def snippets(page: Path) -> list[Snippet]:
    """The Python blocks with their comments."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in MARKED.finditer(text) if match[2] == "python"]
    return [Snippet(match[3], match[1] or "", text.count("\n", 0, match.start(3)) + 1) for match in found]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them; the site's are held by its own build."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
