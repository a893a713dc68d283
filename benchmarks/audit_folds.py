"""How well does a recipe do on posts that had no part in any choice? Cross-validation of a tagger.

The posts are cut into n parts; each is predicted by a tagger that learned from the others. A tagger's epoch is chosen
on its own part, of which there is one epoch only, so nothing is; its threshold and abstention are the means of what
suits the *other* parts. Taggers are kept; the same command goes on. ``--only 2`` trains one of them.

    python benchmarks/audit_folds.py --texts tsd_train.csv --encoder MiniLM --out OUT --folds 3
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from common import Row, add_numbers, add_paths, new_parser, publish, run_main
from measurements import Column, Table

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import Prediction, read_predictions, write_predictions
from remodeler.auditing.statistics.scoring import breakdown, scores
from remodeler.auditing.tagger.config import AUXILIARIES, OUTPUTS
from remodeler.auditing.tagger.posts import fold
from remodeler.auditing.tagger.predict_job import predict
from remodeler.auditing.tagger.rules import Rules, spans_of, tune
from remodeler.auditing.tagger.train_job import train_tagger
from remodeler.cli.screen import note

F1_COLUMNS = (
    Column("f1", "F1", "{value:.4f}"),
    Column("error", "error", "{value:.4f}", "standard error of F1"),
    Column("with", "with gold", "{value:.4f}", "F1 of posts with gold spans"),
    Column("without", "without", "{value:.4f}", "F1 of posts without"),
)
COLUMNS = (
    Column("part", ""),
    Column("posts", "posts", "{value:,}"),
    *F1_COLUMNS,
    Column("rules", "threshold, abstention", "{threshold:.2f}, {abstain:.2f}", missing=""),
)


def held_out(given: Any, number: int) -> list[Prediction]:
    """The posts of a part with the likelihoods of the tagger that has not seen them."""
    part, out = f"{number}/{given.folds}", given.out / f"fold-{number}"
    file, found = given.out / f"fold-{number}.csv", given.out / f"fold-{number}.jsonl"
    posts = fold(read_posts(given.texts, known=True).posts, part)
    if not file.exists():
        write_predictions(file, [Prediction(post.id, post.spans or (), post.text) for post in posts])
    if not out.exists():
        note(f"part {part}: {len(posts)} posts held out")
        data, head = {"texts": given.texts, "fold": part}, {"auxiliary": given.auxiliary, "output": given.output}
        pace = {"epochs": 1, "learning_rate": given.rate, "head_rate": 10 * given.rate, "seed": given.seed}
        train_tagger(**data, **head, **pace, encoder=given.encoder, out=out, device="cpu")
    if not found.exists():
        predict(texts=file, tagger=out, out=found, likelihoods=True, device="cpu")
    rows = read_predictions(found).rows
    return [replace(row, spans=post.spans or ()) for row, post in zip(rows, posts, strict=True)]


def rules_of(rows: list[Prediction]) -> Rules:
    """What suits posts whose spans are known."""
    likely, gold = [row.likely for row in rows], [row.spans for row in rows]
    return tune([each for each in likely if each is not None], [row.text or "" for row in rows], gold, Rules())


def judged(rows: list[Prediction], rules: Rules) -> list[float]:
    """The official F1 of each post."""
    found = [spans_of(row.likely, row.text or "", rules) for row in rows if row.likely is not None]
    return scores(found, [row.spans for row in rows])


def f1_cells(values: Sequence[float], gold: Sequence[Any]) -> Row:
    """Cells of the official F1: of all posts, its error, of posts with and without gold spans."""
    parts = breakdown(values, gold)
    whole, some, none = (parts[key] for key in ("all posts", "with gold spans", "without gold spans"))
    return {"f1": whole.f1, "error": whole.error, "with": some.f1, "without": none.f1}


def cells(name: str, values: list[float], rows: list[Prediction], rules: Rules | None) -> Row:
    """A row of the table."""
    chosen = {"threshold": rules.threshold, "abstain": rules.abstain} if rules else None
    return {"part": name, "posts": len(rows), **f1_cells(values, [row.spans for row in rows]), "rules": chosen}


def main() -> None:
    """Train what is missing, judge what is there."""
    parser = new_parser(__doc__)
    add_paths(parser, "texts", "out")
    parser.add_argument("--encoder", required=True)
    add_numbers(parser, folds=3, rate=1e-4, seed=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--auxiliary", default="layer-attention-cls", choices=AUXILIARIES)
    parser.add_argument("--output", default="crf", choices=OUTPUTS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    numbers = [given.only] if given.only else list(range(1, given.folds + 1))
    parts = {number: held_out(given, number) for number in numbers}
    if len(parts) < 2:
        return
    suited = {number: rules_of(rows) for number, rows in parts.items()}
    lines, values, every = list[Row](), list[float](), list[Prediction]()
    for number, rows in parts.items():
        others = [rules for other, rules in suited.items() if other != number]
        rules = Rules(threshold=fmean(r.threshold for r in others), abstain=fmean(r.abstain for r in others))
        own = judged(rows, rules)
        lines.append(cells(f"part {number}", own, rows, rules))
        values, every = values + own, every + rows
    lines.append(cells("all", values, every, None))
    spread = stdev(fmean(judged(rows, suited[number])) for number, rows in parts.items())
    publish(given, {"parts": Table(COLUMNS, tuple(lines))})
    note(f"with each part's own best threshold: spread over parts {spread:.4f}")


if __name__ == "__main__":
    run_main(main)
