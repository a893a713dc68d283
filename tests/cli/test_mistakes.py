"""Words that were typed wrongly: one sentence in our words, with what was meant where that can be guessed."""

import pytest

from commands import invoke


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("prune m --out o --sampels 4", "unknown option --sampels: did you mean --samples? See remodel prune --help"),
        ("prune m --out o --sampels=4", "unknown option --sampels: did you mean --samples? See remodel prune --help"),
        ("prune m --out o --qqqq 4", "unknown option --qqqq: see remodel prune --help"),
        ("prnue m --out o", "unknown verb 'prnue': did you mean prune? See remodel --help"),
        ("--versoin", "unknown option --versoin: did you mean --version? See remodel --help"),
        ("align evolv m", "unknown verb 'evolv': did you mean evolve? See remodel align --help"),
        ("prune m --out o --samples x", "--samples must be a whole number (got 'x'): see remodel prune --help"),
        ("recover m --out o --epochs x", "--epochs must be a number (got 'x'): see remodel recover --help"),
        ("prune m --out o --ratio", "--ratio needs a value: see remodel prune --help"),
        ("prune m", "--out must be given: see remodel prune --help"),
        ("prune --out o", "MODEL must be given: see remodel prune --help"),
        ("prune m --out o --out p", "--out was given twice: see remodel prune --help"),
        ("prune m other --out o", "'other' was not expected: see remodel prune --help"),
        (
            "fuse student --teachers a b --out o",
            "'b' was not expected: repeat --teachers for each value, --teachers a --teachers b: see remodel fuse "
            "--help",
        ),
        (
            "evaluate m --against a b c",
            "'b' was not expected: repeat --against for each value, --against a --against b: see remodel evaluate "
            "--help",
        ),
        (
            "evaluate m --tasks piqa arc_easy",
            "'arc_easy' was not expected: separate the values of --tasks by commas, --tasks piqa,arc_easy: see remodel "
            "evaluate --help",
        ),
    ],
)
def test_a_mistake_is_said_in_our_words(words: str, sentence: str) -> None:
    ended = invoke(words.split())
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr == f"remodel: {sentence}\n"
