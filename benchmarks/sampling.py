"""Completions a second: ours against transformers' ``generate``, one prompt at a time and in batches of the same size.

Claim: batched completions are many times as fast as a prompt after the other, and no slower than ``generate`` with the
same batch, left-padded. All three take turns, run by run; each makes the same number of tokens from the same prompts,
greedily, none ends early. The last figure is how many completions are the same tokens as one at a time: in float32 the
last bit of a product may differ with the shape of a batch, and a token with it where two are equally likely.

    python benchmarks/sampling.py --model ../shared/models/stories12l --texts ../shared/data/tinystories/part_a.txt
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.data.sources import read_texts
from remodeler.generation.decoding import Choice, continued
from remodeler.runs.records import versions, write_json

Rows = list[list[int]]


def ours(checkpoint: Checkpoint, prompts: Rows, new: int, size: int) -> Rows:
    """Tokens that come after prompts, batch by batch."""
    draws = np.zeros((size, new), dtype=np.int64)
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    made = [continued(checkpoint.model, part, Choice(0), draws[: len(part)], []) for part in parts]
    return [list(each.ids) for part in made for each in part]


def generate(checkpoint: Checkpoint, prompts: Rows, new: int, size: int) -> Rows:
    """The same by transformers, padded at the left."""
    found: Rows = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in part])
        real = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part])
        options: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        found += checkpoint.model.generate(ids, attention_mask=real, **options)[:, longest:].tolist()
    return found


def read_prompts(checkpoint: Checkpoint, path: Path, count: int, words: int) -> Rows:
    """The first words of texts of the file, by length."""
    starts = [" ".join(text.split()[:words]) for text in read_texts(path) if len(text.split()) > words]
    return sorted((list(checkpoint.tokenizer(start)["input_ids"]) for start in starts[:count]), key=len)


def seconds(action: Callable[[], Rows]) -> tuple[float, Rows]:
    """How long an action takes, and what it gives."""
    start = time.perf_counter()
    found = action()
    return time.perf_counter() - start, found


def medians(runs: Sequence[dict[str, float]], tokens: int) -> dict[str, float]:
    """Tokens a second of each way."""
    return {name: tokens / float(np.median([run[name] for run in runs])) for name in runs[0]}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=Path, required=True)
    for name, default in (("prompts", 64), ("words", 8), ("new", 64), ("size", 64), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    checkpoint = load(given.model, device="cpu")
    prompts = read_prompts(checkpoint, given.texts, given.prompts, given.words)
    ways: dict[str, Callable[[], Rows]] = {
        "ours": lambda: ours(checkpoint, prompts, given.new, given.size),
        "generate, same batch": lambda: generate(checkpoint, prompts, given.new, given.size),
        "generate, one at a time": lambda: generate(checkpoint, prompts, given.new, 1),
    }
    generate(checkpoint, prompts[:2], 2, 2)
    runs = [{name: seconds(way) for name, way in ways.items()} for _ in range(given.repeats)]
    speeds = medians([{name: run[name][0] for name in ways} for run in runs], len(prompts) * given.new)
    one, two, three = (runs[0][name][1] for name in ways)
    same = {
        "ours = one at a time": sum(a == b for a, b in zip(one, three, strict=True)),
        "generate's batch = one at a time": sum(a == b for a, b in zip(two, three, strict=True)),
    }
    for name, speed in speeds.items():
        print(f"{name:26} {speed:8.0f} tokens/s   {speeds['ours'] / speed:.2f}")
    print(*(f"{name}: {count} of {len(prompts)}" for name, count in same.items()), sep="\n")
    if given.json:
        write_json(
            given.json,
            {
                "speeds": speeds,
                "same": same,
                "options": {name: str(value) for name, value in vars(given).items()},
                **versions(),
            },
        )


if __name__ == "__main__":
    main()
