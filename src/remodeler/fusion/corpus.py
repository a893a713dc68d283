"""The training texts: plain, or conversations as the student's chat template renders them, and their scored bytes.

All models read the same rendered text, whatever their tokenizers, as in FuseChat (arXiv 2402.16107, section 4.1); only
responses count there. In a plain text everything does. Long texts are cut at white space so that each piece fits every
model (FuseLLM cuts the longest tokenization and decodes it, which may cut characters); of a conversation that is too
long the end is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from remodeler.data.chat import BadRow, Talk
from remodeler.data.chat_templates import PLAIN, answer_spans, rendered_turns, template_of
from remodeler.data.conversations import histories, learned_from
from remodeler.data.sources import NAMES, rows_of
from remodeler.data.windows import IGNORED, Windows, pad, padding_id
from remodeler.errors import InputError, LeftOut, count_reasons, option
from remodeler.fusion.offsets import Cut, cut

MOST = 4
"""Reasons that a message names."""
MARGIN = 8
"""Tokens of a window that are left for special tokens, and for pieces that are tokenized differently on their own."""


@dataclass(frozen=True)
class RenderedText:
    """A text as all models read it."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Scored bytes: ``[start, end)``, in order."""
    marks: bool
    """Whether the text has its start token already, from a template."""
    moved: bool = False
    """Whether the system prompt stands in the user's first turn, since the template takes no other."""


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """The rendered texts as one model reads them: one window each."""

    windows: Windows
    cuts: tuple[Cut, ...]
    positions: tuple[np.ndarray, ...]
    """By text the scored positions: those whose predictions count in the loss."""

    @property
    def bytes(self) -> np.ndarray:
        """Bytes of the scored tokens: [texts]."""
        return np.array([_bytes(each, chosen) for each, chosen in zip(self.cuts, self.positions, strict=True)])


def _bytes(found: Cut, positions: np.ndarray) -> int:
    return int((found.ends[positions + 1] - found.starts[positions + 1]).sum())


# Conversations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversation:
    """Turns, and the number of their row, from 1."""

    row: int
    turns: Talk


def read_conversations(source: str, samples: int, dropped: LeftOut) -> list[Conversation] | None:
    """Read the conversations of a file or hub data set, in any known form; None where most rows are texts.

    Rows that hold none from which something can be learned are left out, and counted by their reason.

    Raises:
        InputError: when none is left.
    """
    if source in NAMES:
        return None
    found, talks = rows_of(source, samples), []
    if 2 * sum(bool(histories(row)) for row in found) < max(1, len(found)):
        return None
    for number, row in enumerate(found, 1):
        try:
            talks.append(Conversation(number, learned_from(row)))
        except BadRow as reason:
            dropped.add(reason, number)
    if not talks:
        raise InputError(explain_empty(source, dropped))
    return talks


def explain_empty(source: str, dropped: Mapping[str, int]) -> str:
    """The message that a source has nothing to learn from."""
    reasons = count_reasons(dropped, MOST)
    return f"{source} holds no conversation that can be learned from (left out: {reasons}): correct it, or give another"


def render_conversation(turns: Talk, tokenizer: PreTrainedTokenizerBase) -> RenderedText:
    """Render a conversation by the tokenizer's chat template; its responses and the tokens that end them are scored.

    Raises:
        BadRow: for one that the template refuses, or of which it leaves something out, with the reason.
        InputError: for a template that is none.
    """
    own = template_of(tokenizer)
    taken, whole = rendered_turns(tokenizer, turns, own or PLAIN)
    spans = answer_spans(tokenizer, taken, own or PLAIN, whole)
    in_bytes = tuple((len(whole[:start].encode()), len(whole[:end].encode())) for start, end in spans)
    return RenderedText(whole, in_bytes, own is not None, taken is not turns)


def render_conversations(
    talks: Iterable[Conversation], tokenizer: PreTrainedTokenizerBase, dropped: LeftOut
) -> Iterator[RenderedText]:
    """Render conversations one after the other; those that the template refuses are counted."""
    for talk in talks:
        try:
            yield render_conversation(talk.turns, tokenizer)
        except BadRow as reason:
            dropped.add(reason, talk.row)


# Texts ----------------------------------------------------------------------------------------------------------------


def split_texts(texts: Sequence[str], tokenizers: Sequence[PreTrainedTokenizerBase], length: int) -> list[RenderedText]:
    """Split texts at white space into pieces that fit a window of every model; all of each is scored."""
    room, found = length - MARGIN, []
    every = [cut(tokenizer, texts) for tokenizer in tokenizers]
    for place, text in enumerate(texts):
        found += _split_text(text, [each[place] for each in every], room)
    return [RenderedText(piece, ((0, len(piece.encode())),), False) for piece in found if piece.strip()]


def _split_text(text: str, cuts: Sequence[Cut], room: int) -> list[str]:
    """Split a text into pieces of at most ``room`` tokens of every model."""
    raw, start, parts = text.encode(), 0, []
    while start < len(raw):
        tokens = [int(each.starts.searchsorted(start)) + room for each in cuts]
        limits = [
            int(each.starts[token]) if token < len(each) else len(raw) for each, token in zip(cuts, tokens, strict=True)
        ]
        stop = min(limits)
        if stop < len(raw):
            space = max(raw.rfind(b" ", start + 1, stop), raw.rfind(b"\n", start + 1, stop))
            stop = space if space > start else _next_character(raw, max(stop, start + 1))
        parts.append(raw[start:stop].decode())
        start = stop
    return parts


def _next_character(raw: bytes, stop: int) -> int:
    """The next byte that begins a character."""
    while stop < len(raw) and raw[stop] & 0xC0 == 0x80:
        stop += 1
    return stop


# As a model reads them ------------------------------------------------------------------------------------------------


def tokenize_texts(
    texts: Sequence[RenderedText], tokenizer: PreTrainedTokenizerBase, length: int, size: int
) -> TokenizedTexts:
    """Tokenize rendered texts into windows of a model.

    Args:
        texts: what all models read.
        tokenizer: this model's.
        length: tokens per window, at most.
        size: rows of the model's embeddings.

    Raises:
        InputError: when the tokenizer knows tokens that the model does not, or nothing is scored in any text.
    """
    cuts = [
        _truncate(found, length)
        for part in (True, False)
        for found in cut(tokenizer, [each.text for each in texts if each.marks is part], add_special_tokens=not part)
    ]
    order = [*(n for n, each in enumerate(texts) if each.marks), *(n for n, each in enumerate(texts) if not each.marks)]
    placed = tuple(each for _, each in sorted(zip(order, cuts, strict=True), key=lambda pair: pair[0]))
    _refuse_unknown_ids(placed, size, tokenizer)
    chosen = tuple(_scored_positions(each, text.spans) for each, text in zip(placed, texts, strict=True))
    return TokenizedTexts(_windows(placed, chosen, tokenizer), placed, chosen)


def _truncate(found: Cut, length: int) -> Cut:
    return Cut(found.ids[:length], found.starts[:length], found.ends[:length], found.exact)


def _refuse_unknown_ids(cuts: Sequence[Cut], size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    highest = max((int(each.ids.max()) for each in cuts if len(each)), default=0)
    if highest >= size:
        raise InputError(
            f"{tokenizer.name_or_path} makes token {highest}, its model knows {size}: the tokenizer is another model's"
        )


def _scored_positions(found: Cut, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Positions whose next token lies within the scored bytes; tokens that stand for no text are not scored."""
    starts, ends = found.starts[1:], found.ends[1:]
    inside = np.zeros(max(0, len(found) - 1), dtype=bool)
    for start, end in spans:
        inside |= (starts >= start) & (ends <= end) & (ends > starts)
    return np.flatnonzero(inside)


def _windows(cuts: Sequence[Cut], chosen: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> Windows:
    ids, attention = pad([each.ids.tolist() for each in cuts], padding_id(tokenizer))
    targets = torch.full_like(ids, IGNORED)
    for row, (found, places) in enumerate(zip(cuts, chosen, strict=True)):
        targets[row, places] = torch.from_numpy(found.ids[places + 1])
    if not (targets != IGNORED).any():
        raise InputError(f"no token of these texts is scored: give longer ones, or a larger {option('length')}")
    return Windows(ids, targets, attention, bytes=sum(map(_bytes, cuts, chosen)))
