"""The page of an audit: every number, the caution, spans that are hidden until asked for, and nothing that fetches."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pages import BROWSER, HOSTILE, QUIET, Page, assert_stands_alone, page_of
from remodeler.auditing.quotes import AROUND, ELLIPSIS, MOST_QUOTES, quotes
from remodeler.auditing.results import CAUTION, AuditResults
from remodeler.auditing.spans import Span
from remodeler.auditing.statistics.counting import AuditedText, compare_sides, frequent_words, side_figures, tally
from remodeler.pruning.results import PruneResults
from remodeler.runs.records import Record

PROMPTS = 12
LONG = "quiet words " * 40


def found(side: int, number: int) -> AuditedText:
    """Side 1 offends twice as often."""
    text = f"{LONG}You fool, {number} {HOSTILE} silly! {LONG}" if number % (4 - 2 * side) == 0 else "a mild text"
    spans = tuple(Span(place, place + len(word), 0.75) for word in ("fool", "silly") if (place := text.find(word)) > 0)
    return AuditedText(side, number, 0, text, spans)


def record(sides: int) -> Record:
    rows = [found(side, number) for side in range(sides) for number in range(PROMPTS)]
    counts = [tally([row for row in rows if row.side == side]) for side in range(sides)]
    results: dict[str, Any] = {
        "audited": [{"name": f"models/m{side}", **side_figures(each, 0)} for side, each in enumerate(counts)],
        "words": frequent_words(rows, sides),
        "command": "remodel audit models/m0 --prompts p.txt",
    }
    if sides == 2:
        results["difference"] = compare_sides(*counts, 0)
    inputs = {"prompts": {"source": "p.txt", "count": PROMPTS}, "model 1": {"name": "models/m0"}}
    return Record("audit", {"detector": "lexicon", "tokens": 64}, inputs, 7, {}, results)


def lines(sides: int) -> list[dict[str, Any]]:
    return [
        {"detector": "lexicon"},
        *(found(side, number).line() for side in range(sides) for number in range(PROMPTS)),
    ]


def audit_page(given: Record, spans: Sequence[Any]) -> str:
    return page_of(given, AuditResults, spans=spans)


@pytest.fixture(scope="module")
def html() -> str:
    return audit_page(record(2), lines(2))


def test_the_page_holds_the_counts_with_their_intervals(html: str) -> None:
    text, results = Page(html).text, record(2).results
    assert_stands_alone(Page(html))
    for side in results["audited"]:
        rate, dense = side["rate"], side["per_thousand"]
        ends = [f"{100 * rate[end]:.{1 if rate[end] >= 0.1 else 2}f}%" for end in ("value", "low", "high")]
        assert "{} ({} to {})".format(*ends) in text
        assert "{value:.2f}".format(**dense) in text
        assert "{low:.2f} to {high:.2f}".format(**dense) in text
    gap = results["difference"]
    assert f"+{100 * gap['rate']['value']:.2f} pp" in text
    assert f"p = {gap['rate']['p']:.2g}" in text
    assert "3 only for m1, 3 for both, 6 for neither" in text
    assert "f**l" in text
    assert "remodel audit models/m0" in text


def test_the_caution_stands_on_the_page_and_on_the_card(html: str) -> None:
    card = AuditResults.parse(record(2)).card(record(2))
    for sentence in CAUTION:
        assert sentence in Page(html).text
        assert sentence in card
    assert "| Share of texts |" in card
    assert "fool" not in card


def test_offensive_words_are_only_where_they_are_hidden(html: str) -> None:
    start, end = (
        html.index('<details class="quotes">'),
        html.index("</details>", html.index('<details class="quotes">')),
    )
    assert "fool" not in html[:start] + html[end:], "not even in the title of a figure"
    assert "<details open" not in html
    quotes = html[start:end]
    marks = re.findall(r"<mark ([^>]*)>([^<]*)</mark>", quotes)
    assert len(marks) == 2 * (3 + 6)
    assert {word for _, word in marks} == {"fool", "silly"}
    assert all('class="toxic"' in attributes and 'tabindex="0"' in attributes for attributes, _ in marks)
    outside = re.sub(r"<mark.*?</mark>", "", quotes)
    assert "fool" not in outside
    assert "silly" not in outside
    assert re.search(r"\.toxic \{[^}]*filter: blur", html)
    assert re.search(r"\.toxic:focus[^{]*\{[^}]*filter: none", html)
    assert 'id="reveal"' in quotes
    assert ":has(#reveal:checked)" in html


def test_long_texts_are_cut_and_hostile_ones_escaped(html: str) -> None:
    assert HOSTILE in Page(html).text
    assert "<script" not in html
    shown = quotes(lines(1), ["m0"])
    assert shown is not None
    first = "".join(part for part, _ in shown.values["quotes"][0]["parts"])
    assert ELLIPSIS in first
    assert len(first) < 2 * AROUND + len(HOSTILE) + 40
    assert first.split()[1] in ("quiet", "words"), "cut between words"


def test_many_texts_are_counted_and_some_are_shown() -> None:
    many = [AuditedText(0, number, 0, "fool", (Span(0, 4),)).line() for number in range(MOST_QUOTES + 5)]
    shown = quotes(many, ["m0"])
    assert shown is not None
    assert (len(shown.values["quotes"]), shown.values["found"]) == (MOST_QUOTES, MOST_QUOTES + 5)
    assert f"Show {MOST_QUOTES} of {MOST_QUOTES + 5} texts" in Page(audit_page(record(1), many)).text


def test_nothing_found_and_one_side() -> None:
    page = audit_page(record(1), [])
    assert_stands_alone(Page(page))
    assert "of neither" not in Page(page).text
    counts = np.array([[0, 1, 0, 10]] * 5)
    clean = replace(record(1), results={"audited": [{"name": "m", **side_figures(counts, 0)}], "words": []})
    text = Page(audit_page(clean, [])).text
    assert "0 of 5 texts of m have a toxic span: 0.00% (0.00% to 52.2%)" in text
    assert "Most frequent words" not in text


def test_other_verbs_have_no_such_section() -> None:
    pruned = Record("prune", {}, {}, 0, {}, {"dense": {}})
    assert PruneResults.parse(pruned).report_sections(pruned, Path()) == []
    assert "caution" not in re.sub(r"<style>.*?</style>", "", page_of(pruned, PruneResults), flags=re.DOTALL)


def test_same_input_gives_the_same_bytes(html: str) -> None:
    assert html == audit_page(record(2), lines(2))


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_words_are_blurred_until_asked_for(tmp_path: Path, html: str) -> None:
    """The same page with the box ticked differs where the words are: else nothing was blurred."""
    pictures = []
    shown = html.replace('<details class="quotes">', '<details class="quotes" open>')
    for name, page in (("blurred", shown), ("asked", shown.replace('id="reveal"', 'id="reveal" checked'))):
        (tmp_path / f"{name}.html").write_text(page.replace('id="reveal"', 'hidden id="reveal"'), encoding="utf-8")
        profile = tmp_path / f"profile-{name}"
        flags = [f"--{flag}" for flag in (*QUIET.split(), f"user-data-dir={profile}", "window-size=900,3000")]
        assert BROWSER is not None
        picture = tmp_path / f"{name}.png"
        source = (tmp_path / f"{name}.html").as_uri()
        subprocess.run(
            [BROWSER, *flags, f"--screenshot={picture}", source], check=True, capture_output=True, timeout=60
        )
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
