"""Train a reviser from preferences, let a policy improve on prompts alone, and put both policies into one table.

Offline, about a minute on an idle core, on the small Llama that ships with the package:

    python examples/align.py [FOLDER]

The preferences are planted, so that damage can be seen without a judge: prompts are beginnings of sentences of Python's
documentation, better answers the rest of the sentence, worse ones the same with reversed words. The policy is the
bundled model, fine-tuned to answer with one sentence. What it shows: the three steps of an alignment, and that every
answer is on the disk with the reason why it was trained on or not (``evolved/round-1.jsonl``). So small a model learns
little in so few steps, so the filters are loose here.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import remodeler as rm

MODEL = str(files("remodeler") / "demo_model")
PAIRS, UNSEEN, PROMPTS = 96, 8, 16


def sentences(count: int) -> list[list[str]]:
    """Sentences of Python's documentation, as words: long enough to be cut in two, short enough to be read at once."""
    from remodeler.data.pydocs import texts

    found = (each.split() for text in texts("train") for each in text.replace("\n", " ").split(". "))
    fitting = dict.fromkeys(tuple(words) for words in found if 12 <= len(words) <= 18)
    return [list(words) for words in list(fitting)[:count]]


def pair(words: list[str]) -> dict[str, str]:
    """A prompt with a better and a worse answer."""
    rest = words[5:]
    return {"prompt": " ".join(words[:5]), "chosen": " ".join(rest), "rejected": " ".join(word[::-1] for word in rest)}


def write_data(folder: Path) -> tuple[Path, Path, Path]:
    """Preferences to learn from, preferences to measure on, and prompts: all of different sentences."""
    words = sentences(PAIRS + UNSEEN + PROMPTS)
    preferences, unseen, prompts = folder / "pairs.jsonl", folder / "unseen.jsonl", folder / "prompts.txt"
    preferences.write_text("".join(json.dumps(pair(each)) + "\n" for each in words[:PAIRS]))
    unseen.write_text("".join(json.dumps(pair(each)) + "\n" for each in words[PAIRS : PAIRS + UNSEEN]))
    prompts.write_text("".join(" ".join(each[:5]) + "\n" for each in words[PAIRS + UNSEEN :]))
    return preferences, unseen, prompts


def main(folder: Path) -> None:
    """All steps, into a new folder."""
    folder.mkdir(parents=True)
    preferences, unseen, prompts = write_data(folder)
    policy, reviser, evolved = folder / "policy", folder / "reviser", folder / "evolved"
    train: dict[str, Any] = {"learning_rate": 1e-3, "train_batch_size": 16}
    loose: dict[str, Any] = {"min_quality": 0.0, "min_confidence": 0.0, "completions": 2, "max_new_tokens": 48}
    rm.alignment.train_baseline(MODEL, preferences=preferences, method="sft", epochs=4, out=policy, **train)
    rm.alignment.train_reviser(MODEL, preferences=preferences, epochs=1, out=reviser, **train)
    rm.alignment.evolve(policy, prompts=prompts, reviser=reviser, probe=2, out=evolved, **loose, **train)
    found = rm.alignment.compare([policy, evolved], preferences=unseen, reviser=reviser, max_new_tokens=32)
    for each in found.checkpoints:
        quality, bits = each["answer_quality"], each["heldout_bits_per_byte"]
        print(f"{each['name']}: quality of its answers {quality:.3f}, {bits:.3f} bits per byte")
    for line in (evolved / "round-1.jsonl").read_text(encoding="utf-8").splitlines()[:3]:
        row = json.loads(line)
        print(f"{row['prompt']} ... {row['answer']!r}: {row['label']}, {row['reason'] or 'accepted'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-align"))
