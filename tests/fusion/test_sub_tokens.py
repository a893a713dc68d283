"""What a teacher says inside its own tokens: the rule by hand, and against all tokens one by one."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from remodeler.checkpoint.load import load
from remodeler.fusion.config import MatchConfig
from remodeler.fusion.corpus import split_texts, tokenize_texts
from remodeler.fusion.offsets import Cut
from remodeler.fusion.sub_tokens import (
    SubTokens,
    condition_on_pieces,
    count_beginnings,
    piece_table,
    position_depths,
)
from remodeler.fusion.teacher_predictions import aligned_topk
from remodeler.fusion.teachers import predict
from remodeler.fusion.vocabularies import map_topk, piece_map, token_bytes
from remodeler.model.logprobs import TopK
from remodeler.training.teacher_store import between
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import byte_level

TABLE = torch.tensor([[4, -1, -1], [5, 6, -1], [5, 6, 7], [5, 8, -1], [9, -1, -1]], dtype=torch.int32)
"""Five tokens of a teacher: a, bc, bcd, be, f, say; the student has a letter each."""
TOP = TopK(torch.tensor([[1, 2, 3, 0]]), torch.tensor([[0.4, 0.3, 0.1, 0.1]]).log(), torch.tensor([0.1]).log())


def row(depth: int, said: list[int], share: float) -> tuple[dict[int, float], float]:
    """Probabilities by token of the student, and the rest."""
    padded = torch.tensor([said + [-1] * (3 - len(said))])
    found = condition_on_pieces(TOP, padded, torch.tensor([depth]), torch.tensor([share]), TABLE, 12, "sum")
    pairs = zip(found.ids[0].tolist(), found.logprobs[0].exp().tolist(), strict=True)
    return {key: value for key, value in pairs if value > 0}, float(found.rest.exp())


def test_before_any_piece_it_is_the_map_by_pieces() -> None:
    found, rest = row(0, [], 1.0)
    assert found == pytest.approx({5: 0.8, 4: 0.1})
    assert rest == pytest.approx(0.1)
    mapped = map_topk(TOP, TABLE[:, 0].long(), 12)
    assert dict(zip(mapped.ids[0].tolist(), mapped.logprobs[0].exp().tolist(), strict=True))[5] == pytest.approx(0.8)


def test_behind_a_piece_tokens_that_begin_so_are_left() -> None:
    """bc, bcd and be after b: c by 0.7, e by 0.1; a quarter of the mass outside the k fits."""
    found, rest = row(1, [5], 0.25)
    whole = 0.8 + 0.1 * 0.25
    assert found == pytest.approx({6: 0.7 / whole, 8: 0.1 / whole})
    assert rest == pytest.approx(0.025 / whole)


def test_a_token_that_ends_here_says_nothing_of_what_follows() -> None:
    """After bc: bcd goes on with d, bc is over."""
    found, rest = row(2, [5, 6], 0.1)
    whole = 0.7 + 0.01
    assert found == pytest.approx({7: 0.3 / whole})
    assert rest == pytest.approx(0.41 / whole)


def test_where_no_token_fits_nothing_is_said() -> None:
    found, rest = row(1, [9], 0.5)
    assert found == {}
    assert rest == pytest.approx(1.0)


def test_positions_behind_a_common_border() -> None:
    rows, positions = np.array([0, -1, -1, 1, -1, 2]), np.array([3, 4, 5, 6, 9, 10])
    found, behind = position_depths(rows, positions, 3)
    assert found.tolist() == [0, 0, 0, 1, -1, 2], "between 6 and 9 something is left out"
    assert behind.tolist() == [0, 1, 2, 0, 0, 0]
    found, _ = position_depths(rows, positions, 2)
    assert found.tolist() == [0, 0, -1, 1, -1, 2]


def test_how_often_tokens_begin_how() -> None:
    ids = np.array([1, 1, 2, 3, 0])
    inside = count_beginnings(TABLE, [Cut(ids, ids, ids, True)])
    assert inside.begins == Counter({(5,): 4, (5, 6): 3, (4,): 1, (5, 6, 7): 1, (5, 8): 1})
    assert inside.share([5, 6]) == 3 / 5
    assert inside.share([]) == 1
    assert inside.share([11]) == 0.1, "of what never was half a token"


def test_tokens_are_spelled_in_pieces_or_by_their_first() -> None:
    student, teacher = byte_level(300), byte_level(400)
    us, them = token_bytes(student, 300), token_bytes(teacher, 400)
    mapping = piece_map(them, us, student)
    table = piece_table(them, us, student, mapping)
    assert table[:, 0].tolist() == mapping.tolist()
    several = 0
    for part, row in zip(them, table.tolist(), strict=True):
        path = [piece for piece in row if piece >= 0]
        if part and path:
            assert b"".join(us[piece] or b"" for piece in path) == part
            several += len(path) > 1
    assert several > 20


def test_a_teacher_with_longer_tokens_is_heard_almost_everywhere(tmp_path: Path) -> None:
    """And its predictions at sub-token positions are what all its tokens give, taken one by one."""
    story = "the cat sat on the mat, and the dogs ran to the river. "
    models = []
    for name, tokenizer in (("student", byte_level(300)), ("teacher", byte_level(400))):
        tiny_model("llama", 0, vocab_size=400).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        models.append(load(tmp_path / name, device="cpu"))
    student, teacher = models
    said = split_texts([story], [each.tokenizer for each in models], 128)
    ours = tokenize_texts(said, student.tokenizer, 128, 400)
    arguments = (student, ours, teacher, said, 128, 400)
    plain = predict(*arguments, tmp_path / "store", MatchConfig(inside=False))
    found = predict(*arguments, tmp_path / "store", MatchConfig())
    assert plain.coverage < 0.7 < found.coverage
    assert found.depths is not None
    assert isinstance(found.sub_tokens, SubTokens)
    top, base = aligned_topk(found, ours, 0, 1, 400), aligned_topk(plain, ours, 0, 1, 400)
    behind = found.depths[0]
    assert torch.equal(top.ids[behind == 0], base.ids[behind == 0])

    everything = between(found.store, 0, 1)
    place = int(np.flatnonzero((behind == 1) & (found.rows[0] >= 0))[0])
    whole = everything[torch.tensor([int(found.rows[0][place])])]
    piece = int(ours.cuts[0].ids[ours.positions[0][place]])
    sums: Counter[int] = Counter()
    for token, logprob in zip(whole.ids[0].tolist(), whole.logprobs[0].tolist(), strict=True):
        path = [each for each in found.sub_tokens.table[token].tolist() if each >= 0]
        if path[:1] == [piece]:
            sums[path[1] if len(path) > 1 else -1] += math.exp(logprob)
    total = sum(sums.values())
    wanted = {key: value / total for key, value in sums.items() if key >= 0}
    pairs = dict(zip(top.ids[place].tolist(), top.logprobs[place].exp().tolist(), strict=True))
    assert {key: value for key, value in pairs.items() if value > 0} == pytest.approx(wanted, rel=1e-3)


def test_a_tokenizer_of_the_same_pieces_has_no_inside(tmp_path: Path) -> None:
    """The control: where nothing is inside, nothing changes."""
    for name in ("a", "b"):
        tiny_model("llama", 0, vocab_size=300).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    student, teacher = load(tmp_path / "a", device="cpu"), load(tmp_path / "b", device="cpu")
    said = split_texts(["the cat sat"], [student.tokenizer], 64)
    ours = tokenize_texts(said, student.tokenizer, 64, 300)
    found = predict(student, ours, teacher, said, 64, 5, tmp_path / "store", MatchConfig())
    assert found.sub_tokens is None
