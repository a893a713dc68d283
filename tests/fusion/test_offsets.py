"""Every token of a text knows its bytes."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from remodeler.errors import InputError
from remodeler.fusion.offsets import Cut, cut, opaque_ids, spelling
from tiny_tokenizers import END, TEXTS, byte_level, pieces, word_pieces

KINDS = {
    "byte-level": byte_level,
    "byte-level-with-start": lambda: byte_level(start="<s>"),
    "byte-level-prefix-space": lambda: byte_level(prefix_space=True),
    "pieces": pieces,
    "pieces-metaspace-always": lambda: pieces(scheme="always"),
    "pieces-metaspace-first": lambda: pieces(scheme="first"),
    "pieces-metaspace-never": lambda: pieces(scheme="never"),
}


@cache
def made(kind: str) -> PreTrainedTokenizerFast:
    return KINDS[kind]()


def checked(tokenizer: PreTrainedTokenizerFast, text: str, found: Cut) -> None:
    """The spans lie end to end over the whole text, and every token spells its own."""
    raw, hidden, spelled = text.encode(), opaque_ids(tokenizer), spelling(tokenizer)
    assert found.exact
    assert found.ids.tolist() == tokenizer(text)["input_ids"]
    assert b"".join(raw[start:end] for start, end in zip(found.starts, found.ends, strict=True)) == raw
    assert (found.starts[1:] == found.ends[:-1]).all()
    for place, start, end in zip(found.ids.tolist(), found.starts, found.ends, strict=True):
        name = tokenizer.convert_ids_to_tokens(place)
        if place in hidden:
            assert raw[start:end] in (b"", name.encode())
        else:
            assert raw[start:end] in (spelled.read(name), spelled.read(name).removeprefix(b" "))


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_the_bytes_of_the_tokens(kind: str) -> None:
    for text, found in zip(TEXTS, cut(made(kind), TEXTS), strict=True):
        checked(made(kind), text, found)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_is_covered(kind: str, text: str) -> None:
    checked(made(kind), text, cut(made(kind), [text])[0])


def test_tokens_inside_one_character_have_bytes_of_their_own() -> None:
    found = cut(made("byte-level"), ["ᚠ"])[0]
    assert found.starts.tolist() == [0, 1, 2]
    assert found.ends.tolist() == [1, 2, 3]
    offsets = made("byte-level")("ᚠ", return_offsets_mapping=True)["offset_mapping"]
    assert set(offsets) == {(0, 1)}  # what the tokenizer itself says


def test_special_tokens_in_the_text_have_its_bytes_and_added_ones_none() -> None:
    tokenizer = made("pieces")
    found = cut(tokenizer, [f"the{END}the"])[0]
    names = tokenizer.convert_ids_to_tokens(found.ids.tolist())
    spans = dict(zip(names, zip(found.starts.tolist(), found.ends.tolist(), strict=True), strict=True))
    assert (spans["<s>"], spans[END], spans["</s>"]) == ((0, 0), (3, 10), (13, 13))
    assert found.exact
    assert len(cut(tokenizer, ["the"], add_special_tokens=False)[0]) == len(cut(tokenizer, ["the"])[0]) - 2


def test_the_space_that_a_tokenizer_puts_in_front_is_no_text() -> None:
    found = cut(made("pieces"), ["😀"])[0]
    assert made("pieces").convert_ids_to_tokens(found.ids.tolist())[1] == "▁"
    assert list(zip(found.starts, found.ends, strict=True))[:3] == [(0, 0), (0, 0), (0, 1)]


def test_unknown_text_is_one_token_of_its_own() -> None:
    tokenizer = word_pieces()
    found = cut(tokenizer, ["the ᚠᛇ cat"])[0]
    place = found.ids.tolist().index(tokenizer.unk_token_id)
    assert (found.starts[place], found.ends[place]) == (4, 10)
    assert found.exact


def test_a_tokenizer_that_folds_case_and_drops_spaces_is_exact_by_its_offsets() -> None:
    text = "  The CAT,  läuft\n"
    found = cut(word_pieces(), [text], add_special_tokens=False)[0]
    raw = text.encode()
    assert found.exact
    assert b"".join(raw[s:e] for s, e in zip(found.starts, found.ends, strict=True)) == b"TheCAT,l\xc3\xa4uft"
    assert (found.starts[1:] >= found.ends[:-1]).all()


def test_tokens_that_share_a_character_are_not_exact_and_no_border_lies_between_them() -> None:
    tokenizer = pieces(scheme="always", normal=normalizers.NFKC())
    text = "the ㎏ cat"  # one character that becomes two
    found, plain = cut(tokenizer, [text, "the cat"])
    assert plain.exact
    assert not found.exact
    names = tokenizer.convert_ids_to_tokens(found.ids.tolist())
    inside = [
        place for place, (start, end) in enumerate(zip(found.starts, found.ends, strict=True)) if start < 7 <= end
    ]
    assert len(inside) > 1, names
    assert inside[-1] in found.borders
    lone = cut(tokenizer, ["日 ㎏"], add_special_tokens=False)[
        0
    ]  # the tokenizer's own space stands for no text here too
    assert (lone.starts[0], lone.ends[0]) == (0, 0)
    assert not set(inside[:-1]) & set(found.borders.tolist())


def test_normalised_text_that_keeps_its_tokens_apart_is_exact() -> None:
    tokenizer = pieces(scheme="always", normal=normalizers.NFC())
    text = "the la\u0308uft sat"  # a and its dots become one character
    found = cut(tokenizer, [text], add_special_tokens=False)[0]
    assert found.exact
    ends = set(found.ends.tolist())
    assert {3, 11, len(text.encode())} <= ends
    assert 6 not in ends  # between a and its dots
    found = cut(tokenizer, ["the cafe\u0301 sat"], add_special_tokens=False)[0]  # what two byte tokens stand for
    borders = set(found.ends[found.borders].tolist())
    assert 10 in borders
    assert 8 not in borders  # where the reported offsets end


def test_slow_tokenizers_and_nothing() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"slow tokenizer.*tokenizer\.json"):
        cut(Slow(), ["a"])  # type: ignore[arg-type]
    assert cut(made("pieces"), []) == []


def test_what_was_spelled_can_be_written() -> None:
    for kind, content in {"byte-level": b"\xff caf\xc3", "pieces": " caf\u00e9".encode()}.items():
        spelled = spelling(made(kind))
        name = spelled.write(content)
        assert name is not None
        assert spelled.read(name) == content
    assert spelling(made("pieces")).write(b"\xff") is None


@pytest.mark.shared
def test_real_tokenizers_cover_real_text(shared) -> None:  # type: ignore[no-untyped-def]
    texts = (shared / "data/wikitext2/valid.txt").read_text(encoding="utf-8")[:60_000].split("\n") + TEXTS
    for folder in ("data/tokenizers/gpt2", "models/stories12l", "models/stories260k"):
        tokenizer = AutoTokenizer.from_pretrained(shared / folder)
        found = cut(tokenizer, texts)
        assert all(each.exact for each in found)
        assert [int(each.ends[-1]) if len(each) else 0 for each in found] == [len(text.encode()) for text in texts]
        assert sum(len(each) for each in found) == sum(map(len, tokenizer(texts, verbose=False)["input_ids"]))
        assert all(np.all(each.starts <= each.ends) for each in found)
