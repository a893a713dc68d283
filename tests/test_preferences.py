"""Preferences: every shape is read, what teaches nothing is left out and counted, no prompt is on both sides."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from remodeler.alignment.preferences import Triple, compared, read_preferences, split
from remodeler.alignment.shapes import Ranked
from remodeler.errors import InputError

TRIPLE = Triple("why?", "because", "dunno")
TURN = {"role": "user", "content": "why?"}
SHAPED: dict[str, Any] = {
    "pairs": {"prompt": "why?", "chosen": "because", "rejected": "dunno"},
    "messages": {
        "prompt": "why?",
        "chosen": [TURN, {"role": "assistant", "content": "because"}],
        "rejected": [TURN, {"role": "assistant", "content": "dunno"}],
        "score_chosen": 8.0,
    },
    "messages without a prompt": {
        "chosen": [TURN, {"role": "assistant", "content": "because"}],
        "rejected": [TURN, {"role": "assistant", "content": "dunno"}],
    },
    "prompt as messages": {"prompt": [TURN], "chosen": "because", "rejected": "dunno"},
    "conversations": {
        "conversations": [{"from": "human", "value": "why?"}],
        "chosen": {"from": "gpt", "value": "because"},
        "rejected": {"from": "gpt", "value": "dunno"},
    },
    "Nectar": {
        "prompt": "\n\nHuman: why?\n\nAssistant: ",
        "answers": [{"answer": "dunno", "rank": 2.0}, {"answer": "because", "rank": 1.0}],
    },
    "UltraFeedback": {
        "instruction": "why?",
        "completions": [{"response": "dunno", "overall_score": 3.0}, {"response": "because", "overall_score": 7.5}],
    },
    "corrections": {"question": "why?", "answer": "dunno", "correction": "because"},
    "revised outputs": {"instruction": "why?", "original_output": "dunno", "output": "because", "generator": "x"},
    "transcripts": {
        "chosen": "\n\nHuman: why?\n\nAssistant: because",
        "rejected": "\n\nHuman: why?\n\nAssistant: dunno",
    },
}


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("row", SHAPED.values(), ids=list(SHAPED))
def test_every_shape_is_read_as_the_same_triple(row: dict[str, Any], tmp_path: Path) -> None:
    assert read_preferences(written(tmp_path / "rows.jsonl", [row])) == ([TRIPLE], Counter())


def test_json_and_parquet_hold_what_json_lines_hold(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([SHAPED["pairs"]]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([SHAPED["messages"]]), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        assert read_preferences(str(tmp_path / name))[0] == [TRIPLE]


def test_several_turns_become_one_prompt_with_speakers(tmp_path: Path) -> None:
    talk = [TURN, {"role": "assistant", "content": "what?"}, {"role": "user", "content": "that"}]
    row = {"prompt": talk, "chosen": "because", "rejected": "dunno"}
    found = read_preferences(written(tmp_path / "rows.jsonl", [row]))[0]
    assert found[0].prompt == "User: why?\n\nAssistant: what?\n\nUser: that"


def test_what_teaches_nothing_is_counted_by_its_reason(tmp_path: Path) -> None:
    rows = [
        SHAPED["pairs"],
        SHAPED["pairs"],
        SHAPED["pairs"] | {"chosen": " "},
        SHAPED["pairs"] | {"chosen": "dunno"},
        SHAPED["pairs"] | {"chosen": None},
        SHAPED["UltraFeedback"] | {"completions": [{"response": "a", "overall_score": 1.0}] * 2},
    ]
    found, dropped = read_preferences(written(tmp_path / "rows.jsonl", rows))
    assert found == [TRIPLE]
    assert dropped == {
        "repeated": 1,
        "an empty side": 1,
        "both sides the same": 1,
        "a row without a prompt and two texts": 1,
        "no better answer": 1,
    }


def test_the_best_answer_meets_the_others_the_worst_first() -> None:
    row = Ranked("p", (("c", 3.0), ("a", 9.0), ("b", 8.5), ("d", 1.0)))
    assert [each.rejected for each in compared(row, None, 0.0, Counter())] == ["d", "c", "b"]
    assert [each.rejected for each in compared(row, 1, 0.0, Counter())] == ["d"]
    assert [each.rejected for each in compared(row, None, 1.0, Counter())] == ["d", "c"]
    assert {each.chosen for each in compared(row, None, 0.0, Counter())} == {"a"}


def test_no_prompt_is_on_both_sides_and_other_prompts_do_not_change_the_order() -> None:
    triples = [Triple(f"p{n // 3}", f"good {n}", f"bad {n}") for n in range(60)]
    train, heldout = split(triples, 0.2, 42)
    assert {each.prompt for each in train}.isdisjoint(each.prompt for each in heldout)
    assert len({each.prompt for each in heldout}) == 4
    assert sorted([*train, *heldout], key=str) == sorted(triples, key=str)
    assert split(triples, 0.2, 43)[1] != heldout
    assert len(split(triples[:6], 0.01, 0)[1]) == 3, "at least one prompt is held out"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"a": 1}], "row 1 of .* has a: one of these was expected"),
        (["text"], "row 1 of .* has text: one of these"),
        ([SHAPED["pairs"] | {"chosen": ""}], "no usable preference .left out: 1 .an empty side"),
        ([], "holds no usable preference .left out: nothing"),
    ],
)
def test_what_is_refused(rows: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_preferences(written(tmp_path / "rows.jsonl", rows))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(SHAPED["pairs"]) + "\n{broken\n")
    with pytest.raises(InputError, match=r"row 2 of .* is not valid JSON"):
        read_preferences(str(path))


def test_one_prompt_can_not_be_split() -> None:
    with pytest.raises(InputError, match="1 prompt: at least 2 are needed"):
        split([TRIPLE], 0.1, 0)
    with pytest.raises(InputError, match="held-out share of 1"):
        split([TRIPLE], 1.0, 0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"),
    [("preference/dpo_en_demo.json", 300), ("alpaca_eval/aligner-2b_gpt-4-turbo_model_outputs.json", 805)],
)
def test_real_files_are_read(name: str, count: int, shared: Path) -> None:
    found, dropped = read_preferences(str(shared / "data" / name))
    assert len(found) + sum(dropped.values()) == count
    assert len(found) > 0.9 * count
