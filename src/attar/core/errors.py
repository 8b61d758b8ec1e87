"""The one exception that means: the input is at fault, not the program."""


class AttarError(Exception):
    """A mistake its user can mend; the message is one sentence that names what is wrong and how to mend it.

    The command line prints it alone, without a traceback, and exits with code 2.
    """


def first_line(error: object) -> str:
    """An error's first line, for a sentence that gives it as the reason."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
