"""The one exception that means: the input is at fault, not the program."""


class AttarError(Exception):
    """A mistake its user can mend; the message is one sentence that names what is wrong and how to mend it.

    The command line prints it alone, without a traceback, and exits with code 2.
    """
