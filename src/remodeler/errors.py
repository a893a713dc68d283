"""The one error that is the user's: the input is wrong, not the program."""

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


MEMORY_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
"""What torch and the system say where there is none left, on a CPU as a plain RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)
