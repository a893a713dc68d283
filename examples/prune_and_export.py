"""Prune a model, make a second size of it, export it for llama.cpp, and load the result in transformers.

Offline, about a minute on an idle core, on the small Llama that ships with the package:

    python examples/prune_and_export.py [FOLDER]

What it shows: one search gives many sizes (``cut``), the result loads like any other checkpoint, and an export is read
back and compared where llama-cpp-python is installed. Needs ``pip install 'remodeler[export]'``.
"""

import sys
from importlib.resources import files
from pathlib import Path

import remodeler as rm

MODEL = str(files("remodeler") / "demo_model")


def completion(folder: Path, prompt: str) -> str:
    """What a checkpoint writes after a prompt, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import remodeler.packed  # noqa: F401  packed folders load without remote code

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


def main(folder: Path) -> None:
    """All steps, into a new folder."""
    folder.mkdir(parents=True)
    small, medium = folder / "small", folder / "medium"
    found = rm.prune(MODEL, ratio=0.2, texts="python", samples=6, length=128)
    for step in found.steps:
        print(f"{step.step}. without {', '.join(map(str, step.removed))}: perplexity {step.perplexity:.2f}")
    found.save(small)
    rm.cut(found, ratio=0.1).save(medium)
    exported = rm.export(small, "gguf", out=folder / "small.gguf", store="q8_0")
    print(f"small.gguf: logits differ by {exported.difference} of the largest in {exported.runtime}")
    rm.report([small, medium], out=folder / "sizes.html")
    print(completion(small, "Return the number of"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-prune"))
