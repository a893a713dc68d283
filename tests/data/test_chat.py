"""Chat messages: every usual form gives the same turns, and what is no conversation says why."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remodeler.alignment.data.prompts import read_prompts, read_responses
from remodeler.alignment.data.shapes import SHAPES
from remodeler.data.chat import BadRow, Turn, text_of
from remodeler.data.conversations import (
    as_prompt,
    conversation_of,
    learned_from,
    question,
    require_answer,
    system_in_user,
)
from remodeler.data.prompts import asks
from remodeler.errors import InputError, LeftOut, count_reasons

ASKED, SAID = Turn("user", "Which river?"), Turn("assistant", "The Rhine.")
USER = {"role": "user", "content": "Which river?"}
ANSWER = {"role": "assistant", "content": "The Rhine."}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


SAME: dict[str, Any] = {
    "messages": {"messages": [USER, ANSWER]},
    "ShareGPT": {
        "id": "identity_7",
        "conversations": [{"from": "human", "value": "Which river?"}, {"from": "gpt", "value": "The Rhine."}],
    },
    "content in parts": {
        "messages": [
            {"role": "user", "content": parts("Which ", "river?")},
            {"role": "assistant", "content": parts("The ", "Rhine", ".")},
        ]
    },
    "parts as a table has them": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Which river?", "image_url": None}], "name": None},
            ANSWER | {"tool_calls": [], "function_call": None},
        ]
    },
    "JSON text": {"messages": json.dumps([USER, ANSWER])},
    "null beside": {"conversations": None, "messages": [USER, ANSWER], "tools": "[]", "images": []},
    "names and figures of its own": {"messages": [USER | {"name": "Ada", "id": 3}, ANSWER | {"score": 0.5}]},
}


@pytest.mark.parametrize("row", SAME.values(), ids=list(SAME))
def test_every_form_gives_the_same_turns(row: dict[str, Any]) -> None:
    assert require_answer(conversation_of(row)) == (ASKED, SAID)


def said(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


NONE: dict[str, tuple[Any, str]] = {
    "content null": (said(USER, ANSWER | {"content": None}), "content is null"),
    "a refusal": (said(USER, {"role": "assistant", "content": None, "refusal": "I can't"}), "content is null"),
    "no content": (said(USER, {"role": "assistant"}), "it has role, no content"),
    "Gemini's parts": (said({"role": "user", "parts": [{"text": "x"}]}, ANSWER), "it has role, parts, no content"),
    "ChatGPT's parts": (said(USER | {"content": {"content_type": "text", "parts": ["x"]}}, ANSWER), "no content"),
    "two conversations": (said(USER, ANSWER, conversations=[USER | {"content": "x"}, ANSWER]), "that differ"),
    "names twice in a text": ({"messages": '[{"role": "user", "content": "a", "content": "b"}]'}, "not JSON"),
    "a call in an object": (said(USER, ANSWER | {"function_call": {"name": "f", "arguments": None}}), "tool call"),
    "no parts": (said(USER, ANSWER | {"content": []}), "empty list"),
    "a call with null": (said(USER, ANSWER | {"content": None, "tool_calls": [{"id": "c1"}]}), "tool call"),
    "a call beside a text": (said(USER, ANSWER | {"tool_calls": [{"id": "c1"}]}), "tool call"),
    "a tool's result": (said(USER, {"role": "tool", "content": "42"}, ANSWER), "tool call"),
    "ShareGPT's call": (said({"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}), "tool call"),
    "tools of the row": (said(USER, ANSWER, tools=[{"name": "search"}]), "tools that may be called"),
    "an image": (said({"role": "user", "content": [{"type": "image"}, *parts("x")]}, ANSWER), "type 'image'"),
    "a picture's address": (
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, ANSWER),
        "image_url",
    ),
    "images of the row": (said(USER, ANSWER, images=["a.png"]), "images beside"),
    "sound": (said({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, ANSWER), "input_audio"),
    "reasoning": (said(USER, ANSWER | {"reasoning_content": "First,"}), "reasoning beside"),
    "a blank answer": (said(USER, ANSWER | {"content": " \n"}), "an empty answer"),
    "a blank question": (said(USER | {"content": ""}, ANSWER), "an empty turn of the user"),
    "a number": (said(USER | {"content": 7}, ANSWER), "a number where a text"),
    "a number as a part": (said(USER | {"content": [7]}, ANSWER), "a number where a part"),
    "another role": (said({"role": "narrator", "content": "x"}, ANSWER), "'narrator'"),
    "no role": (said({"content": "x"}, ANSWER), "without a role"),
    "two roles": (said({"role": "user", "from": "gpt", "value": "x"}, ANSWER), "two different roles"),
    "two texts": (said(USER | {"value": "other"}, ANSWER), "two different texts"),
    "nobody answers": (said(USER), "nobody answers"),
    "the assistant first": (said(ANSWER, USER, ANSWER), "the assistant speaks first"),
    "nothing to learn": (said(USER, ANSWER | {"weight": 0}), "weight 0"),
    "half a weight": (said(USER, ANSWER | {"weight": 0.5}), "weight of 0.5"),
    "no messages": ({"text": "a story"}, "no messages"),
    "a transcript": ({"conversation": "A: x"}, "no messages"),
    "details of reasoning": (said(USER, ANSWER | {"reasoning_details": [{"text": "x"}]}), "reasoning beside"),
    "empty": (said(), "an empty conversation"),
    "a text": ({"messages": "hello"}, "a text where messages"),
    "text of another language": ({"messages": str([USER, ANSWER])}, "not JSON"),
    "one message": ({"messages": USER}, "an object where messages"),
    "nested": (said([USER, ANSWER]), "a list where a message"),
    "half a pair": (said(USER | {"content": "\ud83d"}, ANSWER), "not UTF-8"),
    "two systems": (said({"role": "system", "content": "A"}, USER, ANSWER, system="B"), "two different system"),
    "no object": (["x"], "an object with messages"),
}


@pytest.mark.parametrize(("row", "reason"), NONE.values(), ids=list(NONE))
def test_what_is_no_conversation_says_why(row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        require_answer(conversation_of(row))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (said(USER, ANSWER, label=False), "marked as a bad one"),
        (said(USER, ANSWER, kto_tag=False), "marked as a bad one"),
        (said(USER, ANSWER, USER, chosen=ANSWER, rejected=ANSWER), "a chosen answer beside"),
        (said(USER, ANSWER, documents=[{"text": "x"}]), "documents beside"),
        (said(USER, ANSWER | {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}), "not to be"),
    ],
)
def test_what_is_not_to_be_learned_is_left_out(row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        learned_from(row)


@pytest.mark.parametrize("more", [{"label": True}, {"label": 0}, {"label": None}, {"chosen": [USER, ANSWER]}])
def test_other_marks_of_a_row_change_nothing(more: dict[str, Any]) -> None:
    assert learned_from(said(USER, ANSWER, **more)) == (ASKED, SAID)


def test_what_holds_nothing_is_as_good_as_absent() -> None:
    """Arrow gives every row all names of all rows, with null in them."""
    part = {"type": None, "text": "Which river?", "image_url": {"url": None, "detail": ""}}
    empty = {"tool_calls": [], "function_call": {"name": None, "arguments": None}, "image": {"bytes": None}}
    row = said(USER | {"content": [part]} | empty, ANSWER | empty | {"reasoning_content": None}, tools=[], images=None)
    assert conversation_of(row) == (ASKED, SAID)


def test_answers_of_weight_0_are_turns_that_are_not_learned() -> None:
    turns = conversation_of(said(USER, ANSWER | {"weight": 0}, USER, ANSWER | {"weight": 1}))
    assert [turn.learned for turn in turns] == [True, False, True, True]
    assert conversation_of(said(USER, ANSWER | {"train": False}))[1] == Turn("assistant", "The Rhine.", False)


def test_a_system_prompt_beside_the_messages_is_the_first_turn() -> None:
    system = Turn("system", "Be short.")
    assert conversation_of(said(USER, ANSWER, system="Be short.")) == (system, ASKED, SAID)
    told = {"role": "developer", "content": "Be short."}
    assert conversation_of(said(told, USER, ANSWER, system_prompt="Be short.")) == (system, ASKED, SAID)


def test_a_system_prompt_moves_into_the_first_question() -> None:
    moved = system_in_user((Turn("system", "Be short."), ASKED, SAID, ASKED))
    assert moved == (Turn("user", "Be short.\n\nWhich river?"), SAID, ASKED)


# What a row asks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (said(USER), "Which river?"),
        (said(USER, ANSWER), "Which river?"),
        (
            {"conversations": [{"from": "human", "value": "Which river?"}, {"from": "gpt", "value": "x"}]},
            "Which river?",
        ),
        (said(USER, ANSWER, USER, ANSWER), "User: Which river?\n\nAssistant: The Rhine.\n\nUser: Which river?"),
        ({"prompt": [{"role": "user", "content": parts("Which ", "river?")}]}, "Which river?"),
        ({"prompt": parts("Which ", "river?")}, "Which river?"),
        ({"prompt": json.dumps([USER])}, "Which river?"),
        ({"instruction": "Translate.", "input": "river"}, "Translate.\nriver"),
        ({"instruction": "Translate.", "input": ""}, "Translate."),
        ({"system_prompt": "Be short.", "question": "Which river?"}, "System: Be short.\n\nUser: Which river?"),
        ({"turns": [USER, ANSWER, USER]}, "User: Which river?\n\nAssistant: The Rhine.\n\nUser: Which river?"),
        ({"turns": ["Which river?", "And why?"]}, "Which river?"),
        ({"prompt": "", "messages": [USER]}, "Which river?"),
        (said(USER, ANSWER, conversations=[{"from": "human", "value": "Which river?"}, ANSWER]), "Which river?"),
        (said(conversations=[USER]), "Which river?"),
        ({"conversation": [USER, ANSWER], "conversation_id": "x", "model": "m"}, "Which river?"),
        ({"conversation": json.dumps([USER, ANSWER])}, "Which river?"),
        ({"conversation": "A: x", "text": "Which river?"}, "Which river?"),
        ({"prompt": ["Which river?"]}, "Which river?"),
        ({"instruction": "", "input": "Which river?"}, "Which river?"),
        (said({"role": "system", "content": ""}, USER), "Which river?"),
        ({"prompt": {"type": "text", "text": "Which river?"}}, "Which river?"),
        ({"prompt": json.dumps([{"id": 1, "role": "user", "content": "Which river?"}])}, "Which river?"),
        ({"prompt": '[{"role": "admin"}]'}, '[{"role": "admin"}]'),
        ({"prompt": json.dumps(USER)}, "Which river?"),
        ({"prompt": '{"role": "admin"}'}, '{"role": "admin"}'),
        ({"prompt": "{role}, which river?"}, "{role}, which river?"),
        ({"prompt": "Which river?", "system_message": "Be short."}, "System: Be short.\n\nUser: Which river?"),
        ({"question": "Which river?", "context": "Bonn."}, "Which river?\nBonn."),
        ({"text": "Which river?", "role": "prompter"}, "Which river?"),
        ({"text": "Which river?", "role": 3}, "Which river?"),
        ("Which river?", "Which river?"),
    ],
)
def test_what_a_row_asks(row: Any, prompt: str) -> None:
    assert asks(row) == prompt


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": 2}, "nothing is asked"),
        ({"prompt": [USER, ANSWER]}, "ends in a turn of the assistant"),
        (said(ANSWER), "no turn of the user"),
        (said(USER, {"role": "system", "content": "x"}), "behind the last question"),
        ({"turns": "Which river?"}, "a text where turns"),
        ({"turns": []}, "no turns"),
        ({"prompt": ["Which river?", "And why?"]}, "a list of texts where one"),
        ({"prompt": "x", "history": [["a", "b"]]}, "a history beside the prompt"),
        ({"question": "x", "context": {"title": ["a"]}}, "an object as the context of the question"),
        ({"instruction": "x", "input": ["a", "b"]}, "a list as the input of the instruction"),
        ({"question": "x", "history": [["a", "b"]]}, "a history beside the question"),
        ({"text": "The Rhine.", "role": "assistant"}, "a message of the 'assistant', no prompt"),
        (said(USER, conversations=[USER | {"content": "x"}]), "that differ"),
        ({"instruction": "x", "history": [["a", "b"]]}, "a history"),
        ({"prompt": "What is that?", "image": "a.png"}, "image beside"),
        ({"prompt": ANSWER}, "ends in a turn of the assistant"),
        ("\udc00", "not UTF-8"),
        (7, "nothing is asked"),
    ],
)
def test_rows_that_ask_nothing_say_why(row: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        asks(row)


def test_what_is_asked_of_a_conversation_ends_with_the_last_question() -> None:
    assert question((ASKED, SAID, ASKED, SAID)) == (ASKED, SAID, ASKED)
    assert as_prompt((ASKED,)) == "Which river?"


# Files ----------------------------------------------------------------------------------------------------------------


def file_of(path: Any, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_that_ask_nothing_are_left_out_and_counted(tmp_path: Any) -> None:
    bad = said(USER | {"content": None})
    dropped = LeftOut()
    assert read_prompts(
        file_of(tmp_path / "p.jsonl", said(USER), bad, bad, {"x": 1}, {"prompt": " "}), None, dropped
    ) == ["Which river?"]
    assert dropped == {"a message without text (its content is null)": 2, "nothing is asked": 1, "an empty prompt": 1}
    told = "2 (a message without text (its content is null); row 2 first), 1 (an empty prompt; row 5), "
    told += "1 (nothing is asked; row 4)"
    assert count_reasons(dropped) == told
    with pytest.raises(InputError, match=r"has no prompts .left out: 1 .a message without text"):
        read_prompts(file_of(tmp_path / "q.jsonl", bad))


def test_responses_are_the_last_answer_where_none_stands_beside(tmp_path: Any) -> None:
    rows = [
        {"prompt": "Which river?", **said(USER, ANSWER, {"role": "user", "content": "Sure?"}, ANSWER)},
        said(USER),
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": "Which river?", "response": [USER, ANSWER]},
        said(USER, ANSWER, ANSWER),
        {"question": "Which river?", "answer": ["Rhine", "The Rhine"]},
        {"prompt": " ", "response": "The Rhine."},
    ]
    dropped = LeftOut()
    found = read_responses(file_of(tmp_path / "r.jsonl", *rows), dropped)
    assert [(each.row, each.response) for each in found] == [(0, "The Rhine."), (2, "The Rhine.")]
    assert found[0].prompt == "User: Which river?\n\nAssistant: The Rhine.\n\nUser: Sure?"
    assert sum(dropped.values()) == 5
    assert dropped["no response (a list of texts where one was expected)"] == 1
    assert dropped["no prompt (nothing is asked)"] == 1
    assert dropped["no response (an answer behind a turn of the assistant)"] == 1


def test_reasons_are_told_the_commonest_first() -> None:
    dropped = LeftOut()
    for row, reason in enumerate(["a", "b", "b", "c", "d"], 1):
        dropped.add(reason, row)
    assert count_reasons(dropped) == "1 (a; row 1), 2 (b; row 2 first), 1 (c; row 4), 1 (d; row 5)"
    assert count_reasons(dropped, 2) == "2 (b; row 2 first), 1 (a; row 1), 2 (for other reasons)"
    assert count_reasons({}) == "nothing"


# Anything at all ------------------------------------------------------------------------------------------------------

QUICK = settings(max_examples=250, deadline=None, derandomize=True)
KEYS = st.sampled_from(
    [
        *("role", "from", "content", "value", "text", "type", "name", "weight", "train", "tool_calls", "image_url"),
        *("prompt", "chosen", "rejected", "messages", "conversations", "turns", "instruction", "input", "system"),
        *("completions", "answers", "answer", "rank", "response", "overall_score", "score_chosen", "score_rejected"),
        *("question", "correction", "original_output", "output", "history"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["user", "assistant", "gpt", "human", "system", "text", "tool", "hello", "", " ", "\ud800"])
    | st.sampled_from(["\n\nHuman: a\n\nAssistant: b", "Human:", "\n\nAssistant:", '[{"role":', '[{"from": "gpt"}]'])
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": LEAVES, "content": JSON}) | JSON, max_size=4)


def counts_or_reads(read: Any, row: Any) -> None:
    """Anything but an answer or a reason is a traceback in front of a user."""
    told = "read"
    try:
        read(row)
    except BadRow as reason:
        told = str(reason)
    assert told
    assert "\n" not in told


@QUICK
@given(row=JSON | st.fixed_dictionaries({"messages": MESSAGES}))
def test_any_row_is_a_conversation_or_says_why_not(row: Any) -> None:
    counts_or_reads(lambda row: require_answer(conversation_of(row)), row)
    counts_or_reads(asks, row)
    counts_or_reads(text_of, row)


SIDES = JSON | MESSAGES
SHAPED = {
    name: st.fixed_dictionaries({key: SIDES for key in keys}, optional={"score_chosen": LEAVES, "system": JSON})
    for name, (keys, _) in SHAPES.items()
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_preference_is_read_or_says_why_not(shape: str, data: st.DataObject) -> None:
    counts_or_reads(SHAPES[shape][1], data.draw(SHAPED[shape]))
