"""Stop all processes of one launch as soon as one of them ends early, and print the reason once.

Every other process keeps a TCP connection to rank 0. The operating system closes it whenever a process dies, so no
polling is needed. A machine that loses its power or its network closes nothing: the system asks whether it is still
there. A collective operation would notice the loss only when the others reach it, perhaps hours later.
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
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 5, "TCP_USER_TIMEOUT": 40_000}
"""After 15 s of silence the system asks the other machine every 5 s, and closes the connection after 5 questions
without an answer, or when what was sent is not confirmed for 40 s. By default this takes two hours."""
_CLAIM, _YES, _NO, _END, _BYE = b"c", b"y", b"n", b"e", b"b"
"""A message is one of these bytes and an exit code. Claim: may I print the reason? Yes. No. End now. Bye: I am done."""


def lost(rank: int, size: int) -> str:
    """Return the error for a process that ended without a message."""
    return (
        f"Process {rank} of {size} ended early (killed by a signal or for lack of memory, by an error shown above, or "
        f"its machine cannot be reached any more), so all processes stopped; {CONTINUE}."
    )


class Peers:
    """The connections of this process. While they are open, a thread ends this process when another one ends early."""

    def __init__(self, rank: int, size: int, connections: dict[int, socket.socket]) -> None:
        """``connections`` are sockets by rank: rank 0 has one to every process, the others have one to rank 0."""
        self._rank, self._size, self._connections = rank, size, connections
        self._lock = threading.Lock()
        self._ending = self._closed = False
        self._exit: tuple[int, str] | None = None
        """Exit code and reason, once the launch ends."""
        self._drained = threading.Event()
        """Set when all messages of the other processes are read."""
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for connection in connections.values():
            _keep_alive(connection)
        # Otherwise a forked image-reading worker would keep the connections open after this process is killed.
        os.register_at_fork(after_in_child=self._close_sockets)
        threading.Thread(target=self._watch, name="attar-peers", daemon=True).start()

    def should_report(self, code: int) -> bool:
        """Return whether this process prints why the launch ends: True for the first one that asks.

        All other processes then end with ``code``.
        """
        if code > 128:  # torchrun signals the others when one dies; give the thread time to notice the death first
            time.sleep(GRACE_SECONDS)
        if self._rank == 0:
            first = self._claim(0, code)
            self._drained.wait(ANSWER_SECONDS)
            return first
        try:
            self._connections[0].sendall(_CLAIM + bytes([code]))
            return self._answers.get(timeout=ANSWER_SECONDS)
        except (OSError, queue.Empty):
            return False

    def close(self) -> None:
        """Tell the others that this process has finished; they continue without it."""
        self._closed = True
        for connection in self._connections.values():
            _send(connection, _BYE, 0)

    def _claim(self, rank: int, code: int) -> bool:
        """Return whether ``rank`` is the first to end the launch; if so, tell the other processes to end."""
        with self._lock:
            if self._ending:
                return False
            self._ending = True
        for other, connection in self._connections.items():
            if other != rank:
                _send(connection, _END, code)
        return True

    def _watch(self) -> None:
        """Read the messages of the others. Rank 0 ends only after it has read all of them.

        If a process closes a socket with unread data, the system sends a reset, and the peer loses messages that were
        sent to it before.
        """
        until = float("inf")
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(None if until == float("inf") else until - time.monotonic()):
                    if not self._handle_message(key.data):
                        selector.unregister(key.fileobj)
                if self._exit and until == float("inf"):
                    until = time.monotonic() + ANSWER_SECONDS
        self._drained.set()
        if self._exit:
            interruption.end(*self._exit)

    def _handle_message(self, rank: int) -> bool:
        """Read a message from ``rank`` and react to it; returns whether more messages may follow."""
        try:
            message = self._connections[rank].recv(2, socket.MSG_WAITALL)
        except OSError:
            message = b""
        kind, code = message[:1], message[1] if len(message) == 2 else 1
        if kind == _BYE or (not kind and self._closed):
            return False
        if kind in (_YES, _NO):
            self._closed = True  # this process ends now; rank 0 may close its socket earlier
            self._answers.put(kind == _YES)
        elif kind == _CLAIM:
            first = self._claim(rank, code)
            _send(self._connections[rank], _YES if first else _NO, 0)
            if first:
                self._exit = code, ""
            return False
        elif kind == _END:
            self._answers.put(False)
            interruption.end(code, "")
        else:
            self._handle_loss(rank)
            return False
        return True

    def _handle_loss(self, rank: int) -> None:
        """End this process because ``rank`` is gone; one of the remaining processes prints why.

        If rank 0 is gone, its machine may be, and rank 1 with it: the first process of every other machine prints it.
        """
        if self._rank:
            speaks = self._rank == 1 or os.environ.get("LOCAL_RANK") == "0"
            self._answers.put(speaks)
            interruption.end(1, lost(rank, self._size) if speaks else "")
        elif self._claim(rank, 1):
            self._exit = 1, lost(rank, self._size)

    def _close_sockets(self) -> None:
        for connection in self._connections.values():
            connection.close()


def connect(joined: Any) -> Peers | None:
    """Connect the processes of a ``torch.distributed`` group; returns None if the network prevents it.

    All processes must call it at the same point.
    """
    rank, size = joined.get_rank(), joined.get_world_size()
    if rank == 0:
        with _server(size) as server:
            token = secrets.token_hex(16)
            joined.broadcast_object_list([server.getsockname()[1], token], src=0)
            return Peers(0, size, _accept(server, token, size))
    address: list[Any] = [None, None]
    joined.broadcast_object_list(address, src=0)
    with contextlib.suppress(OSError):
        connection = socket.create_connection((os.environ["MASTER_ADDR"], address[0]), timeout=CONNECT_SECONDS)
        connection.settimeout(None)
        connection.sendall(f"{address[1]}{rank:08d}".encode())
        return Peers(rank, size, {0: connection})
    return None


def _server(size: int) -> socket.socket:
    """Return a socket that listens on a free port, on IPv6 too if the machine has it."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)


def _accept(server: socket.socket, token: str, size: int) -> dict[int, socket.socket]:
    """Return the connections that send the right token, by rank; processes that do not connect in time are missing."""
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


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # what a system does not have keeps its default
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, kind: bytes, code: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(kind + bytes([code]))
