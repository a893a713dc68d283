"""Positions of two tokenizers that have read the same text."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from remodeler.errors import InputError
from remodeler.fusion.cross_tokenizer import (
    Mapped,
    align_bytes,
    align_dp,
    coverage,
    from_groups_fusechat,
    from_groups_fusellm,
    groups,
    marked_distances,
    shapes,
)
from remodeler.fusion.offsets import Cut, cut
from remodeler.fusion.vocabularies import surfaces
from tiny_tokenizers import TEXTS, byte_level, pieces, word_pieces


def spans(*ends: int, exact: bool = True) -> Cut:
    """Tokens that lie end to end."""
    stops = np.array(ends, dtype=np.int64)
    return Cut(np.arange(len(stops)), np.append(0, stops[:-1])[: len(stops)], stops, exact)


def words(tokenizer: PreTrainedTokenizerFast, tokens: Cut) -> list[str]:
    names = surfaces(tokenizer, len(tokenizer))
    return [names[each] for each in tokens.ids]


# By bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [byte_level, partial(byte_level, start="<s>"), pieces, partial(pieces, scheme="first"), word_pieces]
)
def test_a_tokenizer_aligned_with_itself_is_the_identity(kind) -> None:  # type: ignore[no-untyped-def]
    for each in cut(kind(), TEXTS):
        assert align_bytes(each, each).tolist() == list(range(len(each)))
        assert groups(each, each).tolist() == [[k, k + 1, k, k + 1] for k in range(len(each))]


def test_positions_that_have_read_the_same_bytes() -> None:
    assert align_bytes(spans(2, 4, 6), spans(1, 4, 5, 6)).tolist() == [-1, 1, 3]
    assert align_bytes(spans(1, 4, 5, 6), spans(2, 4, 6)).tolist() == [-1, 1, -1, 2]
    assert align_bytes(spans(), spans(2)).tolist() == []
    assert align_bytes(spans(2), spans()).tolist() == [-1]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_equal_to_looking_every_byte_up(ours: set[int], theirs: set[int]) -> None:
    student, teacher = spans(*sorted({*ours, 31})), spans(*sorted({*theirs, 31}))
    where = {end: place for place, end in enumerate(teacher.ends.tolist())}
    assert align_bytes(student, teacher).tolist() == [where.get(end, -1) for end in student.ends.tolist()]


def test_start_tokens_align_with_start_tokens_and_end_tokens_with_end_tokens() -> None:
    assert align_bytes(spans(0, 2, 4), spans(2, 4)).tolist() == [-1, 0, 1]
    assert align_bytes(spans(2, 4), spans(0, 2, 4)).tolist() == [1, 2]
    assert align_bytes(spans(0, 2, 4), spans(0, 3, 4)).tolist() == [0, -1, 2]
    # The last token of the text predicts the end token, whether or not the other side has one.
    assert align_bytes(spans(0, 2, 4, 4), spans(0, 4, 4)).tolist() == [0, -1, 1, 2]
    assert align_bytes(spans(2, 4, 4), spans(2, 4)).tolist() == [0, 1, -1]
    assert align_bytes(spans(2, 4), spans(2, 4, 4)).tolist() == [0, 1]
    # Behind a start token and the tokenizer's own space, both predict the first word.
    assert align_bytes(spans(0, 0, 2), spans(0, 2)).tolist() == [-1, 0, 1]
    assert align_bytes(spans(0, 2), spans(0, 0, 2)).tolist() == [1, 2]
    # The teacher drops white space at the end: its end token is not what the student's last word predicts.
    assert align_bytes(spans(2, 4, 5), spans(2, 4, 4)).tolist() == [0, 1, -1]


def test_no_position_inside_a_character_that_tokens_share() -> None:
    shared = Cut(np.arange(3), np.array([0, 2, 2]), np.array([2, 5, 5]), exact=False)
    assert align_bytes(spans(2, 5), shared).tolist() == [0, 2]
    shared = Cut(np.arange(3), np.array([0, 0, 2]), np.array([2, 5, 6]), exact=False)
    assert align_bytes(spans(2, 5, 6), shared).tolist() == [-1, -1, 2]


def test_groups_and_their_shapes() -> None:
    found = groups(spans(2, 4, 6, 7, 9, 11), spans(2, 3, 4, 7, 10, 11))
    assert found.tolist() == [[0, 1, 0, 1], [1, 2, 1, 3], [2, 4, 3, 4], [4, 6, 4, 6]]
    assert shapes(found) == {"1-1": 1, "1-n": 1, "n-1": 1, "n-n": 1}
    assert groups(spans(0, 2, 4), spans(2, 4)).tolist() == [[1, 2, 0, 1], [2, 3, 1, 2]]
    assert groups(spans(0, 2, 4), spans(0, 2, 4)).tolist()[0] == [0, 1, 0, 1]
    assert groups(spans(2), spans()).tolist() == []


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)))
def test_groups_are_the_smallest_that_cover_the_same_bytes(ours: set[int], theirs: set[int]) -> None:
    student, teacher = spans(*sorted({*ours, 41})), spans(*sorted({*theirs, 41}))
    found = groups(student, teacher)
    assert found[0, ::2].tolist() == [0, 0]
    assert found[-1, 1::2].tolist() == [len(student), len(teacher)]
    assert all((one[1::2] == other[::2]).all() for one, other in pairwise(found))
    assert (student.ends[found[:, 1] - 1] == teacher.ends[found[:, 3] - 1]).all()
    assert len(found) == len({*student.ends.tolist()} & {*teacher.ends.tolist()})


def test_coverage() -> None:
    assert coverage(np.array([-1, 0, 2, -1])) == 0.5
    assert coverage(np.zeros(0, np.int64)) == 0


# By dynamic programming -----------------------------------------------------------------------------------------------


def naive(student: list[str], teacher: list[str], ties: str) -> Mapped:
    """Cell by cell, as FuseAI's code does it: a row for each of the teacher's tokens."""
    n, m = len(teacher), len(student)
    matrix = np.full((n + 1, m + 1), np.inf)
    matrix[0, 0] = 0
    for i in range(n):
        for j in range(m):
            cost = Levenshtein.distance(teacher[i].replace(" ", ""), student[j].replace(" ", ""))
            matrix[i + 1, j + 1] = cost + min(matrix[i, j + 1], matrix[i + 1, j], matrix[i, j])
    mapped: Mapped = [[] for _ in student]
    i, j = n, m
    while i > 1 or j > 1:
        mapped[j - 1].append(i - 1)
        up, left = (i - 1, j), (i, j - 1)
        options = [(i - 1, j - 1), *((up, left) if ties == "fusellm" else (left, up))]
        i, j = options[int(np.argmin([matrix[each] for each in options]))]
    mapped[0].append(0)
    return [each[::-1] for each in mapped]


TOKENS = st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=12)


@pytest.mark.parametrize("ties", ["fusellm", "fusechat"])
@given(student=TOKENS, teacher=TOKENS)
@settings(deadline=None)
def test_dynamic_programming_equals_the_naive_one(ties, student: list[str], teacher: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert align_dp(student, teacher, ties=ties) == naive(student, teacher, ties)
    assert align_dp(student, teacher, band=len(teacher), ties=ties) == naive(student, teacher, ties)


@given(student=TOKENS, teacher=TOKENS, band=st.integers(0, 3))
@settings(deadline=None)
def test_a_band_gives_a_whole_path(student: list[str], teacher: list[str], band: int) -> None:
    mapped = align_dp(student, teacher, band)
    assert all(mapped)
    path = [(place, other) for place, each in enumerate(mapped) for other in each]
    assert path[0] == (0, 0)
    assert path[-1] == (len(student) - 1, len(teacher) - 1)
    assert all((b[0] - a[0], b[1] - a[1]) in {(0, 1), (1, 0), (1, 1)} for a, b in pairwise(path))


@pytest.mark.parametrize("text", [text for text in TEXTS if text.strip()])
def test_bytes_cover_what_dynamic_programming_gets_right(text: str) -> None:
    one, other = byte_level(380), pieces()
    for student, teacher in ((one, other), (other, one)):
        ours, theirs = (cut(each, [text], add_special_tokens=False)[0] for each in (student, teacher))
        by_bytes = align_bytes(ours, theirs)
        names = words(student, ours), words(teacher, theirs)
        for rule in (from_groups_fusellm, from_groups_fusechat):
            by_names = rule(align_dp(*names), *names)
            right = (by_names >= 0) & (ours.ends == theirs.ends[by_names])
            last = right & (np.append(ours.ends[1:], -1) != ours.ends)
            assert (by_bytes[last] >= 0).all()
            assert coverage(by_bytes) >= coverage(np.where(right, by_names, -1))


def test_a_wide_band_changes_nothing_on_text() -> None:
    one, other = byte_level(380), pieces()
    text = " ".join(TEXTS[:5])
    ours, theirs = (words(each, cut(each, [text], add_special_tokens=False)[0]) for each in (one, other))
    assert align_dp(ours, theirs, band=64) == align_dp(ours, theirs)


# The papers' rules ----------------------------------------------------------------------------------------------------


def test_fusellm_takes_single_tokens_that_are_equal_or_mapped() -> None:
    student, teacher = [" Once", " upon", " a", " tim", "e"], ["Once", " up", "on", " a", " time"]
    mapped: Mapped = [[0], [1, 2], [3], [4], [4]]
    assert from_groups_fusellm(mapped, student, teacher).tolist() == [0, -1, 3, -1, -1]
    assert from_groups_fusellm(mapped, student, teacher, {" time": " tim"}).tolist() == [0, -1, 3, 4, -1]
    # Only the first token may lack its space.
    assert from_groups_fusellm([[0], [1]], ["a", " b"], ["a", "b"]).tolist() == [0, -1]


def test_fusechat_takes_a_single_token_with_the_same_ending() -> None:
    mapped: Mapped = [[0], [1], [1], [2]]
    assert from_groups_fusechat(mapped, [" go", " go", "ing", "x"], [" go", " going", "y"]).tolist() == [0, -1, 1, -1]
    assert from_groups_fusechat([[0]], ["cat"], [""]).tolist() == [-1]  # an empty name matches nothing


def test_fusechat_takes_the_fitting_one_of_several() -> None:
    def one(name: str, names: list[str]) -> int:
        return int(from_groups_fusechat([list(range(len(names)))], [name], names)[0])

    assert one("xgo", ["xx", "yygo"]) == -1
    assert one(" go", ["xx", " yygo", "go"]) == 1  # a: the first with the ending
    assert one(" running", [" run", "nin", "g"]) == 2  # a: the last piece ends it
    assert one("abcd", ["ab", "x", "cd"]) == 2
    assert one("aXbX", ["aX", "b", "c"]) == -1
    assert one("abx", ["a", "bc"]) == -1  # d
    assert one("ab", ["", "a", "c"]) == -1


def test_what_is_spelled_from_the_left_ends_at_its_last_piece() -> None:
    # b needs pieces that spell the name, none of which ends it or is ended by it: only one in the middle can be last.
    assert from_groups_fusechat([[0, 1, 2]], [" ab"], ["a", "b", "c"]).tolist() == [1]


def test_spaces_count_where_there_is_nothing_else() -> None:
    found = marked_distances([" ", " a"], ["  ", "b", " a"])
    assert found.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_refusals() -> None:
    with pytest.raises(InputError, match="0 and 1 tokens"):
        align_dp([], ["a"])
    with pytest.raises(InputError, match="band of -1"):
        align_dp(["a"], ["a"], band=-1)


@pytest.mark.shared
def test_bytes_cover_more_of_real_text_than_names(shared) -> None:  # type: ignore[no-untyped-def]
    paths = ("data/tokenizers/gpt2", "models/stories12l", "models/stories260k")
    tokenizers = [AutoTokenizer.from_pretrained(shared / path) for path in paths]
    texts = (shared / "data/tinystories/part_b.txt").read_text(encoding="utf-8")[:60_000].split("<|endoftext|>")[:4]
    for student in tokenizers:
        for teacher in tokenizers:
            for ours, theirs in zip(cut(student, texts), cut(teacher, texts), strict=True):
                names = words(student, ours), words(teacher, theirs)
                by_names = from_groups_fusellm(align_dp(*names), *names)
                assert coverage(align_bytes(ours, theirs)) >= coverage(by_names)
