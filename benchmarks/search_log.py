"""What each step of a search cost, from its log, beside what the exact search removes.

Claim: a lazy search of SmolLM2-135M at 25 % of its parameters takes less than an hour on two cores, and its first steps
are those of the exact search.

The log is that of ``remodel prune``; what the exact search measured comes from ``recorded_losses.py`` over the same
text, which a real model takes hours for.

    remodel prune MODEL --texts FILE --samples 68 --length 512 --search lazy --dtype float32 --out small
    python benchmarks/search_log.py small/removals.jsonl --tables recorded/smollm2-135m-instruct.safetensors
"""

from collections.abc import Sequence
from pathlib import Path

from common import Row, add_paths, new_parser, publish, run_main
from measurements import Column, Table
from recorded_losses import kept

from remodeler.runs.removals import Header, Step, read_log
from remodeler.runs.units import name

COLUMNS = (
    Column("step", "step"),
    Column("removed", "without"),
    Column("exact", "exact search"),
    Column("perplexity", "perplexity", "{value:.3f}"),
    Column("candidates", "candidates"),
    Column("texts", "texts read", "{value:.1f}"),
    Column("seconds", "seconds", "{value:.0f}", "s"),
)


def rows_of(header: Header, steps: Sequence[Step], exact: Sequence[str]) -> list[Row]:
    """A row for every step, and one for all."""
    windows = header["texts"]["windows"]
    rows: list[Row] = []
    for number, step in enumerate(steps):
        removed = name(step.removed)
        recorded = exact[number] if number < len(exact) else None
        known = recorded and ("the same" if recorded == removed else recorded)
        texts = sum((step.windows or dict.fromkeys(step.importance, windows)).values()) / windows
        row = {"step": step.step, "removed": removed, "exact": known, "perplexity": step.perplexity}
        rows.append(row | {"candidates": len(step.importance), "texts": texts, "seconds": step.seconds})
    sums = {key: sum(row[key] for row in rows) for key in ("candidates", "texts", "seconds")}
    return [*rows, {"step": "all", "removed": "", "exact": "", "perplexity": rows[-1]["perplexity"], **sums}]


def exact_removals(tables: Path | None) -> list[str]:
    """What the exact search removes, as far as it was recorded."""
    found = kept(tables) if tables else None
    return [str(block) for block in found.removed] if found else []


def main() -> None:
    """Print the table and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("log", type=Path)
    add_paths(parser, "tables", required=False)
    given = parser.parse_args()
    header, steps = read_log(given.log)
    rows = rows_of(header, steps, exact_removals(given.tables))
    caption = f"intact: perplexity {header['perplexity']:.3f}; {header['texts']['tokens']:,} tokens"
    publish(given, {"steps": Table(COLUMNS, tuple(rows), caption)})


if __name__ == "__main__":
    run_main(main)
