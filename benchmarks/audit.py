"""Posts a second: a tagger against transformers' token-classification pipeline, same encoder, in one run.

Claim: a tagger reads at least twice as many posts a second as the pipeline at its defaults (a post at a time). Both
read the same posts and take turns, run by run. The pipeline's head is a linear layer with random weights, as the
tagger's is: what they find is of no matter here. Beside it the tagger with a CRF and layer attention, and the pipeline
with a batch of 16, in which posts are padded in the order in which they come.

    python benchmarks/audit.py --encoder MiniLM --texts tsd_trial.csv
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from common import Timed, add_numbers, add_paths, in_turns, new_parser, publish, run_main
from measurements import Column, Table
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.tagger.config import HeadConfig
from remodeler.auditing.tagger.files import TaggerSettings, new_tagger
from remodeler.auditing.tagger.predict import find_spans
from remodeler.auditing.tagger.quantised import quantise
from remodeler.checkpoint.load import one_sentence
from remodeler.runs.records import versions, write_json

KINDS = ("seconds", "processor")


def ways(encoder: str, texts: list[str]) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    with one_sentence(encoder, "the encoder"):
        model = AutoModelForTokenClassification.from_pretrained(encoder)
    stock = pipeline(
        "token-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(encoder), device="cpu"
    )
    plain = new_tagger(encoder, TaggerSettings(), 0, "cpu")
    small = new_tagger(encoder, TaggerSettings(), 0, "cpu")
    quantise(small.model.encoder)
    rich = new_tagger(encoder, TaggerSettings(HeadConfig(auxiliary="layer-attention-cls", output="crf")), 0, "cpu")
    return {
        "pipeline at its defaults": lambda: stock(texts),
        "pipeline, batch of 16": lambda: stock(texts, batch_size=16),
        "tagger, linear": lambda: find_spans(plain, texts),
        "tagger, linear, int8": lambda: find_spans(small, texts),
        "tagger, layer attention, CRF": lambda: find_spans(rich, texts),
    }


COLUMNS = (
    Column("way", ""),
    Column("speed", "posts a second", "{value:.1f}", "1/s"),
    Column("ratio", "ratio", "{value:.2f}", "times the pipeline at its defaults"),
    Column("work", "ratio by work", "{value:.2f}", "times the pipeline at its defaults"),
)


def table(runs: Mapping[str, Sequence[Timed[Any]]], posts: int) -> Table:
    """Medians of the runs, and ratios by the clock and by processor time."""
    medians = {name: [median(getattr(run, kind) for run in each) for kind in KINDS] for name, each in runs.items()}
    base = medians["pipeline at its defaults"]
    rows = (
        {"way": name, "speed": posts / clock, "ratio": base[0] / clock, "work": base[1] / work}
        for name, (clock, work) in medians.items()
    )
    return Table(COLUMNS, tuple(rows), f"{posts} posts")


def main() -> None:
    """Measure, print, write."""
    parser = new_parser(__doc__)
    parser.add_argument("--encoder", required=True)
    add_paths(parser, "texts")
    add_numbers(parser, posts=690, repeats=5, threads=1)
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    texts = read_posts(given.texts).texts[: given.posts]
    runs = in_turns(ways(given.encoder, texts), given.repeats, warm_up=1)
    publish(given, {"speed": table(runs, len(texts))})
    if given.json:
        seconds = {name: [[getattr(run, kind) for kind in KINDS] for run in each] for name, each in runs.items()}
        facts = {"posts": len(texts), "threads": given.threads, "versions": versions()}
        write_json(given.json, facts | {"runs": seconds})


if __name__ == "__main__":
    run_main(main)
