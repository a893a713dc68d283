"""Completions a second: ours against transformers' ``generate``, one prompt at a time and in batches of the same size.

Claim: batched completions are many times as fast as a prompt after the other, and no slower than ``generate`` with the
same batch, left-padded. All three take turns, run by run; each makes the same number of tokens from the same prompts,
greedily, none ends early. The last figure is how many completions are the same tokens as one at a time: in float32 the
last bit of a product may differ with the shape of a batch, and a token with it where two are equally likely.

    python benchmarks/sampling.py --model ../shared/models/stories12l --texts ../shared/data/tinystories/part_a.txt
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import Timed, add_numbers, add_paths, in_turns, new_parser, publish, run_main
from measurements import Column, Table

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.data.sources import read_texts
from remodeler.generation.decoding import Choice, continue_prompts
from remodeler.runs.records import versions, write_json

Rows = list[list[int]]
ALONE = "generate, one at a time"
COLUMNS = (
    Column("way", ""),
    Column("speed", "tokens a second", "{value:,.0f}", "tokens/s"),
    Column("ratio", "ours are so many times as fast", "{value:.2f}"),
    Column("same", "the same tokens as one at a time", "{same} of {prompts}", "completions"),
)


def ours(checkpoint: Checkpoint, prompts: Rows, new: int, size: int) -> Rows:
    """Tokens that come after prompts, batch by batch."""
    draws = np.zeros((size, new), dtype=np.int64)
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    made = [continue_prompts(checkpoint.model, part, Choice(0), draws[: len(part)], []) for part in parts]
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


def table(runs: Mapping[str, Sequence[Timed[Rows]]], tokens: int) -> Table:
    """Tokens a second of each way, by the median run, and how many completions are the same."""
    speeds = {name: tokens / median(run.seconds for run in each) for name, each in runs.items()}
    alone = runs[ALONE][0].value
    rows = []
    for name, speed in speeds.items():
        same = sum(one == two for one, two in zip(runs[name][0].value, alone, strict=True))
        row = {"way": name, "speed": speed, "ratio": speeds["ours"] / speed}
        rows.append(row | {"same": {"same": same, "prompts": len(alone)}})
    return Table(COLUMNS, tuple(rows))


def main() -> None:
    """Measure, print, write."""
    parser = new_parser(__doc__)
    parser.add_argument("--model", required=True)
    add_paths(parser, "texts")
    add_numbers(parser, prompts=64, words=8, new=64, size=64, repeats=3, threads=1)
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    checkpoint = load(given.model, device="cpu")
    prompts = read_prompts(checkpoint, given.texts, given.prompts, given.words)
    ways: dict[str, Callable[[], Rows]] = {
        "ours": partial(ours, checkpoint, prompts, given.new, given.size),
        "generate, same batch": partial(generate, checkpoint, prompts, given.new, given.size),
        ALONE: partial(generate, checkpoint, prompts, given.new, 1),
    }
    generate(checkpoint, prompts[:2], 2, 2)
    runs = in_turns(ways, given.repeats)
    publish(given, {"speed": table(runs, len(prompts) * given.new)})
    if given.json:
        options = {name: str(value) for name, value in vars(given).items()}
        seconds = {name: [run.seconds for run in each] for name, each in runs.items()}
        write_json(given.json, {"seconds": seconds, "options": options, **versions()})


if __name__ == "__main__":
    run_main(main)
