"""Where the processes that a test starts meet."""

import socket

_held: list[socket.socket] = []
"""Open until the tests end: the system gives a port that is bound to nobody else who asks for any free one."""


def free_port() -> int:
    """Return a port of this machine on which the test's processes alone can listen."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # without listening here, it lets PyTorch listen there
    one.bind(("127.0.0.1", 0))
    _held.append(one)
    return one.getsockname()[1]
