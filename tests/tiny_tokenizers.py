"""Small real tokenizers of every kind, trained on a few lines."""

import json
from collections import Counter
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "the cat sat on the mat, and the dogs ran to the river 42 times",
    "der Hund läuft über die Straße; l'été à la mer",
    "日本語のテキスト 東京へ行く",
    "नमस्ते दुनिया",
    "emoji 😀😀 👩‍👩‍👧 and café",
]
TEXTS = [
    *LINES,
    "  two  spaces   three ",
    "\n\n\ttabs\r\nand lines\n",
    "\u00a0no-break\u3000wide",
    "unseen: ᚠᛇᚻ ✨ Ω",
    "<|end|>the cat<|end|><|end|> sat",
    " ",
    "",
    "a",
]
END = "<|end|>"


def byte_level(size: int = 400, prefix_space: bool = False, start: str = "", **roles: str) -> PreTrainedTokenizerFast:
    """As GPT-2; ``start`` goes in front of every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    special = [END, *([start] if start else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES * 5, trainer)
    if start:
        core.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, **roles)


def pieces(size: int = 150, scheme: str = "", normal: Any = None) -> PreTrainedTokenizerFast:
    """As Llama's: markers for spaces, bytes for characters it lacks; ``scheme``: with a Metaspace pre-tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        LINES[:2] * 5, trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=40)
    )
    learned = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in learned["merges"]]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        core.normalizer = normal
    else:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    core.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT's: ``##`` inside words, lower case, no accents, no spaces.

    The library's trainer numbers letters inside words in another order in every process, so none is trained.
    """
    normalizer, cutter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [word for line in LINES for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(line))]
    counts = Counter("".join(words))
    letters = sorted(counts, key=lambda each: (-counts[each], each))[:60]
    beginnings = [word[:size] for word in words[:25] for size in range(2, len(word) + 1)]
    names = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{each}" for each in letters), *beginnings]
    vocabulary = {name: place for place, name in enumerate(dict.fromkeys(names))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizer, cutter
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        clean_up_tokenization_spaces=False,
    )
