"""The UTF-8 bytes of a text that every token stands for.

Two tokenizations of one text can be compared by their bytes and by nothing else: names of tokens are written in many
ways (``Ġcat``, ``▁cat``, ``##s``, ``<0xE2>``), and the character offsets that fast tokenizers report are the same for
all tokens inside one character. FuseLLM (arXiv 2401.10491) and FuseChat (2408.07990) compare names by dynamic
programming instead. Here the bytes that the tokens themselves spell are laid end to end; where that is the text, the
spans are exact. Where it is not (a tokenizer that folds case, or drops spaces), the reported offsets are taken, and
they count as exact when every token has text of its own and nothing but white space is left over.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from remodeler.data.windows import tokenizer_errors
from remodeler.errors import InputError

Ints = NDArray[np.int64]

BYTE_NAME = re.compile("<0x([0-9A-Fa-f]{2})>")
MARKER = "▁"
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that byte-level tokenizers write as the character of the same number; the others follow from 256 on."""
BYTE_OF = {256 + place: byte for place, byte in enumerate(sorted({*range(256)} - {*PRINTABLE}))}
NAME_OF = {byte: name for name, byte in BYTE_OF.items()}


@dataclass(frozen=True, eq=False)
class Cut:
    """The tokens of a text and the bytes that each stands for."""

    ids: Ints
    """[tokens]"""
    starts: Ints
    """[tokens] first byte of a token's text; a token that stands for no text has an empty span at its place."""
    ends: Ints
    """[tokens] byte behind a token's text; never falls."""
    exact: bool
    """Whether every token has bytes of its own: in order, apart, and nothing left over but white space."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def borders(self) -> Ints:
        """Positions that end at a true border: no later token claims text before their end. [positions]"""
        if self.exact:
            return np.arange(len(self))
        later = np.minimum.accumulate(self.starts[::-1])[::-1]
        return np.flatnonzero(np.append(self.ends[:-1] <= later[1:], np.ones(min(len(self), 1), bool)))


@dataclass(frozen=True)
class Spelling:
    """The spelling of text in the names of a tokenizer's tokens."""

    byte_level: bool
    """One character per byte, as in GPT-2."""
    marker: str
    """The character for a space, as in SentencePiece; empty for none."""
    fallback: bool
    """Whether ``<0x0A>`` is a byte."""
    prefix: str
    """Prefix of tokens inside a word, as in WordPiece; the others begin with a space then."""
    suffix: str
    """Suffix of the last token of a word, as in CLIP: a space."""

    def read(self, name: str) -> bytes:
        """The bytes that a name spells."""
        if self.fallback and (found := BYTE_NAME.fullmatch(name)):
            return bytes([int(found[1], 16)])
        end = b" " if self.suffix and name.endswith(self.suffix) else b""
        name = name.removesuffix(self.suffix)
        if self.prefix:
            name = name.removeprefix(self.prefix) if name.startswith(self.prefix) else " " + name
        return self._plain(name) + end

    def _plain(self, name: str) -> bytes:
        if self.byte_level:
            try:
                return name.translate(BYTE_OF).encode("latin-1")
            except UnicodeEncodeError:  # a name that no byte-level tokenizer makes was added by hand
                return name.encode()
        return (name.replace(self.marker, " ") if self.marker else name).encode()

    def write(self, content: bytes) -> str | None:
        """The name that spells some bytes, for the tokenizer's model to cut up; None where they are no text."""
        if self.byte_level:
            return content.decode("latin-1").translate(NAME_OF)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        return text.replace(" ", self.marker) if self.marker else text.removeprefix(" ")


def backend_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The ``tokenizers.Tokenizer`` inside.

    Raises:
        InputError: for a tokenizer written in Python, which can't say where its tokens lie.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which can't say where its tokens lie in the text: "
            "give a model folder with a tokenizer.json (save_pretrained of the fast tokenizer writes one)"
        )
    return getattr(tokenizer, "backend_tokenizer")  # noqa: B009 - the base class does not declare it


def spelling(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Read from a tokenizer's parts how it spells."""
    core = backend_tokenizer(tokenizer)
    parts = (core.normalizer, core.pre_tokenizer, core.decoder)
    states = "".join(part.__getstate__().decode() for part in parts if part is not None)
    return Spelling(
        byte_level='"ByteLevel"' in states,
        marker=MARKER if MARKER in states else "",
        fallback=bool(getattr(core.model, "byte_fallback", False)) or '"ByteFallback"' in states,
        prefix=getattr(core.model, "continuing_subword_prefix", None) or "",
        suffix=getattr(core.model, "end_of_word_suffix", None) or "",
    )


def opaque_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids whose names are not spelled: added tokens, and the one for unknown text."""
    core = backend_tokenizer(tokenizer)
    names = (tokenizer.unk_token, getattr(core.model, "unk_token", None))
    unknown: set[int] = {core.token_to_id(name) for name in names if name is not None} - {None}
    return unknown | set(core.get_added_tokens_decoder())


def cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], add_special_tokens: bool = True) -> list[Cut]:
    """Tokenize some texts, with the bytes of each token.

    Args:
        tokenizer: a fast one.
        texts: any; nothing is truncated.
        add_special_tokens: whether the tokenizer puts its own tokens around a text.

    Raises:
        InputError: for a slow tokenizer.
    """
    core, spelled = backend_tokenizer(tokenizer), spelling(tokenizer)
    if not texts:
        return []
    given: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    with tokenizer_errors(tokenizer):
        read = tokenizer(list(texts), add_special_tokens=add_special_tokens, **given)
    rows, hidden = read["input_ids"], opaque_ids(tokenizer)
    used = {each for row in rows for each in row}
    contents = {each: None if each in hidden else spelled.read(core.id_to_token(each)) for each in used}
    return [
        _cut_text(text, row, encoded.offsets, [contents[each] for each in row])
        for text, row, encoded in zip(texts, rows, read.encodings or [], strict=True)
    ]


# One text -------------------------------------------------------------------------------------------------------------

Offsets = Sequence[tuple[int, int]]
Parts = list[bytes | None]
Spans = tuple[Ints, Ints, bool]
"""Starts, ends, and whether they are exact."""


@dataclass(frozen=True)
class Text:
    """A text and its bytes."""

    text: str

    @cached_property
    def raw(self) -> bytes:
        """In UTF-8."""
        return self.text.encode()

    @cached_property
    def places(self) -> Ints:
        """[characters + 1] the byte at which a character begins."""
        if self.text.isascii():
            return np.arange(len(self.text) + 1)
        codes = np.frombuffer(self.text.encode("utf-32-le"), np.uint32)
        return np.append(0, np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)))

    def spans(self, offsets: Offsets) -> Ints:
        """[tokens, 2] bytes of character offsets."""
        return self.places[np.array(offsets, dtype=np.int64).reshape(-1, 2)]


def _cut_text(text: str, ids: list[int], offsets: Offsets, parts: Parts) -> Cut:
    """Tokens that are found in the text by name hold it fast; between two of them lies a run that is spelled."""
    given = Text(text)
    fixed = [place for place, part in enumerate(parts) if part is None and offsets[place][1] > offsets[place][0]]
    held = given.spans([offsets[place] for place in fixed])
    bounds = zip([-1, *fixed], [*fixed, len(ids)], strict=True)
    lows, highs = np.append(0, held[:, 1]), np.append(held[:, 0], len(given.raw))
    found: list[Spans] = []
    for (before, behind), low, high in zip(bounds, lows.tolist(), highs.tolist(), strict=True):
        run = slice(before + 1, behind)
        found.append(
            _spelled(parts[run], given.raw, low, high) or _reported(parts[run], given, offsets[run], low, high)
        )
    starts, ends = np.zeros((2, len(ids)), np.int64)
    free = np.ones(len(ids), bool)
    free[fixed] = False
    starts[fixed], ends[fixed] = held.T
    starts[free], ends[free] = (np.concatenate(each) for each in list(zip(*found, strict=True))[:2])
    ends = np.maximum.accumulate(ends)
    return Cut(np.array(ids, dtype=np.int64), np.minimum(starts, ends), ends, all(exact for *_, exact in found))


def _spelled(parts: Parts, raw: bytes, low: int, high: int) -> Spans | None:
    """Spans from what the tokens spell, if that is the text, or the text behind a space of the tokenizer's own."""
    joined = b"".join(part or b"" for part in parts)
    extra = len(joined) - (high - low)
    if extra not in (0, 1) or joined != b" " * extra + raw[low:high]:
        return None
    lengths = np.fromiter((len(part or b"") for part in parts), np.int64, len(parts))
    ends = low + np.maximum(np.cumsum(lengths) - extra, 0)
    return np.append(low, ends[:-1])[: len(ends)], ends, True


def _reported(parts: Parts, text: Text, offsets: Offsets, low: int, high: int) -> Spans:
    """Spans from the reported offsets."""
    starts, ends = text.spans(offsets).T.copy()
    for place, part in enumerate(parts):
        lone = part is not None and not part.strip() and not text.raw[starts[place] : ends[place]].isspace()
        ends[place] = starts[place] if lone else ends[place]  # a space that the tokenizer put there
    added = np.array([part is None for part in parts], dtype=bool)  # they stand for no text: others are held fast
    ends = np.maximum(np.maximum.accumulate(np.where(added, 0, ends)), low)
    starts = np.where(added, ends, starts)
    for place in np.flatnonzero(starts[1:] > ends[:-1]).tolist():
        gap = text.raw[ends[place] : starts[place + 1]].decode(errors="replace")
        ends[place] = starts[place + 1] if gap.strip() else ends[place]  # an accent that a normaliser took in
    none = np.array([not (part or b"").strip() for part in parts], dtype=bool)
    left = np.ones(high - low, bool)
    for start, end in zip(starts - low, ends - low, strict=True):
        left[max(start, 0) : end] = False
    rest = np.frombuffer(text.raw[low:high], np.uint8)[left].tobytes().decode(errors="replace")
    whole = bool((starts[1:] >= ends[:-1]).all() and (none | (ends > starts)).all() and not rest.strip())
    return starts, ends, whole
