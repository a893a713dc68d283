"""Byte alignment of two tokenizers against the papers' dynamic programming: time, and what each can carry over.

Claim: aligning by bytes is hundreds of times faster than the dynamic programming of FuseLLM and FuseChat, and carries
a teacher's distribution to more of the student's positions, none of them at the wrong place.

Two references are timed: the loop as FuseAI's code writes it (a NumPy matrix, a C edit distance a cell), and the same
over lists with every distance computed once. Both get the names of the tokens ready-made. The three take turns on the
same texts; a figure is the median over texts, with the quartiles. What is carried is counted with the package's own
`align_dp`, which finds the same path. Special tokens are left out, as in FuseLLM.

    python benchmarks/align_tokens.py FOLDER FOLDER ... --texts FILE --texts FILE --json figures.json
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from align_tables import tables
from common import add_paths, new_parser, publish, run_main, timed
from rapidfuzz.distance import Levenshtein
from transformers import PreTrainedTokenizerFast

from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.fusion.counts import count, statistics_map
from remodeler.fusion.cross_tokenizer import (
    align_bytes,
    align_dp,
    coverage,
    from_groups_fusechat,
    from_groups_fusellm,
    groups,
    marked_distances,
    shapes,
)
from remodeler.fusion.offsets import Cut, Ints, cut
from remodeler.fusion.vocabularies import edit_map, exact_map, piece_map, surfaces, token_bytes
from remodeler.runs.records import write_json

Times = dict[str, list[float]]
REPEATS = 20
"""Byte alignments in a row: one is too short to be timed."""


@dataclass(frozen=True, eq=False)
class Side:
    """A tokenizer and its cuts of the texts."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    texts: list[str]

    @cached_property
    def cuts(self) -> list[Cut]:
        return cut(self.tokenizer, self.texts, add_special_tokens=False)

    @cached_property
    def contents(self) -> list[bytes | None]:
        return token_bytes(self.tokenizer, len(self.tokenizer))

    @cached_property
    def surfaces(self) -> list[str]:
        return surfaces(self.tokenizer, len(self.tokenizer))

    def names(self, tokens: Cut) -> list[str]:
        return [self.surfaces[each] for each in tokens.ids.tolist()]


# The reference --------------------------------------------------------------------------------------------------------


def released(student: list[str], teacher: list[str]) -> list[list[int]]:
    """FuseAI's loop: NumPy scalars, a row for each of the teacher's tokens, an edit distance for each cell."""
    matrix = np.zeros((len(teacher) + 1, len(student) + 1))
    matrix[0, :] = np.inf
    matrix[:, 0] = np.inf
    matrix[0, 0] = 0
    for i, one in enumerate(teacher):
        for j, other in enumerate(student):
            cost = Levenshtein.distance(one.replace(" ", ""), other.replace(" ", ""))
            matrix[i + 1, j + 1] = cost + min(matrix[i, j + 1], matrix[i + 1, j], matrix[i, j])
    return walked(matrix, len(student), len(teacher))


def listed(student: list[str], teacher: list[str]) -> list[list[int]]:
    """The same over lists, with every distance computed once."""
    ours, theirs = ([name.replace(" ", "") for name in names] for names in (student, teacher))
    known: dict[tuple[str, str], int] = {}
    above = [0.0, *[float("inf")] * len(ours)]
    matrix = [above]
    for one in theirs:
        row = [float("inf")]
        left = row[0]
        for j, other in enumerate(ours):
            cost = known.get((one, other))
            if cost is None:
                cost = known[one, other] = Levenshtein.distance(one, other)
            left = cost + min(above[j + 1], left, above[j])
            row.append(left)
        matrix.append(row)
        above = row
    return walked(matrix, len(ours), len(theirs))


def walked(matrix: Any, columns: int, rows: int) -> list[list[int]]:
    """The path back: the diagonal first, then the teacher's previous token, then the student's."""
    mapped: list[list[int]] = [[] for _ in range(columns)]
    i, j = rows, columns
    while i > 1 or j > 1:
        mapped[j - 1].append(i - 1)
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda at: matrix[at[0]][at[1]])
    mapped[0].append(0)
    return [each[::-1] for each in mapped]


# Time -----------------------------------------------------------------------------------------------------------------


def median_time(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Seconds a call, the median of some, and what it gave."""
    runs = [timed(work) for _ in range(repeats)]
    return float(np.median([run.seconds for run in runs])), runs[-1].value


def times(student: Side, teacher: Side, places: Sequence[int], tokenized: Times) -> Times:
    """Seconds for each text of each way; every reference must find the path that the package finds."""
    found: Times = {name: [] for name in ("bytes", "lists", "released", "align_dp")}
    for place in places:
        ours, theirs = student.cuts[place], teacher.cuts[place]
        names = student.names(ours), teacher.names(theirs)
        works = {"lists": partial(listed, *names), "released": partial(released, *names)}
        works |= {"align_dp": partial(align_dp, *names), "bytes": partial(fresh, ours, theirs)}
        paths = {}
        for name, work in works.items():
            seconds, paths[name] = median_time(work, REPEATS if name == "bytes" else 1)
            found[name].append(seconds)
        if not paths["lists"] == paths["released"] == paths["align_dp"]:
            raise AssertionError(f"text {place}: the references and align_dp don't agree")
    for kind in ("plain", "cut"):
        both = [[tokenized[f"{side.name} {kind}"][place] for place in places] for side in (student, teacher)]
        found[kind] = np.sum(both, 0).tolist()
    return found


def fresh(student: Cut, teacher: Cut) -> Ints:
    """Aligned with nothing cached from an earlier call."""
    return align_bytes(*(Cut(each.ids, each.starts, each.ends, each.exact) for each in (student, teacher)))


def joined(texts: Sequence[str], shortest: int) -> list[str]:
    """Neighbouring texts joined by a blank line, until each has so many characters; what is too short is left out."""
    found, part = [], ""
    for text in texts:
        part = f"{part}\n\n{text}" if part else text
        if len(part) >= shortest:
            found.append(part)
            part = ""
    return found


def tokenize(side: Side) -> Times:
    """Seconds for each text: tokenizing alone, and with the bytes of every token."""
    plain, whole = [], []
    for text in side.texts:
        given = {"add_special_tokens": False}
        plain.append(median_time(partial(side.tokenizer, [text], verbose=False, **given), 3)[0])
        whole.append(median_time(partial(cut, side.tokenizer, [text], **given), 3)[0])
    return {f"{side.name} plain": plain, f"{side.name} cut": whole}


def summary(found: Times) -> dict[str, Any]:
    """Quartiles in milliseconds, and ratios text by text."""
    table = {name: np.array(values) for name, values in found.items()}
    rows: dict[str, Any] = {name: np.percentile(values * 1e3, [25, 50, 75]).tolist() for name, values in table.items()}
    for name in ("lists", "released", "align_dp"):
        rows[f"{name} / bytes"] = np.percentile(table[name] / table["bytes"], [25, 50, 75]).tolist()
        whole = (table[name] + table["plain"]) / (table["bytes"] + table["cut"])
        rows[f"{name} / bytes, with tokenizing"] = np.percentile(whole, [25, 50, 75]).tolist()
    return rows


# What is carried ------------------------------------------------------------------------------------------------------


def carried(student: Side, teacher: Side) -> dict[str, Any]:
    """Share of positions that carry a teacher's distribution, and of these the share at another byte."""
    nearest = edit_map(teacher.contents, student.contents)
    known = {teacher.surfaces[k]: student.surfaces[v] for k, v in enumerate(nearest.tolist()) if v >= 0}
    found: dict[str, list[Ints]] = {"FuseLLM EM": [], "FuseLLM MinED": [], "FuseChat": [], "bytes": []}
    pairs = list(zip(student.cuts, teacher.cuts, strict=True))
    for ours, theirs in pairs:
        names = student.names(ours), teacher.names(theirs)
        path = align_dp(*names)
        marked = align_dp(*names, costs=marked_distances, ties="fusechat")
        found["FuseLLM EM"].append(from_groups_fusellm(path, *names))
        found["FuseLLM MinED"].append(from_groups_fusellm(path, *names, known))
        found["FuseChat"].append(from_groups_fusechat(marked, *names))
        found["bytes"].append(align_bytes(ours, theirs))
    rows: dict[str, Any] = {}
    for name, mapped in found.items():
        apart = [(m >= 0) & (t.ends[m] != s.ends) for m, (s, t) in zip(mapped, pairs, strict=True)]
        whole = np.concatenate(mapped)
        rows[name] = {
            "carried": coverage(whole),
            "elsewhere": float(np.concatenate(apart).sum() / max((whole >= 0).sum(), 1)),
        }
    joined = np.concatenate([groups(ours, theirs) for ours, theirs in pairs])
    return rows | {"groups": shapes(joined), "positions": int(sum(len(ours) for ours, _ in pairs))}


def mapped_tokens(student: Side, teacher: Side) -> dict[str, Any]:
    """For each map the share of the teacher's tokens that have a counterpart, and that one begins as they do.

    By vocabulary, and by how often a token is in the texts: what a teacher expects most is what occurs.
    """
    counts = count(student.cuts, teacher.cuts)
    maps = {
        "exact": lambda: exact_map(teacher.contents, student.contents),
        "pieces": lambda: piece_map(teacher.contents, student.contents, student.tokenizer),
        "edit": lambda: edit_map(teacher.contents, student.contents),
        "statistics": lambda: statistics_map(counts, teacher.contents, student.contents),
        "statistics as released": lambda: statistics_map(counts, teacher.contents, student.contents, "sigmoid"),
    }
    often = np.bincount(np.concatenate([each.ids for each in teacher.cuts]), minlength=len(teacher.contents))
    plain = np.array([part is not None for part in teacher.contents])
    rows = {}
    for name, make in maps.items():
        seconds, mapping = median_time(make)
        begins = np.array([begun(student.contents, *each) for each in zip(teacher.contents, mapping, strict=True)])
        rows[name] = {"seconds": seconds}
        for kind, which in (("mapped", mapping >= 0), ("begins", begins)):
            rows[name] |= {
                f"{kind} vocabulary": float(which[plain].mean()),
                f"{kind} occurrences": float((often * which)[plain].sum() / often[plain].sum()),
            }
    return rows


def begun(student: Sequence[bytes | None], whole: bytes | None, place: int) -> bool:
    """Whether the student's token begins a token of the teacher's."""
    part = student[place] if place >= 0 else None
    return bool(whole and part and whole.startswith(part))


def main() -> None:
    """Print the tables and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("folders", nargs="+", help="folders with a tokenizer.json")
    parser.add_argument("--texts", action="append", required=True)
    parser.add_argument("--samples", type=int, default=200, help="texts of each source")
    parser.add_argument("--shortest", type=int, default=1, help="characters; shorter texts are joined to this many")
    parser.add_argument("--timed", type=int, default=12, help="texts that the references are timed on, of each pair")
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    texts = [text for name in given.texts for text in joined(sample(name, given.samples).calibration, given.shortest)]
    loaded = {Path(each).name: PreTrainedTokenizerFast.from_pretrained(each) for each in given.folders}
    sides = [Side(name, tokenizer, texts) for name, tokenizer in loaded.items()]
    places = np.linspace(0, len(texts) - 1, given.timed).astype(int).tolist()
    tokenized = {name: values for side in sides for name, values in tokenize(side).items()}
    rows = []
    for student, teacher in permutations(sides, 2):
        pair = f"{student.name} ← {teacher.name}"
        note(pair)
        sizes = [float(np.median([len(side.cuts[place]) for place in places])) for side in (student, teacher)]
        found = summary(times(student, teacher, places, tokenized))
        rows.append({"pair": pair, "tokens": sizes, "time": found})
        rows[-1] |= {"carried": carried(student, teacher), "maps": mapped_tokens(student, teacher)}
    print(f"{len(texts)} texts of {np.mean([len(text.encode()) for text in texts]):.0f} bytes on average, ", end="")
    print(f"{len(places)} of them timed; {', '.join(given.texts)}")
    publish(given, dict(tables(rows)))
    if given.json:
        write_json(given.json, {"texts": given.texts, "count": len(texts), "timed": len(places), "rows": rows})


if __name__ == "__main__":
    run_main(main)
