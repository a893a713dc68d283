"""What auxiliary information and a CRF are worth: each variant, with and without, over several seeds.

Every run is the same but for the features, the output layer and the seed; its figure is the best epoch's official F1
on the development posts, with the threshold that suits it. Rows go to OUT/rows.jsonl, a run each; the same command goes
on. ``--table`` prints what is there: mean and spread (the standard deviation over seeds) of the F1, and minutes a run.
Seeds come in the outer loop, so that a table of fewer seeds is whole early; processes with other seeds may share OUT.
``--posts N`` learns from N posts, the same for all runs.

    python benchmarks/audit_ablation.py --texts tsd_train.csv --dev tsd_trial.csv --encoder MiniLM --out OUT
"""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import (
    Row,
    add_numbers,
    add_paths,
    new_parser,
    publish,
    read_rows,
    run_main,
)
from measurements import Column, Table

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import Prediction, write_predictions
from remodeler.auditing.tagger.config import AUXILIARIES, OUTPUTS
from remodeler.auditing.tagger.train_job import train_tagger
from remodeler.cli.screen import note
from remodeler.runs.records import append_line, load_record
from remodeler.training.plan import order

COLUMNS = (
    Column("auxiliary", "features"),
    Column("output", "output"),
    Column("f1", "F1", "{value:.4f}", missing=""),
    Column("spread", "spread", "{value:.4f}", "standard deviation over seeds", missing=""),
    Column("runs", "runs"),
    Column("minutes", "minutes", "{value:.0f}", "min", missing=""),
)


def run(given: Any, auxiliary: str, output: str, seed: int) -> Row:
    """Train one tagger; its figures. The weights are not kept."""
    out = given.out / f"{auxiliary}-{output}-{seed}"
    if not out.exists():
        data = {"texts": given.learned, "dev": given.dev, "encoder": given.encoder}
        pace = {"epochs": given.epochs, "learning_rate": given.rate, "head_rate": 10 * given.rate}
        train_tagger(**data, **pace, auxiliary=auxiliary, output=output, seed=seed, out=out, device="cpu")
    results = load_record(out).results
    parts = {name.replace(" ", "_"): results["dev"][name]["f1"] for name in list(results["dev"])[:3]}
    told = {"auxiliary": auxiliary, "output": output, "seed": seed, "epochs": given.epochs, "rate": given.rate}
    told["posts"] = load_record(out).inputs["texts"]["count"]
    looks = [look["dev_f1"] for look in results["epochs"]]
    return told | parts | {"looks": looks, "minutes": round(results["seconds"] / 60, 1)}


def learned(given: Any) -> Path:
    """The posts to learn from: all, or those that a shuffle puts first."""
    if given.posts is None:
        return Path(given.texts)
    path: Path = given.out / f"posts-{given.posts}.csv"
    if not path.exists():
        posts = read_posts(given.texts, known=True).posts
        kept = [posts[place] for place in sorted(order(len(posts), 0, 0)[: given.posts])]
        write_predictions(path, [Prediction(post.id, post.spans or (), post.text) for post in kept])
    return path


def cells(rows: Sequence[Row], auxiliary: str, output: str) -> Row:
    """Mean, spread, runs and minutes of a variant."""
    found = [row for row in rows if (row["auxiliary"], row["output"]) == (auxiliary, output)]
    values = [row["all_posts"] for row in found]
    figures = {
        "f1": statistics.mean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "minutes": statistics.mean(row["minutes"] for row in found) if found else None,
    }
    return {"auxiliary": auxiliary, "output": output, "runs": len(values)} | figures


def table(rows: Sequence[Row]) -> Table:
    """The table of what is there."""
    found = tuple(cells(rows, auxiliary, output) for auxiliary in AUXILIARIES for output in OUTPUTS)
    return Table(COLUMNS, found, "official F1 on the development posts")


def main() -> None:
    """Train what is missing, print."""
    parser = new_parser(__doc__)
    add_paths(parser, "texts", "dev", "out")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add_numbers(parser, epochs=2, rate=1e-4)
    parser.add_argument("--posts", type=int)
    parser.add_argument("--table", action="store_true", help="print only")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.learned = learned(given)
    path = given.out / "rows.jsonl"
    rows: list[Row] = read_rows(path)
    for seed in [] if given.table else given.seeds:
        for auxiliary in AUXILIARIES:
            for output in OUTPUTS:
                if any((row["auxiliary"], row["output"], row["seed"]) == (auxiliary, output, seed) for row in rows):
                    continue
                rows.append(run(given, auxiliary, output, seed))
                append_line(path, rows[-1])
                shutil.rmtree(given.out / f"{auxiliary}-{output}-{seed}")
                note(f"{auxiliary}, {output}, seed {seed}: {rows[-1]['all_posts']:.4f}")
    publish(given, {"variants": table(rows)})


if __name__ == "__main__":
    run_main(main)
