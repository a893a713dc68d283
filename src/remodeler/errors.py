"""The one error that is the user's: the input is wrong, not the program."""

from collections.abc import Mapping

MOST = 220
"""Characters of a library's message that are shown."""


class InputError(Exception):
    """What was given, what was expected, what to do: one sentence.

    The command line prints it without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """A library's message on one line, short enough to read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST else text[: MOST - 3] + "..."


def counted(dropped: Mapping[str, int], most: int | None = None) -> str:
    """How much was left out for which reason, in words; the commonest ``most`` reasons where that is given."""
    found = sorted((reason, count) for reason, count in dropped.items() if count)
    if most is not None and len(found) > most:
        found.sort(key=lambda each: -each[1])
        found[most:] = [("for other reasons", sum(count for _, count in found[most:]))]
    return ", ".join(f"{count:,} ({reason})" for reason, count in found) or "nothing"
