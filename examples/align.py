"""Train a reviser from preferences, let a policy improve on prompts alone, and put both policies into one table.

Offline, about two minutes on an idle core, on the small Llama that ships with the package:

    python examples/align.py [FOLDER]

The preferences are planted, so that damage can be seen without a judge: prompts are beginnings of sentences of Python's
documentation, better answers the rest of the sentence, worse ones the same with reversed words. The policy is the
bundled model, fine-tuned to answer with one sentence. What it shows: the three steps of an alignment, and that every
answer is on the disk with the reason why it was trained on or not (``evolved/round-1.jsonl``). So small a model learns
little in so few steps, so the filters are loose here.
"""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

MODEL = files("remodeler") / "demo_model"
PAIRS, UNSEEN, PROMPTS = 96, 8, 16


def remodel(*words: object) -> None:
    """Run a verb of the command line."""
    print("$ remodel", *words, flush=True)
    subprocess.run([sys.executable, "-m", "remodeler", *map(str, words)], check=True)


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
    data, train = ("--preferences", preferences), ("--learning-rate", "1e-3", "--train-batch", 16)
    loose = ("--min-quality", 0, "--min-confidence", 0, "--samples", 2, "--tokens", 48, "--probe", 2)
    remodel("align", "baseline", MODEL, *data, "--method", "sft", "--epochs", 4, *train, "--out", policy)
    remodel("align", "train-reviser", MODEL, *data, "--epochs", 1, *train, "--out", reviser)
    remodel("align", "evolve", policy, "--prompts", prompts, "--reviser", reviser, *loose, *train, "--out", evolved)
    remodel("align", "compare", policy, evolved, "--preferences", unseen, "--reviser", reviser, "--tokens", 32)
    for line in (evolved / "round-1.jsonl").read_text(encoding="utf-8").splitlines()[:3]:
        row = json.loads(line)
        print(f"{row['prompt']} ... {row['answer']!r}: {row['label']}, {row['reason'] or 'accepted'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-align"))
