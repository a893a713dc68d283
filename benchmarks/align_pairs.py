"""Does a reviser tell good responses from bad ones on real preference pairs?

Three sets: Aligner's corrections of another model's answers, pairs for DPO, and the answers of a weak and of a stronger
model to the same instructions. Responses are cut to their first words, so that a triple fits the context of a small
model; what a whole response would show is not seen. A reviser is trained on most prompts of a set by the verb itself;
on the others, the area under the ROC curve of its quality, with its interval, and for comparison that of the length and
of the model's own likelihood. Rows are kept in OUT/rows.jsonl; the same command goes on.

    python benchmarks/align_pairs.py --model stories12l --data shared/data --out DIR
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common import Row, add_numbers, add_paths, new_parser, publish, read_rows, run_main, write_once
from measurements import Column, Table

from remodeler.alignment.data.examples import answer_row
from remodeler.alignment.data.preferences import Triple, read_preferences, split_prompts
from remodeler.alignment.reviser.calibration import roc_area_interval
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.alignment.reviser.train import train_reviser
from remodeler.checkpoint.load import load
from remodeler.cli.screen import note
from remodeler.runs.records import append_line, load_record

HELD_OUT = 0.3
AREA = "{value:.3f to}"
COLUMNS = (
    Column("set", "set"),
    Column("learned", "learned", unit="triples"),
    Column("heldout", "held out", unit="triples"),
    Column("quality", "AUC of quality", AREA),
    Column("length", "of length", AREA),
    Column("likelihood", "of likelihood", AREA),
    Column("labels right", "labels right", "{value:.1%}"),
    Column("chance", "chance", "{value:.1%}"),
    Column("calibration error", "calibration error", "{value:.3f}"),
)


def corrections(data: Path) -> Iterator[Row]:
    """Answers of Qwen1.5-72B, and Aligner's corrections."""
    for row in json.loads((data / "alpaca_eval" / "aligner-2b_qwen1.5-72b_model_outputs.json").read_text("utf-8")):
        yield {"prompt": row["instruction"], "chosen": row["output"], "rejected": row["original_output"]}


def dpo(data: Path) -> Iterator[Row]:
    """LLaMA-Factory's demonstration pairs."""
    for row in json.loads((data / "preference" / "dpo_en_demo.json").read_text("utf-8")):
        prompt = "\n".join(turn["value"] for turn in row["conversations"])
        yield {"prompt": prompt, "chosen": row["chosen"]["value"], "rejected": row["rejected"]["value"]}


def strong_and_weak(data: Path) -> Iterator[Row]:
    """GPT-4's answers and Alpaca-7B's."""
    sides = [
        {row["instruction"]: row["output"] for row in json.loads((data / "alpaca_eval" / name).read_text("utf-8"))}
        for name in ("gpt4_1106_preview_model_outputs.json", "alpaca-7b_model_outputs.json")
    ]
    for prompt, good in sides[0].items():
        yield {"prompt": prompt, "chosen": good, "rejected": sides[1][prompt]}


SETS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "corrections": corrections,
    "dpo pairs": dpo,
    "strong against weak": strong_and_weak,
}


def cut(row: Row, words: int) -> Row:
    """The beginnings of both responses, and of the prompt its end."""
    short = {key: " ".join(row[key].split()[:words]) for key in ("chosen", "rejected")}
    return {"prompt": " ".join(row["prompt"].split()[-words:]), **short}


def heldout(path: Path, seed: int) -> list[Triple]:
    """The triples that the reviser has not seen."""
    return list(split_prompts(read_preferences(str(path))[0], HELD_OUT, seed)[1])


def measured(given: argparse.Namespace, name: str, seed: int) -> Row:
    """One set, one seed."""
    folder = given.out / f"{name.replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pairs.jsonl"
    if not file.exists():
        write_once(file, [cut(row, given.words) for row in SETS[name](given.data)])
    how: Row = {"epochs": given.epochs, "learning_rate": given.learning_rate, "train_batch_size": 16, "seed": seed}
    if not (folder / "reviser").exists():
        how |= {"preferences": file, "held_out_share": HELD_OUT, "device": "cpu"}
        train_reviser(given.model, **how, out=folder / "reviser")
    results = load_record(folder / "reviser").results
    triples, own = heldout(file, seed), load(str(given.model), device="cpu")
    sides = ([(each.prompt, each.chosen) for each in triples], [(each.prompt, each.rejected) for each in triples])
    lengths = [[float(len(text)) for _, text in side] for side in sides]
    likely = [mean_logprobs(own, [answer_row(own, *each) for each in side]) for side in sides]
    return {
        "set": name,
        "seed": seed,
        "triples": results["triples"],
        "quality": results["separation"],
        "length": roc_area_interval(*lengths, seed),
        "likelihood": roc_area_interval(*likely, seed),
        "labels right": results["calibration"]["accuracy"],
        "chance": results["calibration"]["chance"],
        "calibration error": results["calibration"]["calibration_error"],
    }


def table(rows: Sequence[Row]) -> Table:
    """A line a set and seed."""
    return Table(COLUMNS, tuple(row | _counts(row["triples"]) | _areas(row) for row in rows))


def _counts(triples: Row) -> Row:
    return {"learned": triples["train"], "heldout": triples["held out"]}


def _areas(row: Row) -> Row:
    """Areas under the curve with their intervals."""
    parts = ("value", "low", "high")
    return {key: {part: row[key][part] for part in parts} for key in ("quality", "length", "likelihood")}


def main() -> None:
    """Measure what is missing, print what is there."""
    parser = new_parser(__doc__)
    add_paths(parser, "model", "data", "out")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    add_numbers(parser, words=50, epochs=3.0, learning_rate=5e-4)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "rows.jsonl"
    rows = read_rows(path)
    for seed in given.seeds:
        for name in given.sets:
            if not any((row["set"], row["seed"]) == (name, seed) for row in rows):
                rows.append(measured(given, name, seed))
                append_line(path, rows[-1])
                note(f"{name}, seed {seed}: AUC of quality {rows[-1]['quality']['value']:.3f}")
    publish(given, {"sets": table(rows)})


if __name__ == "__main__":
    run_main(main)
