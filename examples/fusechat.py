"""FuseChat: a pivot learns from two teachers one by one, one of them with another tokenizer; the results are merged.

Offline, a minute or two on an idle core, on models that it makes itself:

    python examples/fusechat.py [FOLDER]

The pivot is the small Llama that ships with the package, without a quarter of its parameters. The first teacher is the
whole model; the second a still smaller Llama with a tokenizer of its own, trained here for a few seconds.

What it shows: predictions are carried from one tokenizer to another (``fuse``), and the two fine-tuned pivots become
one (``merge --method sce``). The models are too small, and the training too short, for the figures to mean much.
"""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

WHOLE = files("remodeler") / "demo_model"
FAST = ("--learning-rate", "3e-4", "--length", 128)


def remodel(*words: object) -> None:
    """Run a verb of the command line."""
    print("$ remodel", *words, flush=True)
    subprocess.run([sys.executable, "-m", "remodeler", *map(str, words)], check=True)


def write_corpus(path: Path) -> Path:
    """Some short documents of Python's documentation."""
    from remodeler.data.pydocs import texts

    short = [each for each in texts("train") if 400 < len(each) < 1200][:80]
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in short))
    return path


def untrained_teacher(folder: Path) -> Path:
    """A random Llama of two layers, with a byte-level tokenizer of 600 tokens that is learned from Python's topics."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from remodeler.data.pydocs import texts

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts("calibration"), trainer)
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main(folder: Path) -> None:
    """All steps, into a new folder."""
    folder.mkdir(parents=True)
    random, other, pivot = folder / "random", folder / "other", folder / "pivot"
    one, two, fused = folder / "pair-whole", folder / "pair-other", folder / "fused"
    texts = ("--texts", write_corpus(folder / "corpus.jsonl"))
    remodel("prune", WHOLE, "--out", pivot, "--ratio", "25%", "--method", "one-shot", *texts, "--samples", 8)
    untrained_teacher(random)
    remodel("recover", random, "--out", other, "--method", "full", *texts, "--steps", 100, "--learning-rate", "1e-2")
    remodel("fuse", pivot, "--teachers", WHOLE, "--out", one, *FAST, *texts)
    remodel("fuse", pivot, "--teachers", other, "--out", two, *FAST, *texts)
    remodel("merge", one, two, "--base", pivot, "--method", "sce", "--select", 1, "--out", fused)
    remodel("evaluate", fused, "--against", pivot, "--texts", "python", "--length", 128, "--no-speed")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-fusechat"))
