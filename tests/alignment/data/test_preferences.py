"""Preferences: every shape is read, what teaches nothing is left out and counted, no prompt is on both sides."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remodeler.alignment.config import PreferenceConfig
from remodeler.alignment.data.preferences import Triple, pair_answers, read_preferences, split_prompts
from remodeler.alignment.data.shapes import SHAPES, RankedAnswers, read_pairs
from remodeler.data.chat import BadRow
from remodeler.errors import InputError, count_reasons

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
    "parts": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "wh"}, {"type": "text", "text": "y?"}]}],
        "chosen": [
            {"role": "assistant", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "cause"}]}
        ],
        "rejected": [{"role": "assistant", "content": "dunno"}],
    },
    "messages as JSON text": {
        "chosen": json.dumps([TURN, {"role": "assistant", "content": "because"}]),
        "rejected": json.dumps([TURN, {"role": "assistant", "content": "dunno"}]),
    },
    "a question under another name": {"question": "why?", "chosen": "because", "rejected": "dunno"},
    "a lone answer beside a conversation": {
        "chosen": [TURN, {"role": "assistant", "content": "because"}],
        "rejected": {"role": "assistant", "content": "dunno"},
    },
    "a transcript and its answers": {
        "prompt": "\n\nHuman: why?\n\nAssistant:",
        "chosen": " because",
        "rejected": " dunno",
    },
    "a transcript in each": {
        "prompt": "\n\nHuman: why?\n\nAssistant:",
        "chosen": "\n\nHuman: why?\n\nAssistant: because",
        "rejected": "\n\nHuman: why?\n\nAssistant: dunno",
    },
    "scores as texts": {
        "instruction": "why?",
        "completions": [{"response": "dunno", "overall_score": "3"}, {"response": "because", "overall_score": "7.5"}],
    },
    "one score unknown": {
        "prompt": "why?",
        "chosen": "because",
        "rejected": "dunno",
        "score_chosen": None,
        "score_rejected": 9.0,
    },
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


def talk(*texts: str, first: str = "user") -> list[dict[str, str]]:
    """Turns of two speakers."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be kind."}
NO_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": ({"chosen": talk("why?", "because"), "rejected": talk("why?")}, "an empty side"),
    "a question behind the answer": (
        {"chosen": talk("why?", "because"), "rejected": talk("why?", "dunno", "what?")},
        "an empty side",
    ),
    "a blank answer": ({"chosen": talk("why?", "because"), "rejected": talk("why?", " ")}, "an empty side"),
    "the user's words as an answer": (
        {
            "conversations": talk("why?"),
            "chosen": {"from": "gpt", "value": "x"},
            "rejected": {"from": "human", "value": "y"},
        },
        "an empty side",
    ),
    "another prompt": (
        {"chosen": talk("why?", "because"), "rejected": talk("how?", "dunno")},
        "two conversations that do not begin alike",
    ),
    "other turns before": (
        {"chosen": talk("why?", "what?", "that", "because"), "rejected": talk("why?", "who?", "that", "dunno")},
        "two conversations that do not begin alike",
    ),
    "a system prompt on one side": (
        {"chosen": [SYSTEM, *talk("why?", "because")], "rejected": talk("why?", "dunno")},
        "two conversations that do not begin alike",
    ),
    "not the row's prompt": (
        {"prompt": "how?", "chosen": talk("why?", "because"), "rejected": talk("why?", "dunno")},
        "an answer to another prompt than the row's",
    ),
    "the prompt in both answers": (
        {"prompt": "why?", "chosen": "why? because", "rejected": "why? dunno"},
        "answers that begin with their prompt",
    ),
    "a prompt that has its answer": (
        {"conversations": talk("why?", "x"), "chosen": "because", "rejected": "dunno"},
        "a prompt that ends in a turn of the assistant",
    ),
    "transcripts of two questions": (
        {"chosen": "\n\nHuman: why?\n\nAssistant: because", "rejected": "\n\nHuman: how?\n\nAssistant: dunno"},
        "two conversations that do not begin alike",
    ),
    "a transcript that goes on": (
        {
            "chosen": "\n\nHuman: why?\n\nAssistant: because",
            "rejected": "\n\nHuman: why?\n\nAssistant: dunno\n\nHuman: really?\n\nAssistant: so",
        },
        "two conversations that do not begin alike",
    ),
    "a transcript that ends in a question": (
        {"chosen": "\n\nHuman: why?\n\nAssistant: because", "rejected": "\n\nHuman: why?\n\nAssistant: x\n\nHuman: y"},
        "an empty side",
    ),
    "a tie": (SHAPED["pairs"] | {"score_chosen": 4, "score_rejected": 4}, "no better answer"),
    "a worse one chosen": (
        SHAPED["pairs"] | {"chosen_rating": 2, "rejected_rating": 4},
        "a chosen answer with the lower score",
    ),
    "no score": (
        {"instruction": "why?", "completions": [{"response": "a", "overall_score": None}, {"response": "b"}]},
        "an answer without a score that is a number",
    ),
    "one answer": ({"prompt": "why?", "answers": [{"answer": "a", "rank": 1}]}, "fewer than two answers"),
    "equal behind the joining": (
        {
            "prompt": "why?",
            "chosen": "because",
            "rejected": [{"type": "text", "text": each} for each in ("be", "cause")],
        },
        "both sides the same",
    ),
    "a list of answers": (
        {"prompt": "why?", "chosen": ["a", "b"], "rejected": ["c"]},
        "a list of texts where one was expected",
    ),
    "a tool call": (
        {"prompt": "why?", "chosen": {"role": "assistant", "content": None, "tool_calls": [1]}, "rejected": "x"},
        "a tool call or its result",
    ),
    "a row of another kind": (
        {"prompt": "why?", "completion": "x", "label": True},
        "a row without the keys of a preference",
    ),
}


@pytest.mark.parametrize(("row", "reason"), NO_PAIRS.values(), ids=list(NO_PAIRS))
def test_what_is_no_pair_is_left_out_with_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = {"prompt": "another?", "chosen": "yes", "rejected": "no"}
    found, dropped = read_preferences(written(tmp_path / "rows.jsonl", [row, good]))
    assert (found, dropped) == ([Triple("another?", "yes", "no")], {reason: 1})


def test_what_stands_before_an_answer_belongs_to_its_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "why?", "chosen": [SYSTEM, *talk("why?", "a")], "rejected": [SYSTEM, *talk("why?", "b")]},
        {"prompt": talk("why?"), "chosen": talk("what?", "that", "a", first="assistant"), "rejected": talk("b")[:0]},
        {
            "prompt": talk("why?"),
            "chosen": talk("what?", "that", "a", first="assistant"),
            "rejected": talk("what?", "that", "b", first="assistant"),
        },
        {"system": "Be kind.", "instruction": "Say", "input": "why", "chosen": "a", "rejected": "b"},
    ]
    found, dropped = read_preferences(written(tmp_path / "rows.jsonl", rows))
    assert [each.prompt for each in found] == [
        "System: Be kind.\n\nUser: why?",
        "User: why?\n\nAssistant: what?\n\nUser: that",
        "System: Be kind.\n\nUser: Say\nwhy",
    ]
    assert sum(dropped.values()) == 1


def sharegpt(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def in_parts(turns: list[dict[str, str]]) -> list[dict[str, Any]]:
    def cut(text: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text[:1]}, {"type": "text", "text": text[1:]}]

    return [turn | {"content": cut(turn["content"])} for turn in turns]


FORMS: list[Any] = [list, sharegpt, in_parts, json.dumps, lambda turns: json.dumps(sharegpt(turns))]
WORDS = st.text("abc ?", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stem=st.lists(WORDS, min_size=1, max_size=5), answers=st.tuples(WORDS, WORDS), data=st.data())
def test_any_conversation_is_read_exactly_or_not_at_all(
    stem: list[str], answers: tuple[str, str], data: st.DataObject
) -> None:
    """Whatever form each value has; and where the turns before the answers differ, nothing is read."""
    stem = stem if len(stem) % 2 else stem[:-1]
    forms = [data.draw(st.sampled_from(FORMS)) for _ in range(3)]
    whole = {"chosen": forms[0](talk(*stem, answers[0])), "rejected": forms[1](talk(*stem, answers[1]))}
    apart = {
        "prompt": forms[2](talk(*stem)),
        "chosen": forms[0](talk(answers[0], first="assistant")),
        "rejected": forms[1](talk(answers[1], first="assistant")),
    }
    roles = ("User", "Assistant")
    prompt = stem[0] if len(stem) == 1 else "\n\n".join(f"{roles[n % 2]}: {text}" for n, text in enumerate(stem))
    for row in (whole, whole | {"prompt": apart["prompt"]}):
        found = read_pairs(row)
        assert (found.prompt, [text for text, _ in found.answers]) == (prompt, list(answers))
    if not all(answer.lstrip().startswith(stem[-1].strip()) for answer in answers):
        assert read_pairs(apart) == found
    other = [*stem[:-1], stem[-1] + "!"]
    for row in (
        whole | {"rejected": forms[1](talk(*other, answers[1]))},
        whole | {"prompt": forms[2](talk(*other))},
        whole | {"chosen": forms[0](talk(*stem))},
    ):
        with pytest.raises(BadRow):
            read_pairs(row)


def test_a_score_that_is_no_number_says_nothing_of_a_pair() -> None:
    row = SHAPED["pairs"] | {"score_chosen": float("nan"), "score_rejected": 9.0}
    assert [text for text, _ in read_pairs(row).answers] == ["because", "dunno"]
    with pytest.raises(BadRow, match="a score that is a number"):
        SHAPES["scored"][1]({"instruction": "why?", "completions": [{"response": "a", "score": float("nan")}] * 2})


def test_an_answer_that_alone_begins_with_its_prompt_is_one(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Go away"}
    assert read_preferences(written(tmp_path / "rows.jsonl", [row]))[0] == [Triple("Hi", "Hi there", "Go away")]


def test_the_best_answer_meets_the_others_the_worst_first() -> None:
    row = RankedAnswers("p", (("c", 3.0), ("a", 9.0), ("b", 8.5), ("d", 1.0)))
    assert [each.rejected for each in pair_answers(row, None, 0.0)] == ["d", "c", "b"]
    assert [each.rejected for each in pair_answers(row, 1, 0.0)] == ["d"]
    assert [each.rejected for each in pair_answers(row, None, 1.0)] == ["d", "c"]
    assert {each.chosen for each in pair_answers(row, None, 0.0)} == {"a"}


def test_every_reason_has_the_first_of_its_rows(tmp_path: Path) -> None:
    good = {"prompt": "why?", "chosen": "because", "rejected": "dunno"}
    level = {"instruction": "why?", "completions": [{"response": each, "overall_score": 5} for each in "ab"]}
    rows = [good, good, good | {"rejected": " "}, good | {"rejected": "because"}, level, good]
    dropped = read_preferences(written(tmp_path / "rows.jsonl", rows))[1]
    told = "1 (an empty side; row 3), 1 (both sides the same; row 4), 1 (no better answer; row 5), "
    assert count_reasons(dropped) == told + "2 (repeated; row 2 first)"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"prompt": ["why?", "really?"]}, "a list of texts where one was"),
        ({"history": [["a", "b"]]}, "a history beside the prompt"),
        ({"chosen": [{"role": "assistant", "content": "because", "weight": 0}]}, "weight 0"),
        (
            {"prompt": None, "messages": [TURN], "conversations": [{"from": "human", "value": "who?"}]},
            "messages and conversations that differ",
        ),
    ],
)
def test_what_would_be_read_in_part_is_no_pair(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    good = {"prompt": "why?", "chosen": "because", "rejected": "dunno"}
    found, dropped = read_preferences(written(tmp_path / "rows.jsonl", [good, good | more]))
    assert found == [TRIPLE]
    assert reason in count_reasons(dropped)


def test_a_message_as_json_text_is_a_message(tmp_path: Path) -> None:
    sides = {key: json.dumps(SHAPED["messages"][key][-1]) for key in ("chosen", "rejected")}
    row = {"prompt": [], "messages": [TURN]} | sides
    assert read_preferences(written(tmp_path / "rows.jsonl", [row]))[0] == [TRIPLE]


def test_a_question_keeps_what_it_is_about(tmp_path: Path) -> None:
    row = {"question": "why?", "context": "It rains.", "chosen": "because", "rejected": "dunno"}
    found, _ = read_preferences(written(tmp_path / "rows.jsonl", [row]))
    assert found == [Triple("why?\nIt rains.", "because", "dunno")]


def test_no_prompt_is_on_both_sides_and_other_prompts_do_not_change_the_order() -> None:
    triples = [Triple(f"p{n // 3}", f"good {n}", f"bad {n}") for n in range(60)]
    train, heldout = split_prompts(triples, 0.2, 42)
    assert {each.prompt for each in train}.isdisjoint(each.prompt for each in heldout)
    assert len({each.prompt for each in heldout}) == 4
    assert sorted([*train, *heldout], key=str) == sorted(triples, key=str)
    assert split_prompts(triples, 0.2, 43)[1] != heldout
    assert len(split_prompts(triples[:6], 0.01, 0)[1]) == 3, "at least one prompt is held out"


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
        split_prompts([TRIPLE], 0.1, 0)
    with pytest.raises(InputError, match=r"`held_out_share` must be > 0 and < 1 .got 1."):
        PreferenceConfig(preferences="rows.jsonl", held_out_share=1.0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"),
    [("preference/dpo_en_demo.json", 300), ("alpaca_eval/aligner-2b_gpt-4-turbo_model_outputs.json", 805)],
)
def test_real_files_are_read(name: str, count: int, shared: Path) -> None:
    found, dropped = read_preferences(str(shared / "data" / name))
    assert len(found) + sum(dropped.values()) == count
    assert len(found) > 0.9 * count
