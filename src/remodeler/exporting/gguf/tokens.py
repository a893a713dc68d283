"""A fast tokenizer as llama.cpp's: byte-level BPE (``gpt2``), or pieces with byte fallback (``llama``).

llama.cpp knows the ways to cut a text into words by name; the name is found from the pattern that the tokenizer has.
Its ``llama`` kind joins the pair of neighbours with the best score: with minus the rank of the merge that makes a token
as its score, that is BPE's order. Whether both cut the same is for the check to say, which reads texts with both.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from gguf import GGUFValueType, TokenType
from transformers import PreTrainedTokenizerBase

from remodeler.errors import InputError
from remodeler.model.files.gguf.values import Key

WORDS = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "qwen35",
}
"""llama.cpp's names of patterns."""
WHOLE_WORDS = {"llama-bpe": "smaug-bpe"}
"""Names of what looks for whole words among the tokens before it merges, and what the same without that is called."""
TEXT, WHOLE = GGUFValueType.STRING, GGUFValueType.UINT32
MARK = "▁"
"""For a space."""
ROLES = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "pad": "padding",
    "sep": "seperator",
    "cls": "cls",
    "mask": "mask",
}
"""Of special tokens, as GGUF spells them."""


def token_keys(tokenizer: PreTrainedTokenizerBase, rows: int, config: Any = None) -> dict[str, Key]:
    """The keys of a tokenizer.

    Args:
        tokenizer: a fast one.
        rows: of the model's vocabulary; those without a token get one that nobody uses.
        config: of the model, whose special tokens count where the tokenizer names none.

    Raises:
        InputError: when llama.cpp has no such tokenizer, with the way around.
    """
    core = json.loads(_core(tokenizer).to_str())
    model = core["model"]
    if model["type"] != "BPE":
        raise InputError(_advice(f"a tokenizer of the kind {model['type']}"))
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise InputError(_advice(f"a tokenizer with {name} = {model[name]!r}"))
    fallback = bool(model.get("byte_fallback"))
    found = dict(_pieces(core) if fallback else _bytes(core))
    found |= dict(_vocabulary(core, tokenizer, rows, fallback))
    found |= (
        dict(_roles(tokenizer, config, rows)) | dict(_around(tokenizer)) | dict(_templates(tokenizer.chat_template))
    )
    return {f"tokenizer.{name}": key for name, key in found.items()}


def _core(tokenizer: PreTrainedTokenizerBase) -> Any:
    if not tokenizer.is_fast:
        raise InputError(_advice("a slow tokenizer"))
    return getattr(tokenizer, "backend_tokenizer")  # noqa: B009 - the base class does not declare it


def _advice(what: str) -> str:
    return (
        f"the model has {what}, which can't be written for llama.cpp: give a GGUF file of the unpruned model with "
        "`tokenizer_from`, whose tokenizer is copied as it is"
    )


def _parts(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer."""
    if not step:
        return []
    return [part for each in step[inner] for part in _parts(each, inner)] if step.get("type") == "Sequence" else [step]


# Bytes ----------------------------------------------------------------------------------------------------------------


def _bytes(core: dict[str, Any]) -> Iterator[tuple[str, Key]]:
    """One that spells bytes by letters, as GPT-2's."""
    odd = [step["type"] for step in _parts(core.get("normalizer"), "normalizers") if step["type"] != "NFC"]
    if odd:  # llama.cpp leaves out NFC of Qwen's tokenizers too: texts have it nearly always
        raise InputError(_advice(f"a tokenizer that changes texts first (its normalizer {odd[0]})"))
    yield "ggml.model", Key("gpt2", TEXT)
    yield "ggml.pre", Key(words_of(core.get("pre_tokenizer"), bool(core["model"].get("ignore_merges"))), TEXT)
    merges = [each if isinstance(each, str) else " ".join(each) for each in core["model"]["merges"]]
    if not merges:
        raise InputError(_advice("a tokenizer that joins no letters"))
    yield "ggml.merges", Key(merges, GGUFValueType.ARRAY, TEXT)


def words_of(pre: dict[str, Any] | None, whole: bool = False) -> str:
    """llama.cpp's name for how a tokenizer cuts a text into words; ``whole``: whole words go before merges."""
    parts = _parts(pre, "pretokenizers")
    name = _name_of(parts) if parts and _plain_bytes(parts[-1]) else None
    if name is None or (whole and name not in WHOLE_WORDS):
        raise InputError(_advice("a way to cut texts into words (its pre-tokenizer) without a name there"))
    return name if whole else WHOLE_WORDS.get(name, name)


def _plain_bytes(part: dict[str, Any]) -> bool:
    return part["type"] == "ByteLevel" and not part.get("add_prefix_space")


def _name_of(parts: list[dict[str, Any]]) -> str | None:
    kinds, first, own = [part["type"] for part in parts], parts[0], parts[-1].get("use_regex", True)
    if kinds == ["Split", "ByteLevel"] and not own and first["behavior"] == "Isolated" and not first.get("invert"):
        return WORDS.get(first["pattern"].get("Regex", ""))
    if kinds == ["ByteLevel"] and own:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and own and first.get("individual_digits"):
        return "smollm"
    return None


# Pieces ---------------------------------------------------------------------------------------------------------------


def _pieces(core: dict[str, Any]) -> Iterator[tuple[str, Key]]:
    """One with a mark for spaces and tokens for bytes, as Llama 2's."""
    yield "ggml.model", Key("llama", TEXT)
    yield "ggml.pre", Key("default", TEXT)
    starts = [_starts(step) for step in _parts(core.get("normalizer"), "normalizers")]
    starts += [_starts(step) for step in _parts(core.get("pre_tokenizer"), "pretokenizers")]
    yield "ggml.add_space_prefix", Key(any(starts), GGUFValueType.BOOL)


def _starts(step: dict[str, Any]) -> bool:
    """Whether a step puts a mark in front of a text.

    Raises:
        InputError: when it does something else than that, and marks for spaces.
    """
    if step["type"] == "Prepend" and step["prepend"] == MARK:
        return True
    if step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == MARK:
        return False
    if step["type"] == "Metaspace" and step["replacement"] == MARK:
        return bool(step.get("prepend_scheme", "always") != "never")
    raise InputError(_advice(f"a tokenizer that changes texts first (by {step['type']})"))


# Tokens ---------------------------------------------------------------------------------------------------------------


def _vocabulary(
    core: dict[str, Any], tokenizer: PreTrainedTokenizerBase, rows: int, fallback: bool
) -> Iterator[tuple[str, Key]]:
    names = {place: name for name, place in tokenizer.get_vocab().items()}
    if max(names, default=0) >= rows:
        raise InputError(
            f"the tokenizer knows token {max(names)}, the model has {rows} rows: get the complete checkpoint"
        )
    special = {each["id"]: each["special"] for each in core.get("added_tokens", [])}
    unknown = core["model"].get("unk_token") if fallback else None
    kinds = [_kind(names.get(place), special.get(place), fallback, unknown) for place in range(rows)]
    listed = [names.get(place, f"[PAD{place}]") for place in range(rows)]
    if len(set(listed)) < rows:  # llama.cpp would abort
        raise InputError(_advice("a token with a name that stands for rows without one, [PAD...],"))
    yield "ggml.tokens", Key(listed, GGUFValueType.ARRAY, TEXT)
    yield "ggml.token_type", Key([int(kind) for kind in kinds], GGUFValueType.ARRAY, GGUFValueType.INT32)
    if fallback:
        yield "ggml.scores", Key(_scores(core, listed), GGUFValueType.ARRAY, GGUFValueType.FLOAT32)


def _kind(name: str | None, special: bool | None, fallback: bool, unknown: str | None) -> TokenType:
    if name is None:
        return TokenType.UNUSED
    if fallback and name == unknown:
        return TokenType.UNKNOWN
    if special is not None:
        return TokenType.CONTROL if special or _looks_special(name) else TokenType.USER_DEFINED
    if fallback and len(name) == 6 and name.startswith("<0x"):
        return TokenType.BYTE
    return TokenType.NORMAL


def _looks_special(name: str) -> bool:
    """Whether llama.cpp's converter takes an added token for a special one that was not marked so."""
    between = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return name in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        name.startswith(start) and name.endswith(end) for start, end in between
    )


def _scores(core: dict[str, Any], names: list[str]) -> list[float]:
    """Minus the rank of the first merge that makes a token; of those that none makes, less than all."""
    merged = ["".join(each.split(" ") if isinstance(each, str) else each) for each in core["model"]["merges"]]
    ranks = {name: place for place, name in reversed(list(enumerate(merged)))}
    return [-float(ranks.get(name, len(merged))) for name in names]


# What goes with them --------------------------------------------------------------------------------------------------


def _roles(tokenizer: PreTrainedTokenizerBase, config: Any, rows: int) -> Iterator[tuple[str, Key]]:
    for role, name in ROLES.items():
        places = (getattr(each, f"{role}_token_id", None) for each in (tokenizer, config))
        place = next((each for each in places if isinstance(each, int)), None)
        if place is not None and 0 <= place < rows:
            yield f"ggml.{name}_token_id", Key(place, WHOLE)


def _around(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, Key]]:
    """Whether every text begins and ends with a token.

    Raises:
        InputError: when another one than the tokens for that stands there.
    """
    marked, bare = (tokenizer("a", add_special_tokens=each)["input_ids"] for each in (True, False))
    begins = marked[:1] == [tokenizer.bos_token_id] and marked != bare
    ends = marked[-1:] == [tokenizer.eos_token_id] and marked != [*marked[:begins], *bare]
    if marked != [*marked[:begins], *bare, *marked[len(marked) - ends :]]:
        raise InputError(_advice("a tokenizer that puts other tokens around a text than its bos and eos"))
    yield "ggml.add_bos_token", Key(begins, GGUFValueType.BOOL)
    yield "ggml.add_eos_token", Key(ends, GGUFValueType.BOOL)


def _templates(given: str | dict[str, str] | None) -> Iterator[tuple[str, Key]]:
    """Chat templates, as gguf's ``add_chat_template`` names them: the default one, others by name, and their names."""
    if not isinstance(given, dict):
        if given:
            yield "chat_template", Key(given, TEXT)
        return
    plain = {re.sub("[^A-Za-z0-9]", "_", name): text for name, text in given.items()}
    if len(plain) < len(given):
        raise InputError(f"two chat templates of {sorted(given)} have one name in a GGUF file: rename one")
    others = sorted(set(plain) - {"default"})
    for name in others:
        yield f"chat_template.{name}", Key(plain[name], TEXT)
    if others:
        yield "chat_templates", Key(others, GGUFValueType.ARRAY, TEXT)
    if "default" in plain:
        yield "chat_template", Key(plain["default"], TEXT)
