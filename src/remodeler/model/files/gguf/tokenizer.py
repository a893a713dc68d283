"""The tokenizer of a GGUF file, by transformers' own conversion, with what that leaves out.

It takes GPT-2's way to cut words wherever it does not know the name of another one, and for pieces as Llama's a mark in
front of every text that begins with no space, whatever the file says. Both would give other tokens without a word: ways
are completed here from llama.cpp (``src/llama-vocab.cpp``), and a name that nobody knows is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from remodeler.errors import InputError, one_line
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.values import printable

KIND, TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
PRE, PREFIX = "tokenizer.ggml.pre", "tokenizer.ggml.add_space_prefix"
BEGINS, TEMPLATE = "tokenizer.ggml.add_bos_token", "tokenizer.chat_template"
PIECES, BYTES = "llama", "gpt2"
MARK = "▁"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]")
DIGITS = (r"\p{N}", GPT2)
BLOOM = (r" ?[^(\s|.,!?…。，、।۔،)]+",)
WAYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum", "gigachat"), (GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"), (LLAMA3,)),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), (QWEN2,)),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), BLOOM),
    "falcon": FALCON,
    "default": DEFAULT,
}
"""By llama.cpp's name how words are cut out of a text: expressions, one after the other."""
OTHERS = ("qwen35", "tekken", "gpt-4o", "llama4")
"""That transformers knows of itself."""
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken")
"""Which look for whole words among the tokens first, and begin a text with a token where the file does not say."""


def read_tokenizer(file: Path, header: Header) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a GGUF file; None where it has none.

    Raises:
        InputError: when it is of a kind that is not read.
    """
    kind = _text(header, KIND)
    if kind in (None, "none", "no_vocab"):
        return None
    if kind not in (PIECES, BYTES):
        raise InputError(
            f"{file} has a tokenizer of the kind {printable(str(kind))!r}, {BYTES} and {PIECES} are read: give the "
            "folder that it was made from"
        )
    begins: Any = {"add_bos_token": True} if _text(header, PRE) in WHOLE_WORDS and BEGINS not in header.keys else {}
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            file.parent, gguf_file=file.name, **begins
        )
    except (ValueError, KeyError, TypeError, IndexError, OSError, ImportError) as error:
        raise InputError(f"the tokenizer of {file} can't be read ({one_line(error)}): get the file again") from None
    tokenizer = _without_more(tokenizer, len(header.keys[TOKENS].value))
    {BYTES: _cut_words, PIECES: _mark_spaces}[kind](file, header, tokenizer.backend_tokenizer)
    tokenizer.chat_template = _templates(header)
    return tokenizer


def _without_more(tokenizer: PreTrainedTokenizerFast, count: int) -> PreTrainedTokenizerFast:
    """Without tokens that a class adds to those of the file: its model has no rows for them."""
    core = tokenizer.backend_tokenizer
    if core.get_vocab_size() <= count:
        return tokenizer
    told = json.loads(core.to_str())
    told["added_tokens"] = [each for each in told["added_tokens"] if each["id"] < count]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)), **tokenizer.special_tokens_map
    )


def _text(header: Header, name: str) -> str | None:
    key = header.keys.get(name)
    return str(key.value) if key is not None else None


def _cut_words(file: Path, header: Header, core: Any) -> None:
    """Cut words as llama.cpp does."""
    way = _text(header, PRE) or "default"
    core.model.ignore_merges = way in WHOLE_WORDS
    if way in OTHERS:
        return
    if way not in WAYS:
        raise InputError(
            f"{file} cuts texts into words in the way {printable(way)!r} ({PRE}), which is not known here: give the "
            "folder that it was made from"
        )
    core.pre_tokenizer = _steps(WAYS[way])


def _steps(ways: tuple[str, ...]) -> Any:
    """Expressions as steps of a tokenizer, in the forms that models have them in."""
    if ways in ((GPT2,), DIGITS):
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return (
            last if len(ways) == 1 else pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), last])
        )
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(each), "isolated") for each in ways), last])


def _mark_spaces(file: Path, header: Header, core: Any) -> None:
    """Marks for spaces, and one in front of a text where the file says so: of one that begins with a space too.

    Gemma's way, which has none in front, is left alone.
    """
    if core.pre_tokenizer is not None and not isinstance(core.pre_tokenizer, pre_tokenizers.Metaspace):
        return
    key = header.keys.get(PREFIX)
    marked = key is None or bool(key.value)
    spaces = normalizers.Replace(" ", MARK)
    core.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), spaces]) if marked else spaces
    core.pre_tokenizer = None
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if marked else [])])


def _templates(header: Header) -> str | dict[str, str] | None:
    """The chat template, or several by name."""
    start = f"{TEMPLATE}."
    default = _text(header, TEMPLATE)
    named = {name.removeprefix(start): str(key.value) for name, key in header.keys.items() if name.startswith(start)}
    if not named:
        return default
    return {**({"default": default} if default else {}), **named}
