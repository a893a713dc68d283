"""The one error that is the user's: the input is wrong, not the program."""


class InputError(Exception):
    """What was given, what was expected, what to do: one sentence.

    The command line prints it without a traceback and exits with code 2.
    """
