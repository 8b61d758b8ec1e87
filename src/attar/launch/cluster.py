"""``--launcher ray``: connect to a Ray cluster or start one, and have the jobs of a run done there."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attar import __version__
from attar.core import device, interruption, work
from attar.core.errors import AttarError, first_line
from attar.core.log import Log
from attar.core.peers import CONTINUE
from attar.launch import joint
from attar.launch.tasks import Tasks, needs, refuse_too_large
from attar.recipes.recipe import Recipe
from attar.store import atomic

CONNECT_SECONDS, START_SECONDS = 10.0, 120.0
"""How long the cluster's head may take to accept a connection, and Ray to connect to it or to start one."""
WATCH_SECONDS = 5.0
"""How often the cluster's head is asked to answer."""
LOST_SECONDS = 40.0
"""A head that does not answer for so long is lost."""
LOCK_SECONDS = 60.0
"""How long a launch may take to lock its file; a younger file belongs to a launch that begins."""
LOCAL = "local"
"""The address of a new cluster on this machine."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a cluster that is started here; hardly anything passes through it."""


@contextlib.contextmanager
def started(recipe: Recipe[Any], out: Path, stage: str, address: str, quiet: bool = False) -> Iterator[None]:
    """Have the jobs of a run done by a Ray cluster during the block.

    ``address`` is HOST:PORT of the cluster's head, or 'auto' for the cluster of this machine; '' for ``RAY_ADDRESS``,
    or else a new cluster on this machine. Raises AttarError when Ray is not installed, or the cluster cannot be reached
    or used.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AttarError("--launcher ray starts its own processes; run the command without torchrun.")
    team = 1 if recipe.execution.data_parallel == "off" else recipe.execution.train_workers
    address = address or os.environ.get("RAY_ADDRESS", "") or LOCAL
    ray = _connected(address, train=team > 1)
    try:
        from attar.launch import worker

        asked = needs(ray, recipe)
        if address == LOCAL:
            refuse_too_large(ray, asked, team)
        order = worker.Order(
            launch=secrets.token_hex(8),
            recipe=recipe.to_yaml(),
            out=str(out.absolute()),
            stage=stage,
            folder=str(Path.cwd()),
            version=__version__,
            cpus=asked["num_cpus"],
            gpus=asked["num_gpus"],
        )
        with marked(worker.mark_of(order), joint.folder(order)), contextlib.ExitStack() as stack:
            launcher = Tasks(ray, order, asked, team, Log(quiet=quiet))
            stack.callback(launcher.close)
            seen = launcher.look()
            with (
                _ended_if_lost(ray.get_runtime_context().gcs_address),
                work.launched_by(launcher),
                device.agreed(seen.precision, seen.why, seen.name),
            ):
                yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def marked(mark: Path, beside: Path) -> Iterator[None]:
    """Let the run's folder have this file during the block; then remove it and the folder ``beside`` it, if any.

    Files and folders of launches that were killed are removed, too: the lock of such a file is free.
    """
    _sweep(mark.parent)
    atomic.write_text(mark, mark.name)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a disk that knows no locks
            stack.enter_context(atomic.locked(mark))
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            with contextlib.suppress(OSError):
                mark.parent.rmdir()  # of a run that was refused


def _sweep(out: Path) -> None:
    """Remove what launches that were killed left in a run's folder."""
    from attar.launch.worker import MARK

    for mark in out.glob(f"{MARK}-*"):
        with contextlib.suppress(OSError):  # the launch ends in this moment, or the disk knows no locks
            old = time.time() - mark.stat().st_mtime > LOCK_SECONDS
            if old and not atomic.is_locked(mark):
                shutil.rmtree(out / mark.name.replace(MARK, joint.RAY_TRAIN, 1), ignore_errors=True)
                mark.unlink()


def _connected(address: str, train: bool) -> Any:
    """Return Ray, connected to a cluster; with ``train`` Ray Train is needed, too."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # drops what it would print of its own on standard output
    try:
        import ray
    except ImportError:
        raise AttarError("--launcher ray needs the package ray; install it by: pip install 'attar[ray]'") from None
    if train:
        joint.load()
    if address not in ("auto", LOCAL):
        _refuse_unreachable(address)
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == LOCAL else {}
    what = f"The Ray cluster {'of this machine' if address == LOCAL else address}"
    handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which ends a run without a word
    try:
        late = f"{what} does not answer within {START_SECONDS:g} s; check --address, and that the cluster is well."
        with _silent() as speak, _ended_after(START_SECONDS, late, speak):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise AttarError(
            f"{what} cannot be used ({first_line(error)}); start the run on a machine of the cluster with --address "
            f"auto, or set RAY_AUTH_MODE=token if the cluster asks for a token."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return ray


@contextlib.contextmanager
def _silent() -> Iterator[Callable[[], object]]:
    """Hide what C++ code prints to standard error during the block; yields a function that ends this earlier."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield lambda: os.dup2(kept, 2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _ended_after(seconds: float, sentence: str, first: Callable[[], object]) -> Iterator[None]:
    """End this process with exit code 2 and the sentence if the block takes longer; calls ``first`` before."""

    def end() -> None:
        first()
        interruption.end(2, sentence)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refuse_unreachable(address: str) -> None:
    """Raise AttarError unless something answers at the address within ``CONNECT_SECONDS``."""
    if "://" in address or not re.fullmatch(r".+:\d+", address):
        raise AttarError(
            f"--address takes HOST:PORT of the cluster's head, as in 10.0.0.1:6379, not '{address}'; start the run on "
            f"a machine of the cluster."
        )
    try:
        _connect(address)
    except (OSError, OverflowError) as error:
        raise AttarError(
            f"No Ray cluster answers at {address} ({first_line(error)}); start one by 'ray start --head', or check "
            f"--address."
        ) from None


def _connect(address: str) -> None:
    """Raise OSError unless something accepts a connection at HOST:PORT within ``CONNECT_SECONDS``."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@contextlib.contextmanager
def _ended_if_lost(address: str) -> Iterator[None]:
    """End this process if the cluster's head does not answer for ``LOST_SECONDS``; Ray itself would end it later."""
    ended = threading.Event()

    def watch() -> None:
        answered = time.monotonic()
        while not ended.wait(WATCH_SECONDS):
            try:
                _connect(address)
                answered = time.monotonic()
            except OSError:
                if time.monotonic() >= answered + LOST_SECONDS:
                    interruption.end(1, f"The head of the Ray cluster, {address}, is lost; {CONTINUE}.")

    threading.Thread(target=watch, name="attar-cluster", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
