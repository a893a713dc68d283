"""Texts to windows of token ids: what a model reads at once, and which tokens are scored in it.

``paper`` packing is exactly what the released code of BlockPruner (arXiv 2406.10594) does, and the WikiText-2
convention: all texts joined by a blank line, tokenised once as one string, cut into equal windows, the tail dropped. So
only the first window starts with the tokenizer's start token, and "256 samples" are 256 short texts, not 256 windows.
Deviation: that code does not score a token that equals the padding token; nothing is padded there, so we score it.
``per-text`` packing gives every text a window of its own, with the special tokens that the tokenizer adds by default.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from remodeler.data.config import Packing
from remodeler.data.sources import NAMES, Example, Sampled, alpaca_example, read_texts, sample
from remodeler.errors import InputError, one_line

__all__ = [
    "IGNORED",
    "NAMES",
    "Example",
    "Packing",
    "Sampled",
    "Windows",
    "alpaca_example",
    "mask_tokens",
    "pad",
    "padding_id",
    "read_texts",
    "sample",
    "seq2seq",
    "tokenizer_errors",
    "windows",
]

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Windows:
    """Runs of token ids that a model reads at once."""

    ids: Tensor  # [windows, length] int64: what the model reads
    targets: Tensor  # [windows, length] int64: the token every position must predict, IGNORED where nothing is scored
    attention: Tensor | None = None  # [windows, length] int64: 1 = real, 0 = padding; None when nothing is padded
    decoder: Tensor | None = None  # [windows, decoder length] int64: decoder input, of the shape of the targets then
    bytes: int = 0  # UTF-8 bytes of the scored text; 0 where it is not known, as in a slice

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice | Tensor) -> "Windows":
        attention, decoder = (None if each is None else each[part] for each in (self.attention, self.decoder))
        return Windows(self.ids[part], self.targets[part], attention, decoder)

    @property
    def tokens(self) -> int:
        """Number of scored positions."""
        return int((self.targets != IGNORED).sum())

    def fingerprint(self) -> str:
        """SHA-256 of the tensors, shapes included: two windows with the same one are scored alike."""
        digest = hashlib.sha256()
        for tensor in (self.ids, self.targets, self.attention, self.decoder):
            digest.update(b"none" if tensor is None else str(tuple(tensor.shape)).encode())
            digest.update(b"" if tensor is None else tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def windows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, packing: Packing = "paper"
) -> Windows:
    """Windows of up to ``length`` tokens. Windows are independent: ``length - 1`` targets in each."""
    if length < 2:
        raise InputError(f"a window of {length} tokens was asked for, it needs 2 to predict one: raise `length`")
    if not texts:
        raise InputError("no texts were given, at least one is needed: choose another source")
    if packing == "paper":
        return _pack(texts, tokenizer, length)
    if packing == "per-text":
        return _per_text(texts, tokenizer, length)
    raise InputError(f"{packing!r} is not a packing: choose one of {', '.join(get_args(Packing))}")


def mask_tokens(plain: Windows, mask_id: int, every: int = 7, special_ids: Collection[int] = ()) -> Windows:
    """Copies of windows with masked tokens, for the pseudo-perplexity of masked language models.

    Salazar et al. 2020 (arXiv 1910.14659) mask one token at a time; here the copies of a window share the work: copy k
    masks every ``every``-th token from k on, so each is masked in exactly one copy and its neighbours stay visible.
    ``every`` = length is the paper's; fewer copies give a higher figure, so compare only figures of one ``every``.
    Special tokens and padding are never masked; copies without a masked token are left out. ``bytes`` is that of the
    plain windows, so it lacks the first token of a window where that is no special token.
    """
    if every < 1:
        raise InputError(f"{every} copies of a window were asked for: give 1 or more")
    ids = plain.ids.repeat_interleave(every, dim=0)
    real = None if plain.attention is None else plain.attention.repeat_interleave(every, dim=0)
    turn = torch.arange(ids.shape[1]) % every == torch.arange(len(ids)).remainder(every)[:, None]
    chosen = turn & ~torch.isin(ids, torch.tensor(sorted(special_ids), dtype=ids.dtype))
    if real is not None:
        chosen &= real.bool()
    targets = torch.where(chosen, ids, IGNORED)
    copies = Windows(ids.masked_fill(chosen, mask_id), targets, real)
    return replace(_rows(copies, chosen.any(dim=1)), bytes=plain.bytes)


def seq2seq(plain: Windows, start_id: int) -> Windows:
    """For encoder-decoder models: the encoder reads the first half of every window, the decoder predicts the second.

    A padded window is halved at the middle of its text. How many bytes the second halves have is not known.
    """
    lengths = plain.attention.sum(dim=1).tolist() if plain.attention is not None else [plain.ids.shape[1]] * len(plain)
    rows = [row[:length] for row, length in zip(plain.ids.tolist(), lengths, strict=True)]
    ids, attention = pad([row[: len(row) // 2] for row in rows], start_id)
    second = [row[len(row) // 2 :] for row in rows]
    targets, _ = pad(second, IGNORED)
    decoder, _ = pad([[start_id, *row[:-1]] for row in second], start_id)
    return Windows(ids, targets, attention, decoder)


def _pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Windows:
    stream = torch.tensor(_tokenise(["\n\n".join(texts)], tokenizer)[0], dtype=torch.int64)
    count = len(stream) // length
    if not count:
        advice = "lower `length`, raise `samples` or choose `packing='per-text'`"
        raise InputError(f"the texts give {len(stream)} tokens, one window needs {length}: {advice}")
    ids = stream[: count * length].reshape(count, length)
    return Windows(ids, _next_tokens(ids), bytes=_scored_bytes(ids.tolist(), tokenizer))


def _per_text(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Windows:
    rows = [row for row in _tokenise(texts, tokenizer, length) if len(row) >= 2]  # a single token predicts nothing
    if not rows:
        raise InputError(f"none of the {len(texts)} texts gives the 2 tokens that a window needs: give longer ones")
    ids, attention = pad(rows, padding_id(tokenizer))
    targets = _next_tokens(ids)
    if attention is not None:
        targets[:, :-1].masked_fill_(attention[:, 1:] == 0, IGNORED)
    return Windows(ids, targets, attention, bytes=_scored_bytes(rows, tokenizer))


def _tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int | None = None) -> list[list[int]]:
    """Ids with the tokenizer's own special tokens, without its warning that a data set is longer than its maximum."""
    with tokenizer_errors(tokenizer):
        read = tokenizer(list(texts), truncation=longest is not None, max_length=longest, verbose=False)
    return [list(row) for row in read["input_ids"]]


@contextmanager
def tokenizer_errors(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """What a tokenizer raises over a text, as one line: the library's own kinds have no common name."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} can't read a text ({one_line(error)}): "
            "give another text, or the complete tokenizer"
        ) from error


def _next_tokens(ids: Tensor) -> Tensor:
    """At every position the next token; nothing at the last one."""
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Padding is neither attended to nor scored, so any token will do where none is named. Id 0 is a token too."""
    named = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(each) for each in named if each is not None)


def pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor | None]:
    """Rows filled up at their right to the longest, and the attention mask, if anything was filled."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)
    attention = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.int64)
    return ids, None if attention.all() else attention


def _scored_bytes(rows: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> int:
    """UTF-8 bytes of the text of every token but the first of its window.

    That is the whole window less its first token: decoding the rest alone would lose a leading space (SentencePiece).
    Where a window cuts a character in two, its half decodes to a replacement character of 3 bytes: an error of a few
    bytes a window at most. Tokenizers that fold case or spaces (BERT's) give the bytes of the folded text.
    """
    # Not all special tokens: the <unk> of WikiText is five bytes of its text.
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    return sum(_text_bytes(row, marks, tokenizer) - _text_bytes(row[:1], marks, tokenizer) for row in rows)


def _text_bytes(ids: list[int], marks: Collection[int | None], tokenizer: PreTrainedTokenizerBase) -> int:
    plain = [token for token in ids if token not in marks]
    return len(str(tokenizer.decode(plain, clean_up_tokenization_spaces=False)).encode())


def _rows(batch: Windows, kept: Tensor) -> Windows:
    attention = None if batch.attention is None else batch.attention[kept]
    return Windows(batch.ids[kept], batch.targets[kept], attention)
