"""Does a reviser repair planted damage, leave good answers alone, and does a policy that it guides get better?

Prompts are the beginnings of real stories, good responses their real continuations, bad ones the same with the letters
of some words turned round: of three words, of a sentence, of everything. Turned words are in no story, so damage can
be counted in what a policy writes without any judge. The policy to be improved has learned from stories half of which
are damaged. All is done by the verbs themselves; rows are kept in OUT/rows.jsonl, what is done is not done again.

    python benchmarks/align.py --model stories12l --stories tinystories --out DIR --seeds 1

prints a table of the rows that are there, with the spread over seeds.
"""

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from common import Row, add_numbers, add_paths, new_parser, publish, read_rows, run_main, write_once
from planted import GRADES, LEARNED, WORD, Pair, beginnings, damaged, planted, strange, tables

from remodeler.alignment.baselines.job import train_baseline
from remodeler.alignment.data.examples import answer_row, row_windows
from remodeler.alignment.data.preferences import order_key
from remodeler.alignment.data.template import LABELS, MAJOR, MINOR, NONE
from remodeler.alignment.evolution.job import evolve
from remodeler.alignment.reviser.calibration import calibration_error, reliability
from remodeler.alignment.reviser.difficulty import edit_distance
from remodeler.alignment.reviser.reviser import label_probabilities, load_reviser, revise_pairs
from remodeler.alignment.reviser.train import train_reviser
from remodeler.checkpoint.load import load
from remodeler.data.sources import read_texts
from remodeler.generation.sampling import Sampling, complete
from remodeler.model.logprobs import mean_nll
from remodeler.runs.records import append_line, read_lines, write_json

TEMPLATE = {
    "task": "Fix.",
    "prompt": "\nP: ",
    "response": "\nR: ",
    "revision": "\nV: ",
    "markers": {NONE: "0", MINOR: "1", MAJOR: "2"},
}


# One seed -------------------------------------------------------------------------------------------------------------


class Bench:
    """Everything that one seed needs."""

    def __init__(self, given: argparse.Namespace, seed: int) -> None:
        self.given, self.seed, self.folder = given, seed, given.out / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        first, second = (read_texts(given.stories / name) for name in ("part_a.txt", "part_b.txt"))
        self.known = {each.lower() for text in (*first, *second) for each in WORD.findall(text)}
        one, two = (sorted(beginnings(part), key=lambda pair: order_key(pair[0], seed)) for part in (first, second))
        size = given.size
        self.taught, self.flawed, self.gold = one[:size], one[size : size + given.flawed], one[size + given.flawed :]
        self.heldout, self.pool = two[: given.heldout], two[given.heldout :]

    def training(self, epochs: float, rate: float | None = None, batch: int | None = None) -> Row:
        """Options of a training."""
        pace = {"learning_rate": rate or self.given.learning_rate, "train_batch_size": batch or self.given.batch}
        return {"epochs": epochs, "seed": self.seed, "device": self.given.device, **pace}

    def write(self, name: str, rows: Sequence[Row]) -> str:
        return str(write_once(self.folder / name, rows))

    def triples(self, pairs: Sequence[Pair], salt: str) -> list[Row]:
        """Good and bad responses, a grade each in turn."""
        found = []
        for number, (prompt, good) in enumerate(pairs):
            dice, grade = random.Random(f"{self.seed} {salt} {number}"), GRADES[number % len(GRADES)]
            bad = damaged(good, grade, dice)
            found.append({"prompt": prompt, "chosen": good, "rejected": bad, "grade": grade})
        return [row for row in found if row["chosen"] != row["rejected"]]


def copier(bench: Bench) -> str:
    """The model, or, where it shall first learn to copy, one that was tuned on texts that stand there twice.

    Models as small as these can't copy, and learn it all at once after some hundred steps. It serves all seeds.
    """
    if not bench.given.copying_epochs:
        return str(bench.given.model)
    out, file = bench.given.out / "copier", bench.given.out / "copies.jsonl"
    if not out.exists():
        stories = beginnings(read_texts(bench.given.stories / "part_a.txt"))
        texts = [text.strip() for pair in stories for text in pair]
        rows = [{"prompt": f"\nR: {text}\nV: 2", "chosen": f"\n{text}", "rejected": "."} for text in texts]
        write_once(file, rows)
        pace = {"epochs": bench.given.copying_epochs, "learning_rate": 2e-3, "seed": 1, "device": bench.given.device}
        train_baseline(bench.given.model, preferences=file, held_out_share=0.02, **pace, out=out)
    return str(out)


def reviser(bench: Bench) -> Path:
    """Trained on planted damage."""
    out, template = bench.folder / "reviser", bench.folder / "template.json"
    if not out.exists():
        write_json(template, TEMPLATE)
        train_reviser(
            copier(bench),
            preferences=bench.write("preferences.jsonl", bench.triples(bench.taught, "taught")),
            template=template,
            difficulty=bench.given.difficulty,
            major_share=2 / 3,
            warm_up_epochs=bench.given.warm_up_epochs or bench.given.epochs,
            copies=bench.given.copies,
            **bench.training(bench.given.epochs),
            out=out,
        )
    return out


def judged(bench: Bench, place: Path) -> Row:
    """Labels and revisions of held-out responses against what is known about them."""
    found = load_reviser(str(place), device=bench.given.device)
    rows = bench.triples(bench.heldout, "held out")
    bad = [(row["prompt"], row["rejected"]) for row in rows]
    good = [(row["prompt"], row["chosen"]) for row in rows]
    known, fine = label_probabilities(found, bad), label_probabilities(found, good)
    made = revise_pairs(found, bad, known, bench.given.tokens)
    changed = [(row, each) for row, each in zip(rows, made, strict=True) if each.label != NONE]
    sure = [*known.max(1), *fine.max(1)]
    truth = [(each.argmax() == 0) == good_one for part, good_one in ((known, False), (fine, True)) for each in part]
    told: Row = {
        "good answers untouched": fmean(each.argmax() == 0 for each in fine),
        "damage noticed": fmean(each.argmax() != 0 for each in known),
        "calibration error (damaged or not)": calibration_error(reliability(sure, truth)),
        "edit distance before": fmean(edit_distance(row["rejected"], row["chosen"]) for row in rows),
        "edit distance after": fmean(
            edit_distance(each.text, row["chosen"]) for row, each in zip(rows, made, strict=True)
        ),
        "words damaged before": fmean(planted(row["rejected"], bench.known) for row in rows),
        "words damaged after": fmean(planted(each.text, bench.known) for each in made),
        "revised": len(changed) / len(rows),
    }
    for grade in GRADES:
        own = [(row, each) for row, each in zip(rows, made, strict=True) if row["grade"] == grade]
        told[f"noticed: {grade}"] = fmean(each.label != NONE for _, each in own)
        told[f"called MAJOR: {grade}"] = fmean(each.label == LABELS[2] for _, each in own)
        told[f"before: {grade}"] = fmean(edit_distance(row["rejected"], row["chosen"]) for row, _ in own)
        told[f"after: {grade}"] = fmean(edit_distance(each.text, row["chosen"]) for row, each in own)
    return told


def flawed(bench: Bench) -> Path:
    """The policy to be improved: half of what it learned from is damaged."""
    rows = [
        {"prompt": row["prompt"], "chosen": row["rejected" if number % 2 else "chosen"], "rejected": "."}
        for number, row in enumerate(bench.triples(bench.flawed, "flawed"))
    ]
    return tuned(bench, "flawed", rows, str(bench.given.model))


def tuned(
    bench: Bench, name: str, rows: Sequence[Row], start: str, method: str = "sft", rate: float | None = None
) -> Path:
    """A policy fine-tuned on what rows chose."""
    out = bench.folder / name
    if not out.exists():
        file = bench.write(f"{name}.jsonl", rows)
        training = bench.training(2.0, rate, bench.given.policy_batch)
        train_baseline(start, preferences=file, method=method, held_out_share=0.05, **training, out=out)
    return out


def evolved(bench: Bench, policy: Path, place: Path, times: int, labels: bool = True) -> Path:
    """An internal and an external round over prompts without answers."""
    out = bench.folder / (f"evolved-{times}x" if labels else f"no-labels-{times}x")
    if not out.exists():
        prompts = bench.pool[: times * bench.given.prompts]
        evolve(
            policy,
            prompts=bench.write(f"prompts-{times}x.jsonl", [{"prompt": prompt} for prompt, _ in prompts]),
            reviser=place,
            probe=0,
            max_new_tokens=bench.given.tokens,
            completions=2,
            min_quality=0.7,
            use_labels=labels,
            **bench.training(2.0, bench.given.policy_rate, bench.given.policy_batch),
            out=out,
        )
    return out


def measured(bench: Bench, place: str) -> Row:
    """Damage in what a policy writes, and what good answers cost it."""
    policy = load(place, device=bench.given.device)
    prompts = [prompt for prompt, _ in bench.heldout]
    said = complete(policy, prompts, Sampling(bench.given.tokens, 1.0, 0.95, seed=bench.seed))
    read = row_windows(policy, [answer_row(policy, *pair) for pair in bench.heldout])
    size = sum(len(good.encode()) for _, good in bench.heldout)
    return {
        "words damaged": fmean(planted(each.text, bench.known) for each in said),
        "answers damaged": fmean(planted(each.text, bench.known) > 0 for each in said),
        "other strange words": fmean(strange(each.text, bench.known) for each in said),
        "ended": fmean(each.ended for each in said),
        "bits per byte": mean_nll(policy.anatomy, read) * read.tokens / size / math.log(2),
    }


def arms(bench: Bench) -> Iterator[tuple[str, Row]]:
    """Every arm with its figures, made only when it is asked for."""
    place = reviser(bench)
    yield "reviser", judged(bench, place)
    policy = flawed(bench)
    yield "policy before", measured(bench, str(policy))
    for times in (1, 2, 4):
        found = evolved(bench, policy, place, times)
        rounds = [read_lines(found / f"round-{number}.jsonl") for number in (1, 2)]
        taken = sum(row["accepted"] for part in rounds for row in part)
        yield f"evolved, {times}x prompts", measured(bench, str(found)) | {LEARNED: taken}
        if times == 1:
            gold = bench.triples(bench.gold[: math.ceil(taken / 0.95)], "gold")
            yield (
                "fine-tuned on as many good answers",
                measured(bench, str(tuned(bench, "gold", gold, str(policy), rate=bench.given.policy_rate))),
            )
            pairs = bench.triples(bench.gold[: bench.given.prompts], "gold")
            for method in ("dpo", "orpo") if find_spec("trl") else ():
                out = tuned(bench, method, pairs, str(policy), method, bench.given.policy_rate / 10)
                yield f"{method}, {len(pairs)} pairs", measured(bench, str(out))
            bare = evolved(bench, policy, place, times, labels=False)
            yield "evolved without labels, 1x prompts", measured(bench, str(bare))


def main() -> None:
    """Read the arguments, do what is not done, show what there is."""
    parser = new_parser(__doc__)
    add_paths(parser, "model", "out")
    parser.add_argument("--stories", type=Path, required=True, help="folder with part_a.txt and part_b.txt")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=1000, help="triples of the reviser")
    parser.add_argument("--flawed", type=int, default=600, help="stories that the policy to be improved learned from")
    parser.add_argument("--prompts", type=int, default=150, help="prompts of an evolution, 1x")
    add_numbers(parser, heldout=120, tokens=112, batch=16, learning_rate=5e-4, policy_batch=16, copies=0.5)
    parser.add_argument("--epochs", type=float, default=2.0, help="of the reviser")
    parser.add_argument("--warm-up-epochs", type=float, help="by default as many as --epochs")
    parser.add_argument("--policy-rate", type=float, default=1e-4, help="learning rate of evolved policies")
    parser.add_argument("--copying-epochs", type=float, default=0.0, help="first teach the reviser's model to copy")
    parser.add_argument("--difficulty", default="edit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "rows.jsonl"
    rows = read_rows(path)
    for seed in [] if given.table else given.seeds:
        done = {row["arm"]: row["figures"] for row in rows if row["seed"] == seed}
        for arm, figures in arms(Bench(given, seed)):
            if arm not in done:
                append_line(path, {"seed": seed, "arm": arm, "figures": figures})
    publish(given, dict(tables(read_rows(path))))


if __name__ == "__main__":
    run_main(main)
