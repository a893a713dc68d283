"""FuseChat: a pivot learns from two teachers one by one, one of them with another tokenizer; the results are merged.

Offline, about a minute on an idle core, on models that it makes itself:

    python examples/fusechat.py [FOLDER]

The pivot is the small Llama that ships with the package, without a quarter of its parameters. The first teacher is the
whole model; the second a still smaller Llama with a tokenizer of its own, trained here for a few seconds.

What it shows: predictions are carried from one tokenizer to another (``fuse``), and the two fine-tuned pivots become
one (``merge --method sce``). The models are too small, and the training too short, for the figures to mean much.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import remodeler as rm

WHOLE = str(files("remodeler") / "demo_model")


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
    corpus = str(write_corpus(folder / "corpus.jsonl"))
    rm.prune(WHOLE, pivot, ratio=0.25, method="one-shot", texts=corpus, samples=8)
    untrained_teacher(random)
    rm.recover(random, other, method="full", texts=corpus, steps=100, learning_rate=1e-2)
    for teacher, out in ((WHOLE, one), (other, two)):
        rm.fuse(pivot, teachers=[teacher], texts=corpus, learning_rate=3e-4, length=128, out=out)
    rm.merge([one, two], base=pivot, method="sce", select=1.0, out=fused)
    measured = rm.evaluate([fused, pivot], texts="python", length=128, speed=False)
    for each in measured.checkpoints:
        print(each["name"], each["perplexity"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-fusechat"))
