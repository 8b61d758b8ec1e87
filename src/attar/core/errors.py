"""The exception for invalid input, as opposed to errors in the program."""

import errno


class AttarError(Exception):
    """An error that the user can fix; the message is one sentence that says what is wrong and how to fix it.

    The command line prints only the message, without a traceback, and exits with code 2.
    """


def disk_full(error: OSError) -> str:
    """Return the sentence for a full disk; '' for other errors."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = f" while writing {error.filename}" if error.filename else ""
    return f"The disk is full{where}; free some space and run the same command again."


def first_line(error: object) -> str:
    """Return an error's first line without its full stop, to be used in a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
