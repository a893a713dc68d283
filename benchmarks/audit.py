"""Posts a second: a tagger against transformers' token-classification pipeline, same encoder, in one run.

Claim: a tagger reads at least twice as many posts a second as the pipeline at its defaults (a post at a time). Both
read the same posts and take turns, run by run. The pipeline's head is a linear layer with random weights, as the
tagger's is: what they find is of no matter here. Beside it the tagger with a CRF and layer attention, and the pipeline
with a batch of 16, in which posts are padded in the order in which they come.

    python benchmarks/audit.py --encoder MiniLM --texts tsd_trial.csv
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.tagger.config import HeadConfig
from remodeler.auditing.tagger.files import TaggerSettings, new_tagger
from remodeler.auditing.tagger.predict import find_spans
from remodeler.auditing.tagger.quantised import quantise
from remodeler.checkpoint.load import one_sentence
from remodeler.cli.screen import table
from remodeler.runs.records import versions, write_json


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


def seconds(action: Callable[[], Any]) -> tuple[float, float]:
    """Time on the clock, and of the processor."""
    start, work = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - work


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--texts", type=Path, required=True)
    for name, default in (("posts", 690), ("repeats", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    texts = read_posts(given.texts).texts[: given.posts]
    measured = ways(given.encoder, texts)
    for action in measured.values():
        action()  # the first warms up
    runs = [{name: seconds(action) for name, action in measured.items()} for _ in range(given.repeats)]
    medians = {name: [float(np.median([run[name][kind] for run in runs])) for kind in (0, 1)] for name in measured}
    base = medians["pipeline at its defaults"]
    rows = [
        [name, f"{len(texts) / clock:.1f}", f"{base[0] / clock:.2f}", f"{base[1] / work:.2f}"]
        for name, (clock, work) in medians.items()
    ]
    table(f"{len(texts)} posts, {given.threads} threads", ["", "posts a second", "ratio", "ratio by work"], rows)
    if given.json:
        write_json(given.json, {"posts": len(texts), "threads": given.threads, "runs": runs, "versions": versions()})


if __name__ == "__main__":
    main()
