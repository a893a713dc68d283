"""Run by the Python of an environment that has mlx-lm: what does it say of some tokens?

    python probe_mlx.py FOLDER QUESTION.json ANSWER.json

Imports nothing of this package. Question and answer are those of ``probe_vllm.py``; numbers are of the type that the
folder holds, and nothing is compiled.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def decode(model: Any, ids: list[int], steps: int) -> tuple[list[float], list[int]]:
    """Nats of a prompt's tokens, and the likeliest ones that follow, by the cache."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    logits = model(mx.array([ids]), cache=cache)[0].astype(mx.float32)
    said = nn.log_softmax(logits, axis=-1)
    nats = [said[place, token].item() for place, token in enumerate(ids[1:])]
    chosen = [mx.argmax(logits[-1]).item()]
    while len(chosen) < steps:
        chosen.append(mx.argmax(model(mx.array([chosen[-1:]]), cache=cache)[0, -1]).item())
    return nats, chosen


def answered(folder: str, question: dict[str, Any]) -> dict[str, Any]:
    """Load a folder and ask it."""
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    found = [decode(model, ids, question["steps"]) for ids in question["prompts"]]
    return {
        "version": version("mlx-lm"),
        "logprobs": [nats for nats, _ in found],
        "chosen": [chosen for _, chosen in found],
    }


def main() -> None:
    """Question in, answer out."""
    folder, question, answer = sys.argv[1:]
    told = answered(folder, json.loads(Path(question).read_text("utf-8")))
    Path(answer).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main()
