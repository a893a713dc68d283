"""Chat templates: what they refuse is said in their words, what they leave out is noticed, answers are found."""

import copy
from typing import Any

import pytest

from remodeler.data.chat import ASSISTANT, SYSTEM, USER, BadRow, Talk, Turn
from remodeler.data.chat_templates import PLAIN, answer_spans, asked_in_chat, rendered_turns, template_of
from remodeler.data.windows import windows
from remodeler.errors import InputError
from tiny import tiny_tokenizer

TALK = (Turn(USER, "which river?"), Turn(ASSISTANT, "the rhine"))
TOLD = (Turn(SYSTEM, "be short"), *TALK)
LONG = (*TALK, Turn(USER, "sure?"), Turn(ASSISTANT, "yes"))
EACH = "{% for m in messages %}"
OPEN = "{% if add_generation_prompt %}[assistant]{% endif %}"
PLAINLY = EACH + "[{{ m.role }}]{{ m.content }};{% endfor %}"
NO_SYSTEM = (
    EACH + "{% if m.role == 'system' %}{{ raise_exception('No system here') }}{% endif %}" + PLAINLY[len(EACH) :]
)
IN_TURNS = (
    EACH
    + "{% if (m.role == 'user') != (loop.index0 is even) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    + "{{ m.content }};{% endfor %}"
)


@pytest.fixture(scope="module")
def bare() -> Any:
    return tiny_tokenizer()


def having(bare: Any, template: Any) -> Any:
    """A tokenizer with a template."""
    found = copy.copy(bare)
    found.chat_template, found.name_or_path = template, "models/x"
    return found


def answers(bare: Any, template: str, talk: Talk) -> list[str]:
    """The text that counts of a conversation."""
    tokenizer = having(bare, template)
    own = template_of(tokenizer) or PLAIN
    taken, whole = rendered_turns(tokenizer, talk, own)
    return [whole[start:end] for start, end in answer_spans(tokenizer, taken, own, whole)]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (PLAINLY + OPEN, ["the rhine;", "yes;"]),
        (PLAINLY, ["the rhine;", "yes;"]),
        (IN_TURNS, ["the rhine;", "yes;"]),
        (EACH + "[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}" + OPEN, ["the rhine\n", "yes\n"]),
        (
            EACH + "[{{ m.role }}]{% generation %}{{ m.content }};{% endgeneration %}{% endfor %}",
            ["the rhine;", "yes;"],
        ),
        ({"default": PLAINLY, "tool_use": "x"}, ["the rhine;", "yes;"]),
        (None, ["the rhine\n\n", "yes\n\n"]),
    ],
)
def test_answers_count_from_their_first_letter_to_what_ends_them(bare: Any, template: Any, found: list[str]) -> None:
    """Also where a template does not write where an answer begins: the speaker's mark is not the answer."""
    assert answers(bare, template, LONG) == found
    unlearned = (*LONG[:1], Turn(ASSISTANT, "the rhine", learned=False), *LONG[2:])
    assert answers(bare, template, unlearned) == found[1:]


def test_answers_are_found_where_a_template_writes_the_last_turn_otherwise(bare: Any) -> None:
    """As those of models that reason: a mark before the last answer only, and one where an answer is asked for."""
    thinks = EACH + "[{{ m.role }}]{{ '<t></t>' if m.role == 'assistant' and loop.last }}{{ m.content }};{% endfor %}"
    assert answers(bare, thinks + OPEN, LONG) == ["the rhine;", "<t></t>yes;"]
    assert answers(bare, PLAINLY + "{% if add_generation_prompt %}[assistant]<t>{% endif %}", LONG) == [
        "the rhine;",
        "yes;",
    ]
    ends = EACH + "[{{ m.role }}]{{ m.content }}{{ '.' if loop.last }}{% endfor %}"
    assert answers(bare, ends, TALK) == ["the rhine."]


def test_an_answer_of_one_letter_is_not_looked_for_in_the_marks(bare: Any) -> None:
    assert answers(bare, PLAINLY, (Turn(USER, "a"), Turn(ASSISTANT, "a"), Turn(USER, "s"), Turn(ASSISTANT, ";"))) == [
        "a;",
        ";;",
    ]


@pytest.mark.parametrize(
    "template", [NO_SYSTEM, IN_TURNS, EACH + "{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"]
)
def test_a_system_prompt_that_is_refused_or_left_out_stands_in_the_first_question(bare: Any, template: str) -> None:
    taken, whole = rendered_turns(having(bare, template), TOLD, template)
    assert taken == (Turn(USER, "be short\n\nwhich river?"), TALK[1])
    assert "be short\n\nwhich river?" in whole
    kept, whole = rendered_turns(having(bare, PLAINLY), TOLD, PLAINLY)
    assert kept == TOLD
    assert whole.startswith("[system]be short;")


@pytest.mark.parametrize(
    ("template", "talk", "reason"),
    [
        (IN_TURNS, (TALK[0], *TALK), "refuses it: Roles must alternate"),
        (IN_TURNS, (TOLD[0], TALK[0], *TALK), "refuses it: Roles must alternate"),
        ("{{ nobody.knows }}", TALK, "refuses it: 'nobody' is undefined"),
        ("{{ 'a' + 1 }}", TALK, "refuses it: can only concatenate"),
        ("{{ ''.__class__.__mro__ }}", TALK, "refuses it: access to attribute"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", TALK, "refuses it: Range too big"),
        ("{{ tools[0].name }}", TALK, "refuses it"),
        ("{% include 'other' %}", TALK, "refuses it"),
        (" ", TALK, "leaves out or changes a turn of the user"),
        (EACH + "{{ m.content | upper }}{% endfor %}", TALK, "leaves out or changes a turn of the user"),
        (
            EACH + "{{ m.content if m.role == 'user' }}{% endfor %}",
            TALK,
            "leaves out or changes a turn of the assistant",
        ),
        (EACH + "{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}", TALK, "leaves out or changes"),
        (
            EACH + "{{ m.content }}{{ '.' if loop.last }}{% endfor %}",
            LONG,
            "writes a turn otherwise once others follow",
        ),
    ],
)
def test_what_a_template_does_not_take_says_why(bare: Any, template: str, talk: Talk, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        answers(bare, template, talk)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m.content }", "of models/x is broken .line 1: unexpected"),
        ("\n{{ messages | sing }}", "of models/x is broken .line 2: No filter named 'sing'"),
        ({"rag": "x", "tool_use": "y"}, "the chat templates rag, tool_use and no default"),
    ],
)
def test_a_template_that_is_none_is_refused_at_once(bare: Any, template: Any, words: str) -> None:
    for ask in (lambda: answers(bare, template, TALK), lambda: asked_in_chat(having(bare, template), "x", "why?")):
        with pytest.raises(InputError, match=words):
            ask()


def test_a_template_that_writes_the_date_writes_the_same_every_day(bare: Any) -> None:
    told = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    assert asked_in_chat(having(bare, told + "{{ date_string }}" + PLAINLY), "x", "why?") == "26 Jul 2024[user]why?;"
    assert (
        asked_in_chat(having(bare, "{{ strftime_now('%Y-%m-%d') }}" + PLAINLY), "x", "why?") == "2024-07-26[user]why?;"
    )


def test_a_prompt_that_the_template_refuses_is_named_with_its_words(bare: Any) -> None:
    refuses = "{{ raise_exception('Only tools speak here') }}"
    with pytest.raises(InputError, match=r"the prompt 'why\?' can't be asked of x with `chat` .*Only tools speak here"):
        asked_in_chat(having(bare, refuses), "x", "why?")
    with pytest.raises(InputError, match="has no chat template: leave out `chat`"):
        asked_in_chat(having(bare, None), "x", "why?")


def test_what_a_tokenizer_raises_is_one_sentence() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"the": 0, "end": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="end", name_or_path="models/x")
    with pytest.raises(InputError, match=r"the tokenizer of models/x can't read a text .*\[UNK\]"):
        windows(["the dog"], tokenizer, 8)
