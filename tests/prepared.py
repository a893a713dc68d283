"""A folder of small files that verbs read: good ones, and one of every kind of broken one."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remodeler.runs.folders import MARK
from tiny import TEXT, tiny_model, tiny_tokenizer
from tiny_encoders import tiny_encoder

Call = Callable[..., int]
SHORT = {"task": "Fix.", "prompt": "\nP:", "response": "\nR:", "revision": "\nV:"}
MARKERS = {"NONE": "NONE", "MINOR": "MINOR", "MAJOR": "MAJOR"}


def prepare(call: Call) -> None:
    """Fill the working folder; ``call`` runs one command and gives its exit code."""
    _models()
    _data()
    _broken()
    _made(call)


def lines(path: str, rows: list[Any]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _models() -> None:
    """Three of one shape, one of another, one of another family, an encoder; and folders that are no models."""
    for name, family, seed, options in [
        ("model", "llama", 0, {"max_position_embeddings": 256}),
        ("sister", "llama", 1, {"max_position_embeddings": 256}),
        ("mother", "llama", 2, {"max_position_embeddings": 256}),
        ("wider", "llama", 0, {"hidden_size": 64}),
        ("gpt", "gpt2", 0, {}),
    ]:
        tiny_model(family, seed, **options).save_pretrained(name)
        tiny_tokenizer().save_pretrained(name)
    tiny_encoder("bert", Path("encoder"))
    Path("hollow").mkdir()
    shutil.copytree("model", "damaged")
    weights = Path("damaged/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-400])
    shutil.copytree("encoder", "damaged-encoder")
    weights = Path("damaged-encoder/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-400])
    shutil.copytree("model", "quantised")
    config = json.loads(Path("model/config.json").read_text())
    Path("quantised/config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    shutil.copytree("model", "misconfigured")
    Path("misconfigured/config.json").write_text("{")
    shutil.copytree("model", "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        Path("wordless", name).unlink()


def _data() -> None:
    lines("texts.jsonl", [{"text": f"{i} {TEXT}"} for i in range(24)])
    Path("prompts.txt").write_text("".join(f"the dog sat on {i}\n" for i in range(20)))
    lines("answered.jsonl", [{"prompt": f"the cat {i}?", "response": "on the dog"} for i in range(4)])
    pairs = [
        {"prompt": f"the cat {i}?", "chosen": "on the mat", "rejected": "on the" + " dog" * (1 + i % 3)}
        for i in range(16)
    ]
    lines("pairs.jsonl", pairs)
    Path("template.json").write_text(json.dumps(SHORT | {"markers": MARKERS}))
    with Path("posts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["spans", "text"], *([[4, 5, 6], f"the dog sat on {i}"] for i in range(20))])
    Path("spans.txt").write_text("".join(f"{i}\t[4, 5, 6]\n" for i in range(20)))
    Path("fewer.txt").write_text("0\t[4, 5, 6]\n")
    lines("questions.jsonl", [{"query": "2+2?", "choices": ["3", "4"], "gold": 1}] * 2)
    outputs = [{"instruction": f"the cat {i}?", "output": "on the mat", "generator": "one"} for i in range(4)]
    Path("outputs.json").write_text(json.dumps(outputs))
    Path("others.json").write_text(json.dumps([row | {"instruction": "what?"} for row in outputs]))
    Path("merge.yml").write_text("merge_method: linear\nmodels: [{model: model}, {model: sister}]\n")


def _broken() -> None:
    for ending in ("txt", "csv", "json", "jsonl", "yml", "conll", "parquet", "gguf"):
        Path(f"empty.{ending}").write_bytes(b"")
        Path(f"latin.{ending}").write_bytes(b"text,spans\n\xe9t\xe9,[]\n")
        Path(f"broken.{ending}").write_bytes(b'{"text": [1,\n')
    Path("list.json").write_text("[1]")
    Path("taken").mkdir()
    for name in ("taken/mine.txt", "taken.txt", "taken.json", "taken.html", "taken.gguf", "taken.jsonl"):
        Path(name).write_text("mine")


def _made(call: Call) -> None:
    """What some verbs make for others."""
    cpu = ["--device", "cpu"]
    read = ["--texts", "texts.jsonl", "--samples", "8", "--length", "16", *cpu]
    assert call("prune", "model", "--out", "pruned", "--remove", "2", *read) == 0
    Path("begun.partial").mkdir()
    Path("begun.partial", MARK).touch()
    shutil.copy("pruned/removals.jsonl", "begun.partial")
    assert call("export", "model", "--out", "model.gguf", "--no-check") == 0
    tagged = ["--texts", "posts.csv", "--encoder", "encoder", "--epochs", "1"]
    assert call("audit", "train", *tagged, "--out", "tagger", *cpu) == 0
    learned = ["--preferences", "pairs.jsonl", "--template", "template.json", "--epochs", "1", *cpu]
    assert call("align", "train-reviser", "model", *learned, "--out", "reviser") == 0
