"""Five taggers of one encoder, with different seeds and heads, and their vote, scored on the development posts.

Claim: a character vote of five small taggers is better than any of them. Members differ in features, output layer, tags
and seed. The number of votes that a character needs is chosen on the development posts, and so are the members' epochs
and thresholds: the figures are a little high, those of a test set are the ones to quote. Members are kept; the same
command goes on. ``--list`` prints the command that makes each.

    python benchmarks/audit_vote.py --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --out OUT
"""

from typing import Any

import numpy as np
from audit_folds import F1_COLUMNS, f1_cells
from common import Row, add_paths, new_parser, publish, run_main
from measurements import Column, Table

from remodeler.auditing.formats.posts import Reading, read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.auditing.spans import Span
from remodeler.auditing.statistics.scoring import score, scores
from remodeler.auditing.statistics.voting import vote_all
from remodeler.auditing.tagger.predict_job import predict
from remodeler.auditing.tagger.rules import Rules, spans_of, tune
from remodeler.auditing.tagger.train_job import train_tagger
from remodeler.cli.screen import note
from remodeler.runs.records import load_record, write_json

MEMBERS: dict[str, dict[str, Any]] = {
    "plain": {"auxiliary": "none", "output": "linear", "scheme": "io", "epochs": 3, "seed": 1},
    "attention-cls-crf": {
        "auxiliary": "layer-attention-cls",
        "output": "crf",
        "scheme": "io",
        "epochs": 2,
        "seed": 2,
    },
    "cls-crf-bio": {"auxiliary": "cls-add", "output": "crf", "scheme": "bio", "epochs": 1, "seed": 3},
    "attention-bio": {"auxiliary": "layer-attention", "output": "linear", "scheme": "bio", "epochs": 2, "seed": 4},
    "last-crf": {"auxiliary": "last-k", "output": "crf", "scheme": "io", "epochs": 1, "seed": 5},
}
COLUMNS = (
    Column("name", "on the development posts"),
    *F1_COLUMNS,
    Column("minutes", "minutes", "{value:.0f}", "min of training", missing=""),
)


def command(given: Any, name: str) -> str:
    """What makes a member on the command line."""
    places = f"--texts {given.texts} --dev {given.dev} --encoder {given.encoder} --out {given.out / name}"
    return f"remodel audit train {places} {' '.join(f'--{key} {value}' for key, value in MEMBERS[name].items())}"


def member(given: Any, name: str) -> dict[str, Any]:
    """Train a member and predict the development posts, unless it is there already; what its record says."""
    out, found = given.out / name, given.out / f"{name}.dev.jsonl"
    if not out.exists():
        note(command(given, name))
        data = {"texts": given.texts, "dev": given.dev, "encoder": given.encoder}
        train_tagger(**data, **MEMBERS[name], out=out, device="cpu")
    if not found.exists():
        predict(texts=given.dev, tagger=out, out=found, likelihoods=True, device="cpu")
    return load_record(out).results


def votes(given: Any, names: list[str], dev: Reading) -> list[tuple[str, list[list[Span]]]]:
    """Every number of votes, and for comparison a threshold on the mean of the likelihoods."""
    rows = [read_predictions(given.out / f"{name}.dev.jsonl").rows for name in names]
    spans = [[row.spans for row in each] for each in rows]
    found = [(f"vote, {k} of {len(names)}", vote_all(spans, k)) for k in range(1, len(names) + 1)]
    likely = [np.mean([each[place].likely for each in rows], axis=0) for place in range(len(dev.posts))]
    rules = tune(likely, dev.texts, dev.spans, Rules())
    mean = [spans_of(one, text, rules) for one, text in zip(likely, dev.texts, strict=True)]
    return [*found, (f"mean likelihood, from {rules.threshold:g}", mean)]


def cells(name: str, predicted: list[list[Span]], dev: Reading, minutes: float | None = None) -> Row:
    """A row of the table."""
    return {"name": name, **f1_cells(scores(predicted, dev.spans), dev.spans), "minutes": minutes}


def main() -> None:
    """Train, vote, print, write."""
    parser = new_parser(__doc__)
    add_paths(parser, "texts", "dev", "out")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--members", nargs="+", default=list(MEMBERS), choices=list(MEMBERS))
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        print("\n".join(command(given, name) for name in given.members))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    dev, rows = read_posts(given.dev, known=True), []
    for name in given.members:
        results = member(given, name)
        own = [list(row.spans) for row in read_predictions(given.out / f"{name}.dev.jsonl").rows]
        rows.append(cells(name, own, dev, results["seconds"] / 60))
    voted = votes(given, given.members, dev)
    rows += [cells(name, found, dev) for name, found in voted]
    publish(given, {"vote": Table(COLUMNS, tuple(rows))})
    write_json(given.out / "vote.json", {name: score(found, dev.spans).f1 for name, found in voted})


if __name__ == "__main__":
    run_main(main)
