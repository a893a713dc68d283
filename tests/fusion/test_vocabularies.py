"""Maps between vocabularies, and distributions carried along them."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from transformers import AutoTokenizer

from remodeler.errors import InputError
from remodeler.fusion.counts import Counts, count, count_pairs, mapped_pairs, overlaps, statistics_map
from remodeler.fusion.cross_tokenizer import align_dp
from remodeler.fusion.offsets import Cut, cut
from remodeler.fusion.vocabularies import (
    edit_map,
    exact_map,
    map_topk,
    merge_maps,
    piece_map,
    roles_map,
    surfaces,
    token_bytes,
)
from remodeler.model.logprobs import TopK, sparse
from tiny_tokenizers import END, TEXTS, byte_level, pieces, word_pieces

# What tokens stand for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [byte_level, pieces])
def test_tokens_spell_the_text_they_come_from(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    contents = token_bytes(tokenizer, len(tokenizer))
    for text in TEXTS:
        ids = tokenizer(text.replace(END, ""), add_special_tokens=False)["input_ids"]
        joined = b"".join(contents[each] or b"" for each in ids)
        assert joined.removeprefix(b" " if make is pieces else b"") == text.replace(END, "").encode()


def test_every_marker_becomes_a_space() -> None:
    wanted = {"byte-level": ("Ġthe", b" the"), "pieces": ("▁the", b" the"), "words": ("the", b" the")}
    for tokenizer, (name, content) in zip((byte_level(), pieces(), word_pieces()), wanted.values(), strict=True):
        assert token_bytes(tokenizer, len(tokenizer))[tokenizer.convert_tokens_to_ids(name)] == content
    words = word_pieces()
    assert token_bytes(words, len(words))[words.convert_tokens_to_ids("##s")] == b"s"


def test_special_tokens_and_padding_stand_for_nothing() -> None:
    tokenizer = byte_level()
    contents = token_bytes(tokenizer, len(tokenizer) + 7)
    assert contents[tokenizer.eos_token_id] is None
    assert contents[-7:] == [None] * 7
    assert surfaces(tokenizer, len(tokenizer) + 1)[tokenizer.eos_token_id] == END
    assert surfaces(tokenizer, len(tokenizer) + 1)[-1] == ""
    tokenizer.add_tokens(["added"])
    assert token_bytes(tokenizer, len(tokenizer))[-1] == b"added"


def test_byte_tokens_count_only_where_the_byte_has_no_other() -> None:
    tokenizer = pieces()
    contents = token_bytes(tokenizer, len(tokenizer))
    assert contents[tokenizer.convert_tokens_to_ids("<0x61>")] is None  # there is a token "a"
    assert contents[tokenizer.convert_tokens_to_ids("<0xF0>")] == b"\xf0"
    mapping = exact_map(token_bytes(byte_level(), 500), contents)
    assert mapping[byte_level().convert_tokens_to_ids("a")] == tokenizer.convert_tokens_to_ids("a")


def test_too_few_rows_are_refused() -> None:
    highest = len(byte_level()) - 1
    with pytest.raises(InputError, match=rf"ids up to {highest}.*vocabulary {highest} rows"):
        token_bytes(byte_level(), highest)


# Maps -----------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_maps_to_itself() -> None:
    contents = token_bytes(byte_level(), 400)
    wanted = [-1 if part is None else place for place, part in enumerate(contents)]
    for mapping in (
        exact_map(contents, contents),
        edit_map(contents, contents),
        piece_map(contents, contents, byte_level()),
    ):
        assert mapping.tolist() == wanted


def test_first_pieces_begin_the_token() -> None:
    one, other = byte_level(400), byte_level(280)
    teacher, student = token_bytes(one, 400), token_bytes(other, 280)
    mapping, exact = piece_map(teacher, student, other), exact_map(teacher, student)
    assert (mapping[exact >= 0] == exact[exact >= 0]).all()
    gained = np.flatnonzero((exact < 0) & (mapping >= 0))
    assert len(gained) > 50
    for place in gained:
        text = (teacher[place] or b"").decode("utf-8", "replace")
        assert (teacher[place] or b"").startswith(student[mapping[place]] or b"-")
        if "\ufffd" not in text:  # and it is the piece that the tokenizer itself begins with
            assert other(text, add_special_tokens=False)["input_ids"][0] == mapping[place]


def test_first_pieces_of_words_inside_a_text_have_no_space_of_the_tokenizers_own() -> None:
    student = pieces()
    contents = token_bytes(student, len(student))
    mapping = piece_map([b" thezz", b"thezz", b"\xff\xfe", None], contents, student)
    assert contents[mapping[0]] == b" the"
    assert b"thezz".startswith(contents[mapping[1]] or b"-")
    assert mapping[2:].tolist() == [-1, -1]  # no text, no token


WORDS = st.lists(st.text("abc ", min_size=1, max_size=5).map(str.encode), min_size=1, max_size=12)


@given(teacher=WORDS, student=WORDS)
@settings(deadline=None)
def test_edit_map_equals_looking_at_all(teacher: list[bytes], student: list[bytes]) -> None:
    wanted = []
    for name in teacher:
        apart = [Levenshtein.distance(name.decode(), other.decode()) for other in student]
        wanted.append(student.index(name) if name in student else apart.index(min(apart)))
    assert edit_map([*teacher, None], [*student, None]).tolist() == [*wanted, -1]


def test_special_tokens_go_by_name_and_role() -> None:
    one, other = byte_level(), pieces()
    mapping = roles_map(one, other, len(one))
    assert mapping[one.eos_token_id] == other.eos_token_id  # the role is stronger than the name, which both have
    assert (mapping >= 0).sum() == 1
    back = roles_map(other, one, len(other))
    assert back[other.eos_token_id] == one.eos_token_id
    assert back[other.convert_tokens_to_ids(END)] == one.convert_tokens_to_ids(END)
    assert back[other.bos_token_id] == -1


def test_a_token_with_all_roles_is_an_end() -> None:
    every = byte_level(bos_token=END, unk_token=END)
    other = pieces()
    assert roles_map(every, other, len(every))[every.eos_token_id] == other.eos_token_id


def test_the_first_map_that_knows_a_token_counts() -> None:
    assert merge_maps(np.array([1, -1, -1]), np.array([2, 2, -1]), np.array([3, 3, 3])).tolist() == [1, 2, 3]


# Counts ---------------------------------------------------------------------------------------------------------------


def tokens(ids: list[int], ends: list[int]) -> Cut:
    stops = np.array(ends)
    return Cut(np.array(ids), np.append(0, stops[:-1]), stops, exact=True)


def test_pairs_that_share_bytes() -> None:
    student, teacher = tokens([9, 5, 6, 5], [0, 2, 4, 6]), tokens([1, 2, 3], [2, 3, 6])
    ours, theirs = overlaps(student, teacher)
    assert list(zip(ours, theirs, strict=True)) == [(5, 1), (6, 2), (6, 3), (5, 3)]
    found = count([student, student], [teacher, teacher])
    assert found.counts.tolist() == [2, 2, 2, 2]
    assert list(zip(found.students, found.teachers, strict=True)) == [(5, 1), (5, 3), (6, 2), (6, 3)]
    twice = found + found
    assert twice.counts.tolist() == [4, 4, 4, 4]


def test_counts_agree_with_dynamic_programming_on_equal_cuts() -> None:
    tokenizer = byte_level()
    found = cut(tokenizer, TEXTS[:5])
    by_bytes = count(found, found)
    names = surfaces(tokenizer, 400)
    mapped = [align_dp([names[k] for k in each.ids], [names[k] for k in each.ids]) for each in found]
    by_names = count_pairs(mapped_pairs(m, each.ids, each.ids) for m, each in zip(mapped, found, strict=True))
    for one, other in zip(vars(by_bytes).values(), vars(by_names).values(), strict=True):
        assert one.tolist() == other.tolist()
    assert (by_bytes.students == by_bytes.teachers).all()


def test_the_largest_count_wins_and_the_released_code_prefers_the_nearest() -> None:
    teacher: list[bytes | None] = [b" running", b"same", b"unseen", None]
    student: list[bytes | None] = [b"same", b" runs", b"g", b"xxxx", None]
    seen = [(1, 0, 3), (2, 0, 3), (3, 0, 9), (3, 1, 5), (4, 0, 50), (0, 3, 50)]
    counts = Counts(*np.array(seen).T)
    assert statistics_map(counts, teacher, student).tolist() == [3, 0, -1, -1]
    assert statistics_map(counts, teacher, student, "sigmoid").tolist() == [2, 0, -1, -1]  # inside it: a tenth
    tied = Counts(*np.array([(1, 0, 3), (3, 0, 3)]).T)
    assert statistics_map(tied, teacher, student).tolist()[0] == 1
    with pytest.raises(InputError, match="'most' is not a rule"):
        statistics_map(counts, teacher, student, "most")  # type: ignore[arg-type]


# Distributions --------------------------------------------------------------------------------------------------------


def total(top: TopK) -> torch.Tensor:
    return torch.cat([top.logprobs, top.rest[:, None]], 1).double().exp().sum(1)


def predicted(rows: int = 20, size: int = 30, k: int = 8) -> TopK:
    return sparse(torch.randn(rows, size, generator=torch.Generator().manual_seed(0)) * 3, k)


@pytest.mark.parametrize("collide", ["sum", "first"])
@given(mapping=st.lists(st.integers(-1, 11), min_size=30, max_size=30), size=st.integers(12, 20))
@settings(max_examples=50, deadline=None)
def test_probabilities_sum_to_one_and_ids_differ(collide, mapping: list[int], size: int) -> None:  # type: ignore[no-untyped-def]
    top = predicted()
    found = map_topk(top, torch.tensor(mapping), size, collide)
    torch.testing.assert_close(total(found), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-6)
    assert found.ids.shape == (20, 8)
    assert all(len(set(row)) == 8 for row in found.ids.tolist())
    assert found.ids.min() >= 0
    assert found.ids.max() < size
    assert (found.logprobs[:, 1:] <= found.logprobs[:, :-1]).all()
    for row in range(20):
        wanted: dict[int, float] = {}
        for place, logprob in zip(top.ids[row].tolist(), top.logprobs[row].tolist(), strict=True):
            if mapping[place] >= 0:
                old = wanted.get(mapping[place], 0.0)
                wanted[mapping[place]] = old + math.exp(logprob) if collide == "sum" or not old else old
        got = {
            place: math.exp(value)
            for place, value in zip(*(x[row].tolist() for x in (found.ids, found.logprobs)), strict=True)
        }
        assert {place: value for place, value in got.items() if value} == pytest.approx(wanted, abs=1e-6)


def test_the_identity_changes_nothing() -> None:
    top = predicted()
    for collide in ("sum", "first"):
        found = map_topk(top, torch.arange(30), 30, collide)  # type: ignore[arg-type]
        assert torch.equal(found.ids, top.ids)
        torch.testing.assert_close(found.logprobs, top.logprobs)
        torch.testing.assert_close(found.rest, top.rest)


def test_sum_and_first_by_hand() -> None:
    top = TopK(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.4, 0.3, 0.15, 0.05]]).log(), torch.tensor([0.1]).log())
    mapping = torch.tensor([5, 7, 5, -1])
    added, first = map_topk(top, mapping, 9), map_topk(top, mapping, 9, "first")
    assert added.ids.tolist() == first.ids.tolist() == [[5, 7, 8, 6]]
    torch.testing.assert_close(added.logprobs.exp(), torch.tensor([[0.55, 0.3, 0.0, 0.0]]))
    torch.testing.assert_close(first.logprobs.exp(), torch.tensor([[0.4, 0.3, 0.0, 0.0]]))
    torch.testing.assert_close(added.rest.exp(), torch.tensor([0.15]))
    torch.testing.assert_close(first.rest.exp(), torch.tensor([0.3]))


def test_a_student_with_fewer_tokens_than_columns() -> None:
    top = predicted()
    found = map_topk(top, torch.arange(30) % 3, 3)
    assert found.ids.shape == (20, 3)
    assert found.ids.sort(1).values.tolist() == [[0, 1, 2]] * 20
    torch.testing.assert_close(total(found), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-6)


def test_nothing_to_carry_and_probability_nothing() -> None:
    empty = TopK(torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4), torch.zeros(0))
    assert len(map_topk(empty, torch.arange(4), 4).ids) == 0
    certain = TopK(torch.tensor([[1, 0]]), torch.tensor([[0.0, -math.inf]]), torch.tensor([-math.inf]))
    found = map_topk(certain, torch.tensor([0, 1]), 2)
    assert found.ids.tolist() == [[1, 0]]
    assert found.logprobs.tolist() == [[0, -math.inf]]
    assert found.rest.tolist() == [-math.inf]
    assert map_topk(certain, torch.tensor([-1, -1]), 5).rest.tolist() == [0]


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="map has 3 rows"):
        map_topk(predicted(), torch.arange(3), 30)
    with pytest.raises(InputError, match="student 20 tokens"):
        map_topk(predicted(), torch.arange(30), 20)
    with pytest.raises(InputError, match="'mean' is not a way"):
        map_topk(predicted(), torch.arange(30), 30, "mean")  # type: ignore[arg-type]


@pytest.mark.shared
def test_real_vocabularies(shared) -> None:  # type: ignore[no-untyped-def]
    gpt2, llama = (
        AutoTokenizer.from_pretrained(shared / path) for path in ("data/tokenizers/gpt2", "models/stories260k")
    )
    rows = json.loads((shared / "models/stories260k/config.json").read_text())["vocab_size"]
    teacher, student = token_bytes(llama, rows), token_bytes(gpt2, len(gpt2))
    exact = exact_map(teacher, student)
    assert student[exact[llama.convert_tokens_to_ids("▁the")]] == b" the"
    assert (exact >= 0).sum() == sum(part in set(student) for part in teacher if part is not None)
    pieces_ = piece_map(teacher, student, gpt2)
    assert all((pieces_[place] >= 0) == (part is not None) for place, part in enumerate(teacher))
