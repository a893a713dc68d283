"""Tables from the rows of ``align_tokens.py``."""

from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float], form: str) -> str:
    """Median and quartiles."""
    low, middle, high = (format(value, form) for value in values)
    return f"{middle} ({low}–{high})"


def print_times(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each pair."""
    print("\nTime a text in ms, and how many times faster bytes are; median (quartiles) over the texts.\n")
    heads = ["bytes", "lists", "released", "align_dp", "tokenizing both", "with bytes"]
    print(
        "| student ← teacher | tokens | " + " | ".join(heads) + " | × lists | × released | with tokenizing: × lists |"
    )
    print("|" + "---|" * (len(heads) + 5))
    for row in rows:
        found = row["time"]
        cells = [spread(found["bytes"], ".3f"), *(spread(found[name], ".1f") for name in ("lists", "released"))]
        cells += [spread(found[name], ".2f") for name in ("align_dp", "plain", "cut")]
        names = ("lists / bytes", "released / bytes", "lists / bytes, with tokenizing")
        cells += [spread(found[name], ".0f") for name in names]
        print(f"| {row['pair']} | {row['tokens'][0]:.0f}, {row['tokens'][1]:.0f} | {' | '.join(cells)} |")


def print_carried(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each pair."""
    print("\nShare of the student's positions that carry a teacher's distribution; in brackets the share of these")
    print("where the teacher has read other bytes than the student. Groups: tokens of the student to the teacher's.\n")
    heads = ["FuseLLM EM", "FuseLLM MinED", "FuseChat", "bytes"]
    print("| student ← teacher | " + " | ".join(heads) + " | 1-1 | 1-n | n-1 | n-n |")
    print("|" + "---|" * (len(heads) + 5))
    for row in rows:
        cells = [f"{row['carried'][h]['carried']:.1%} ({row['carried'][h]['elsewhere']:.2%})" for h in heads]
        total = sum(row["carried"]["groups"].values())
        cells += [f"{number / total:.1%}" for number in row["carried"]["groups"].values()]
        print(f"| {row['pair']} | {' | '.join(cells)} |")


def print_maps(rows: Sequence[dict[str, Any]]) -> None:
    """A row for each pair."""
    print("\nShare of the teacher's tokens, weighted by how often they occur, that have a counterpart; in brackets the")
    print("share that has one which begins as the token does. Then the same of the vocabulary, and seconds.\n")
    heads = list(rows[0]["maps"])
    print("| student ← teacher | " + " | ".join(heads) + " |")
    print("|" + "---|" * (len(heads) + 1))
    for row in rows:
        texts = []
        for head in heads:
            found = row["maps"][head]
            kinds = [f"{found[f'mapped {k}']:.1%} ({found[f'begins {k}']:.1%})" for k in ("occurrences", "vocabulary")]
            texts.append(f"{'; '.join(kinds)}; {found['seconds']:.1f} s")
        print(f"| {row['pair']} | {' | '.join(texts)} |")
