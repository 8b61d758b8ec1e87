"""Processes of one launch notice at once when another one ends early, and one of them says why.

Each further process keeps a connection to the first one. The system closes it when a process dies, however that
happens, so nobody has to ask. Collective operations would notice only when the others arrive there, hours later.
"""

import contextlib
import os
import queue
import secrets
import selectors
import socket
import threading
import time
from typing import Any

from attar.core import interruption

CONTINUE = "run the same command again, which continues where it stopped"
CONNECT_SECONDS, ANSWER_SECONDS, GRACE_SECONDS = 20.0, 2.0, 0.1
_CLAIM, _YES, _NO, _END, _BYE = b"c", b"y", b"n", b"e", b"b"
"""Messages are one of these and a byte for an exit code: may I speak, yes, no, end now, I am done."""


def lost(rank: int, size: int) -> str:
    """What is said when a process has ended without a word."""
    return (
        f"Process {rank} of {size} ended early (killed by a signal or for lack of memory, or by an error shown above), "
        f"so all have stopped; {CONTINUE}."
    )


class Peers:
    """The connections of this process. While they are open, a thread ends the process when another one ends early."""

    def __init__(self, rank: int, size: int, connections: dict[int, socket.socket]) -> None:
        """``connections`` lead to the other processes by rank: from the first to all, from others to the first."""
        self._rank, self._size, self._connections = rank, size, connections
        self._lock = threading.Lock()
        self._ending = self._closed = False
        self._verdict: tuple[int, str] | None = None
        self._alone = threading.Event()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for connection in connections.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A forked process that reads images would keep the connections open when this one is killed.
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._watch, name="attar-peers", daemon=True).start()

    def may_speak(self, code: int) -> bool:
        """Whether this process may say why the launch ends; the first that asks, and all others end with ``code``."""
        if code > 128:  # torchrun sends signals to the others when one dies: let the thread find out first
            time.sleep(GRACE_SECONDS)
        if self._rank == 0:
            first = self._claimed(0, code)
            self._alone.wait(ANSWER_SECONDS)
            return first
        try:
            self._connections[0].sendall(_CLAIM + bytes([code]))
            return self._answers.get(timeout=ANSWER_SECONDS)
        except (OSError, queue.Empty):
            return False

    def close(self) -> None:
        """Say that this process has done its part; the others go on without it."""
        self._closed = True
        for connection in self._connections.values():
            _send(connection, _BYE, 0)

    def _claimed(self, rank: int, code: int) -> bool:
        """Whether the process ``rank`` is the first to speak; then it tells the other ones to end."""
        with self._lock:
            if self._ending:
                return False
            self._ending = True
        for other, connection in self._connections.items():
            if other != rank:
                _send(connection, _END, code)
        return True

    def _watch(self) -> None:
        """Hear the others. The first process ends only when it has heard them out.

        The system would answer a message that nobody read with a reset, which takes away what was sent before.
        """
        until = float("inf")
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(None if until == float("inf") else until - time.monotonic()):
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)
                if self._verdict and until == float("inf"):
                    until = time.monotonic() + ANSWER_SECONDS
        self._alone.set()
        if self._verdict:
            interruption.end(*self._verdict)

    def _hear(self, rank: int) -> bool:
        """Act on a message; returns whether there may be another one."""
        try:
            message = self._connections[rank].recv(2, socket.MSG_WAITALL)
        except OSError:
            message = b""
        kind, code = message[:1], message[1] if len(message) == 2 else 1
        if kind == _BYE or (not kind and self._closed):
            return False
        if kind in (_YES, _NO):
            self._closed = True  # this process ends now, and the first one may be gone before
            self._answers.put(kind == _YES)
        elif kind == _CLAIM:
            first = self._claimed(rank, code)
            _send(self._connections[rank], _YES if first else _NO, 0)
            if first:
                self._verdict = code, ""
            return False
        elif kind == _END:
            self._answers.put(False)
            interruption.end(code, "")
        else:
            self._lose(rank)
            return False
        return True

    def _lose(self, rank: int) -> None:
        """End this process because another one is gone; one of those that are left says so."""
        if self._rank:
            self._answers.put(self._rank == 1)
            interruption.end(1, lost(rank, self._size) if self._rank == 1 else "")
        elif self._claimed(rank, 1):
            self._verdict = 1, lost(rank, self._size)

    def _forget(self) -> None:
        for connection in self._connections.values():
            connection.close()


def connect(joined: Any) -> Peers | None:
    """Connect the processes of a group of ``torch.distributed``; None where the network does not let them.

    All processes must call it at the same point.
    """
    rank, size = joined.get_rank(), joined.get_world_size()
    if rank == 0:
        with _server(size) as server:
            token = secrets.token_hex(16)
            joined.broadcast_object_list([server.getsockname()[1], token], src=0)
            return Peers(0, size, _accepted(server, token, size))
    address: list[Any] = [None, None]
    joined.broadcast_object_list(address, src=0)
    with contextlib.suppress(OSError):
        connection = socket.create_connection((os.environ["MASTER_ADDR"], address[0]), timeout=CONNECT_SECONDS)
        connection.settimeout(None)
        connection.sendall(f"{address[1]}{rank:08d}".encode())
        return Peers(rank, size, {0: connection})
    return None


def _server(size: int) -> socket.socket:
    """Listens on a free port, by IPv6 too where the machine has it."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)


def _accepted(server: socket.socket, token: str, size: int) -> dict[int, socket.socket]:
    """The connections of the other processes, known by the token; those that cannot connect in time are left out."""
    found: dict[int, socket.socket] = {}
    until = time.monotonic() + CONNECT_SECONDS
    with contextlib.suppress(OSError):
        while len(found) < size - 1:
            server.settimeout(max(0.01, until - time.monotonic()))
            connection, _ = server.accept()
            connection.settimeout(CONNECT_SECONDS)
            received = connection.recv(len(token) + 8, socket.MSG_WAITALL).decode(errors="replace")
            connection.settimeout(None)
            if received[: len(token)] == token:
                found[int(received[len(token) :])] = connection
            else:
                connection.close()
    return found


def _send(connection: socket.socket, kind: bytes, code: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(kind + bytes([code]))
