"""Ctrl-C and SIGTERM: both end a run within about a second, with a sentence, and leave nothing half-written.

Files are replaced as a whole or not at all, so a process may end anywhere. It is given a moment to end in order; where
it is in the middle of a long computation, of a compilation or of PyTorch's tear-down, it is ended all the same.
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

SENTENCE = "Interrupted; the same command continues where it stopped."
GRACE_SECONDS = 0.7
"""Until a process that has not ended in order is ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """What both signals raise in the main thread."""

    def __init__(self, code: int = 128 + signal.SIGINT) -> None:
        """``code`` is the exit code: 130 after Ctrl-C, 143 after SIGTERM."""
        super().__init__()
        self.code = code


_ending = threading.Lock()
_sentence = SENTENCE
_watching = False
_asked: Callable[[int], bool] | None = None


def is_watching() -> bool:
    """Whether this process answers signals as ``watch`` says, so that it may be ended from within."""
    return _watching


def ask(may_speak: Callable[[int], bool] | None) -> None:
    """Let this decide, given the exit code, which of several processes says why they end."""
    global _asked
    _asked = may_speak


def say(sentence: str) -> None:
    """Set the sentence that an interruption prints, for work that the same command begins again."""
    global _sentence
    _sentence = sentence


def sentence() -> str:
    """Return the sentence that an interruption prints."""
    return _sentence


def may_speak(code: int) -> bool:
    """Whether this process, which ends with the exit code, is to say why; of several processes one is."""
    if _asked is not None:
        return _asked(code)
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def watch() -> None:
    """Answer both signals in this process from now on; to be called once, by a program in its main thread.

    Signals that the process was started to ignore stay ignored. Processes that are forked later answer as if this had
    not been called.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    global _watching
    _watching = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as for what a shell script starts in the background
            signal.signal(number, _raise)
    # A handler runs between two lines of Python; the byte is written at once, whatever the main thread is doing.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # A forked process shares the pipe: what it is sent must not end this one, not even before it has forgotten.
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
    threading.Thread(target=_end_after_grace, args=(reading,), name="attar-signals", daemon=True).start()


def end(code: int, reason: str | None = None) -> NoReturn:
    """End this process at once, with the processes that it started to read images.

    ``reason`` is said first; by default, in one of several processes, that the work was interrupted.
    """
    if not _ending.acquire(blocking=False):  # the other thread is at it
        time.sleep(60)
    if reason is None:
        reason = _sentence if may_speak(code) else ""
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


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _nothing)  # one is enough: a second would cut short the ending
    raise Interrupted(128 + number)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _end_after_grace(reading: int) -> None:
    while True:
        number = os.read(reading, 1)[0]
        if number in _SIGNALS:
            time.sleep(GRACE_SECONDS)
            end(128 + number)


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) in (_raise, _nothing):
            signal.signal(number, usual)
    _release()
