"""``tokenizer.tokens`` of a file written for mergekit: where the embedding rows of single tokens come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remodeler.errors import InputError
from remodeler.merging.mergekit_keys import checked, model_of, short, text_of


@dataclass(frozen=True)
class TokenRow:
    """Where a token's row comes from in models that lack the token, or with ``force`` in all."""

    token: str
    force: bool = False
    zero: bool = False
    model: str | None = None
    """Whose row it is; None with ``zero``, or where the file gives no source."""
    like: str | int | None = None
    """Another token of that model, or the number of its row; None for the same token."""


def read_token_rows(where: str, value: Any) -> tuple[TokenRow, ...]:
    """The tokens of a file, with their sources."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise InputError(f"has {where} {short(value)}, a mapping was expected")
    return tuple(_token_row(f"{where}.{short(token)}.", token, each) for token, each in value.items())


def _token_row(where: str, token: Any, value: Any) -> TokenRow:
    if not isinstance(token, str) or not token:
        raise InputError(f"has {where.rstrip('.')}, a token as text was expected: put it into quotes")
    entry = checked(where, value, ("source", "force"))
    force, source = entry.get("force", False), entry.get("source")
    if not isinstance(force, bool):
        raise InputError(f"has {where}force {short(force)}, true or false was expected")
    if source is None:
        return TokenRow(token, force)
    if not isinstance(source, dict) or "kind" not in source:
        return TokenRow(token, force, model=model_of(f"{where}source", source))
    if source["kind"] == "zero":
        checked(f"{where}source.", source, ("kind",))
        return TokenRow(token, force, zero=True)
    if source["kind"] != "model_token":
        raise InputError(f"has {where}source.kind {short(source['kind'])}: choose zero or model_token")
    return TokenRow(token, force, False, *_model_token(f"{where}source.", source))


def _model_token(where: str, source: Mapping[str, Any]) -> tuple[str, str | int]:
    entry = checked(where, source, ("kind", "model", "token", "token_id"))
    model, token, row = model_of(f"{where}model", entry.get("model")), entry.get("token"), entry.get("token_id")
    if (token is None) == (row is None):
        raise InputError(f"has {where}model_token with {short(token)} and {short(row)}: give token or token_id")
    if row is None:
        return model, text_of(f"{where}token", token) if not isinstance(token, str) else token
    if not isinstance(row, int) or isinstance(row, bool) or row < 0:
        raise InputError(f"has {where}token_id {short(row)}, the number of a row was expected")
    return model, row


def resolve_rows(
    rows: Sequence[TokenRow], names: Sequence[str], words: Sequence[Mapping[str, int]], sizes: Sequence[int]
) -> dict[str, tuple[int, int] | None]:
    """By token the model's place among ``names`` and the number of its row; None for zeros.

    Args:
        rows: those with a source.
        names: of the models.
        words: their vocabularies.
        sizes: rows of their embeddings.
    """
    found: dict[str, tuple[int, int] | None] = {}
    for each in rows:
        if each.model is None:
            found[each.token] = None
            continue
        if each.model not in names:
            raise InputError(f"the row of {each.token!r} comes from {each.model}, which is not merged: list it")
        model = names.index(each.model)
        like = each.token if each.like is None else each.like
        row = words[model].get(like, -1) if isinstance(like, str) else like
        if not 0 <= row < sizes[model]:
            raise InputError(f"{each.model} has no row for {like!r}, from which that of {each.token!r} should come")
        found[each.token] = (model, row)
    return found
