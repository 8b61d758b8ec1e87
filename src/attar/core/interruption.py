"""Ctrl-C and SIGTERM stop a run within about a second. The run prints one sentence and leaves no half-written file.

Files are replaced completely or not at all, so a process may stop anywhere. It gets a moment to shut down normally. If
it is still busy after that (a long computation, a compilation, PyTorch's tear-down), a second thread ends it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

MESSAGE = "Interrupted; the same command continues where it stopped."
GRACE_SECONDS = 0.7
"""How long a process may take to shut down normally."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The exception that both signals raise in the main thread."""

    def __init__(self, code: int = 128 + signal.SIGINT) -> None:
        """``code`` is the exit code: 130 after Ctrl-C, 143 after SIGTERM."""
        super().__init__()
        self.code = code


_ending = threading.Lock()
_message = MESSAGE
_handling = False
_reporter: Callable[[int], bool] | None = None


def handles_signals() -> bool:
    """Return whether ``handle_signals`` was called in this process, so that a thread may end it."""
    return _handling


def set_reporter(decide: Callable[[int], bool] | None) -> None:
    """Let ``decide`` answer ``should_report``; it receives the exit code. None restores the default."""
    global _reporter
    _reporter = decide


def set_message(text: str) -> None:
    """Set the sentence that an interruption prints."""
    global _message
    _message = text


def message() -> str:
    """Return the sentence that an interruption prints."""
    return _message


def should_report(code: int) -> bool:
    """Return whether this process prints why the run ends with this exit code; exactly one process does."""
    if _reporter is not None:
        return _reporter(code)
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def handle_signals() -> None:
    """Handle both signals in this process from now on; call it once, in the main thread of a program.

    A signal that the process ignored when it started stays ignored. Processes forked later get the default handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    global _handling
    _handling = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell script's background jobs ignore SIGINT
            signal.signal(number, _raise_interrupted)
    # A Python handler runs only between two bytecodes; the wake-up byte is written at once, even in a long C call.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # A forked process shares the pipe. A signal to the child must not end this process, so signals are blocked until
    # the child has given up the pipe.
    os.register_at_fork(before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_restore_handlers)
    threading.Thread(target=_end_after_grace, args=(reading,), name="attar-signals", daemon=True).start()


def end(code: int, reason: str | None = None) -> NoReturn:
    """End this process and its image-reading workers at once.

    It first prints ``reason``; by default one of the processes prints that the run was interrupted.
    """
    if not _ending.acquire(blocking=False):  # another thread is already ending the process
        time.sleep(60)
    if reason is None:
        reason = _message if should_report(code) else ""
    if reason:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        with contextlib.suppress(OSError):
            os.write(2, f"{cursor}attar: {reason}\n".encode())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if "multiprocessing" in sys.modules:
        import multiprocessing

        for child in multiprocessing.active_children():
            with contextlib.suppress(Exception):
                child.kill()
    os._exit(code)


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _ignore)  # a second signal would interrupt the shutdown
    raise Interrupted(128 + number)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass


def _end_after_grace(reading: int) -> None:
    while True:
        number = os.read(reading, 1)[0]
        if number in _SIGNALS:
            time.sleep(GRACE_SECONDS)
            end(128 + number)


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _restore_handlers() -> None:
    signal.set_wakeup_fd(-1)
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) in (_raise_interrupted, _ignore):
            signal.signal(number, usual)
    _unblock_signals()
