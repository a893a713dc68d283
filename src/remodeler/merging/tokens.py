"""Embedding rows merged by token: every model's rows in the order of one vocabulary, that of the base or of all.

A token that a model lacks takes the base's row, or else the mean of those of the models that have it. With ``union``
the base's tokenizer gets the other models' tokens as added ones: ordinary text is cut as before, and what a model knows
as a mark of its own (``<|im_start|>``) is one token again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remodeler.checkpoint.load import read_tokenizer
from remodeler.errors import InputError, option
from remodeler.merging.mergekit_tokens import TokenRow, resolve_rows
from remodeler.merging.pieces import Source, Stored

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096
"""Rows that are summed together."""
Order = np.ndarray
"""[rows of the result] int64: the row of a model that goes there, -1 where it has none."""


@dataclass(frozen=True)
class Rows:
    """A tensor of embeddings with its rows in another order."""

    stored: Stored
    order: Order
    others: Sequence[tuple[Stored, Order]]
    """Where missing rows come from: the base alone first, then all models."""
    tokens: int
    """Rows that stand for tokens; those behind them are padding, the mean of these."""
    sources: Mapping[int, tuple[Stored, int] | None]
    """Where single missing rows come from instead: a model's row of another number, or zeros."""

    def read(self, start: int, stop: int, keep: bool = True) -> Tensor:
        """Elements ``start`` to ``stop`` of the tensor in its new order, flat, float32."""
        width = self.stored.place.count // self.stored.place.shape[0]
        first, last = start // width, -(-stop // width)
        rows = self._rows(first, last, width)
        return rows.flatten()[start - first * width : stop - first * width]

    @cached_property
    def padding(self) -> Tensor:
        """The mean of the rows of all tokens: [width]."""
        width = self.stored.place.count // self.stored.place.shape[0]
        total = torch.zeros(width, dtype=torch.float64)
        for first in range(0, self.tokens, ROWS_AT_ONCE):
            total += self._rows(first, min(first + ROWS_AT_ONCE, self.tokens), width).sum(0, dtype=torch.float64)
        return (total / self.tokens).float()

    def _rows(self, first: int, last: int, width: int) -> Tensor:
        end = min(last, self.tokens)
        rows = gather_rows(self.stored, self.order[first:end], width)
        missing = self.order[first:end] < 0
        if missing.any():
            rows[torch.from_numpy(missing)] = self._others(np.flatnonzero(missing) + first, width)
        extra = last - max(first, end)
        return torch.cat([rows, self.padding.expand(extra, -1)]) if extra > 0 else rows

    def _others(self, places: np.ndarray, width: int) -> Tensor:
        base, *models = self.others
        found = gather_rows(base[0], base[1][places], width)
        lacking = base[1][places] < 0
        if lacking.any():
            owners = [order[places[lacking]] for _, order in models]
            total = sum(
                (gather_rows(each, own, width) for (each, _), own in zip(models, owners, strict=True)),
                torch.zeros(int(lacking.sum()), width),
            )
            counts = torch.from_numpy(sum((own >= 0).astype(np.float32) for own in owners))
            found[torch.from_numpy(lacking)] = total / counts.clamp_min(1)[:, None]
        for place in self.sources.keys() & set(places.tolist()):
            found[torch.from_numpy(places == place)] = self._single(self.sources[place], width)
        return found

    def _single(self, source: tuple[Stored, int] | None, width: int) -> Tensor:
        if source is None:
            return torch.zeros(width)
        stored, row = source
        return stored.read(row * width, (row + 1) * width).float()


def gather_rows(stored: Stored, order: Order, width: int) -> Tensor:
    """Gather rows of a tensor in an order, zeros where there is none: [rows, width] float32; neighbours in one read."""
    rows = torch.zeros(len(order), width)
    cuts = np.flatnonzero((np.diff(order) != 1) | (order[:-1] < 0)) + 1
    for begin, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        if end > begin and order[begin] >= 0:
            first = int(order[begin])
            rows[begin:end] = stored.read(first * width, (first + end - begin) * width).view(-1, width).float()
    return rows


# Vocabularies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a merged model."""

    tokenizer: Any
    rows: int
    orders: tuple[Order, ...]
    """Of the base, then of each model."""
    tokens: int
    """Rows before the padding."""
    by_base: bool
    """Whether the base, or else the first model, comes before the others where a model lacks a token."""
    sources: Mapping[int, tuple[int, int] | None]
    """By row of the result a model and its row, which stands in where a model has none; None for zeros."""


@dataclass(frozen=True)
class MergekitRules:
    """mergekit's rules: only rows that stand for tokens, and rows from the sources that a file names."""

    multiple: int = 1
    """The number of rows is a multiple of it."""
    by_base: bool = True
    """Whether the first model's row stands in where a model lacks a token; else the mean of those that have it."""
    tokens: Sequence[TokenRow] = ()
    names: Sequence[str] = ()
    """Names of the models, the base first."""


def common_vocabulary(
    folders: Sequence[Path],
    sizes: Sequence[int],
    union: bool,
    trust_remote_code: bool = False,
    rules: MergekitRules | None = None,
) -> Vocabulary:
    """One vocabulary for models whose own differ.

    Args:
        folders: of the base and the models.
        sizes: rows of their embeddings.
        union: add the tokens of the models to those of the base.
        trust_remote_code: of tokenizers.
        rules: mergekit's; None for the base's rows behind its tokens, and where a model lacks a token.
    """
    tokenizers = [read_tokenizer(str(folder), trust_remote_code=trust_remote_code) for folder in folders]
    words = [tokenizer.get_vocab() for tokenizer in tokenizers]
    for folder, known, size in zip(folders, words, sizes, strict=True):
        if max(known.values()) >= size:
            raise InputError(
                f"the tokenizer of {folder} has {max(known.values()) + 1} tokens and the model {size} rows, as after "
                "adding tokens without resize_token_embeddings: resize and save the model, or restore its tokenizer"
            )
    merged = tokenizers[0]
    if union:
        merged.add_tokens(_new_tokens(tokenizers, words))
    if rules and (new := {each.token for each in rules.tokens} - merged.get_vocab().keys()):
        merged.add_tokens(sorted(new))
    final = merged.get_vocab()
    tokens = max(final.values()) + 1 if rules else max(sizes[0], max(final.values()) + 1)
    orders = tuple(_order(final, known, tokens, size) for known, size in zip(words, sizes, strict=True))
    if rules is None:
        return Vocabulary(merged, tokens, orders, tokens, True, {})
    sources = _sources(rules, final, words, sizes, orders)
    rows = -(-tokens // rules.multiple) * rules.multiple
    return Vocabulary(merged, rows, orders, tokens, rules.by_base, sources)


def _sources(
    rules: MergekitRules,
    final: Mapping[str, int],
    words: Sequence[Mapping[str, int]],
    sizes: Sequence[int],
    orders: Sequence[Order],
) -> dict[int, tuple[int, int] | None]:
    """Where rows come from, by their number; those that are forced are taken out of the orders."""
    known = [each for each in rules.tokens if each.zero or each.model is not None]
    for each in rules.tokens:
        row = final[each.token]
        if each not in known and (each.force or any(order[row] < 0 for order in orders)):
            raise InputError(f"the row of {each.token!r} is not in every model, or forced, and has no source: give one")
        if each.force:
            for order in orders:
                order[row] = -1
    found = resolve_rows(known, rules.names, words, sizes)
    return {final[token]: source for token, source in found.items()}


def _new_tokens(tokenizers: Sequence[Any], words: Sequence[Mapping[str, int]]) -> list[Any]:
    """Tokens that the first tokenizer lacks, in the order of the others; marks stay what they are."""
    found: dict[str, Any] = {}
    for tokenizer, known in zip(tokenizers[1:], words[1:], strict=True):
        marks = {str(mark): mark for mark in tokenizer.added_tokens_decoder.values()}
        for token in sorted(known, key=known.__getitem__):
            if token not in words[0]:
                found.setdefault(token, marks.get(token, token))
    return list(found.values())


def _order(final: Mapping[str, int], known: Mapping[str, int], rows: int, size: int) -> Order:
    """Which of a model's rows goes where; rows that stand for no token, in neither, keep their number."""
    order = np.arange(rows)
    order[[*(row for row in known.values() if row < rows), *range(size, rows)]] = -1
    for token, row in final.items():
        order[row] = known.get(token, -1)
    return order


def warn_of_mismatched_vocabularies(folders: Sequence[Path], trust_remote_code: bool) -> None:
    """Warn where rows of the same number stand for different tokens."""
    files = [each / "tokenizer.json" for each in folders]
    if all(each.exists() and each.read_bytes() == files[0].read_bytes() for each in files):
        return
    try:
        words = [read_tokenizer(str(each), trust_remote_code=trust_remote_code).get_vocab() for each in folders]
    except InputError:
        return
    for folder, known in zip(folders[1:], words[1:], strict=True):
        if known != words[0]:
            logger.warning(
                f"the tokenizers of {folders[0]} and {folder} differ, rows are merged by their number: "
                f"{option('tokenizer', 'base')} or union merges them by token"
            )


def reorder_embeddings(stored: Sequence[Stored], vocabulary: Vocabulary) -> list[Source]:
    """Reorder the embeddings of the base and the models by the common vocabulary."""
    pairs = list(zip(stored, vocabulary.orders, strict=True))
    nothing = (stored[0], np.full_like(vocabulary.orders[0], -1))
    others = pairs if vocabulary.by_base else [nothing, *pairs]
    sources = {place: source and (stored[source[0]], source[1]) for place, source in vocabulary.sources.items()}
    return [Rows(each, order, others, vocabulary.tokens, sources) for each, order in pairs]
