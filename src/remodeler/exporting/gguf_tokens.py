"""A fast tokenizer as llama.cpp's: byte-level BPE (``gpt2``), or pieces with byte fallback (``llama``).

llama.cpp knows the ways to cut a text into words by name; the name is found from the pattern that the tokenizer has.
Its ``llama`` kind joins the pair of neighbours with the best score: with minus the rank of the merge that makes a token
as its score, that is BPE's order. Whether both cut the same is for the check to say, which reads texts with both.
"""

import json
from collections.abc import Iterator
from typing import Any

from gguf import GGUFValueType, TokenType
from transformers import PreTrainedTokenizerBase

from remodeler.errors import InputError
from remodeler.exporting.gguf_values import Key

WORDS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "qwen35",
}
"""llama.cpp's names of patterns."""
TEXT, WHOLE = GGUFValueType.STRING, GGUFValueType.UINT32
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator"}
"""Of special tokens, as GGUF spells them."""


def token_keys(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, Key]:
    """The keys of a tokenizer.

    Args:
        tokenizer: a fast one.
        rows: of the model's vocabulary; those without a token get one that nobody uses.

    Raises:
        InputError: when llama.cpp has no such tokenizer, with the way around.
    """
    core = json.loads(_core(tokenizer).to_str())
    if core["model"]["type"] != "BPE":
        raise InputError(_advice(f"a tokenizer of the kind {core['model']['type']}"))
    fallback = bool(core["model"].get("byte_fallback"))
    found = dict(_pieces(core) if fallback else _bytes(core))
    found |= dict(_vocabulary(core, tokenizer, rows, fallback))
    found |= dict(_roles(tokenizer))
    return {f"tokenizer.{name}": key for name, key in found.items()}


def _core(tokenizer: PreTrainedTokenizerBase) -> Any:
    if not tokenizer.is_fast:
        raise InputError(_advice("a slow tokenizer"))
    return getattr(tokenizer, "backend_tokenizer")  # noqa: B009 - the base class does not declare it


def _advice(what: str) -> str:
    return (
        f"the model has {what}, which can't be written for llama.cpp: give a GGUF file of the unpruned model with "
        "--tokenizer-from, whose tokenizer is copied as it is"
    )


def _bytes(core: dict[str, Any]) -> Iterator[tuple[str, Key]]:
    """One that spells bytes by letters, as GPT-2's."""
    yield "ggml.model", Key("gpt2", TEXT)
    yield "ggml.pre", Key(words_of(core.get("pre_tokenizer") or {}), TEXT)
    merges = [each if isinstance(each, str) else " ".join(each) for each in core["model"]["merges"]]
    if not merges:
        raise InputError(_advice("a tokenizer that joins no letters"))
    yield "ggml.merges", Key(merges, GGUFValueType.ARRAY, TEXT)


def words_of(pre: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer cuts a text into words."""
    parts = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    kinds = [part.get("type") for part in parts]
    patterns = [part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split"]
    if patterns and patterns[0] in WORDS and kinds[-1] == "ByteLevel":
        return WORDS[patterns[0]]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True) and not parts[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    raise InputError(_advice("a way to cut texts into words (its pre-tokenizer) without a name there"))


def _pieces(core: dict[str, Any]) -> Iterator[tuple[str, Key]]:
    """One with a mark for spaces and tokens for bytes, as Llama 2's."""
    yield "ggml.model", Key("llama", TEXT)
    yield "ggml.pre", Key("default", TEXT)
    start = '"prepend"' in json.dumps(core).lower() or '"prepend_scheme": "first"' in json.dumps(core)
    yield "ggml.add_space_prefix", Key(start or '"prepend_scheme": "always"' in json.dumps(core), GGUFValueType.BOOL)


def _vocabulary(
    core: dict[str, Any], tokenizer: PreTrainedTokenizerBase, rows: int, fallback: bool
) -> Iterator[tuple[str, Key]]:
    names = {place: name for name, place in tokenizer.get_vocab().items()}
    if max(names, default=0) >= rows:
        raise InputError(
            f"the tokenizer knows token {max(names)}, the model has {rows} rows: get the complete checkpoint"
        )
    special = {each["id"]: each["special"] for each in core.get("added_tokens", [])}
    kinds = [_kind(names.get(place), special.get(place), fallback) for place in range(rows)]
    listed = [names.get(place, f"[PAD{place}]") for place in range(rows)]
    yield "ggml.tokens", Key(listed, GGUFValueType.ARRAY, TEXT)
    yield "ggml.token_type", Key([int(kind) for kind in kinds], GGUFValueType.ARRAY, GGUFValueType.INT32)
    if fallback:
        yield "ggml.scores", Key(_scores(core, listed), GGUFValueType.ARRAY, GGUFValueType.FLOAT32)


def _kind(name: str | None, special: bool | None, fallback: bool) -> TokenType:
    if name is None:
        return TokenType.UNUSED
    if fallback and name in ("<unk>", "[UNK]"):
        return TokenType.UNKNOWN
    if special is not None:
        return TokenType.CONTROL if special else TokenType.USER_DEFINED
    if fallback and len(name) == 6 and name.startswith("<0x"):
        return TokenType.BYTE
    return TokenType.NORMAL


def _scores(core: dict[str, Any], names: list[str]) -> list[float]:
    """Minus the rank of the first merge that makes a token; of those that none makes, less than all."""
    merged = ["".join(each.split(" ") if isinstance(each, str) else each) for each in core["model"]["merges"]]
    ranks = {name: place for place, name in reversed(list(enumerate(merged)))}
    return [-float(ranks.get(name, len(merged))) for name in names]


def _roles(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, Key]]:
    for role, name in ROLES.items():
        place = getattr(tokenizer, f"{role}_token_id", None)
        if place is not None:
            yield f"ggml.{name}_token_id", Key(int(place), WHOLE)
    marked = tokenizer("a")["input_ids"]
    yield "ggml.add_bos_token", Key(bool(marked) and marked[0] == tokenizer.bos_token_id, GGUFValueType.BOOL)
    yield "ggml.add_eos_token", Key(bool(marked) and marked[-1] == tokenizer.eos_token_id, GGUFValueType.BOOL)
    if isinstance(tokenizer.chat_template, str):
        yield "chat_template", Key(tokenizer.chat_template, TEXT)
