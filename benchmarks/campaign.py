"""Half an hour of a GPU, used well: steps that fit ten minutes each, resume, and stop before their time is over.

    python benchmarks/campaign.py check --out OUT
    python benchmarks/campaign.py teacher --out OUT --state .gpu-state --data .gpu-data --seconds 540
    python benchmarks/campaign.py --prepare tiny-imagenet=FOLDER cifar10=FOLDER       # before: wheels and real images
    python benchmarks/campaign.py check speed teacher tiny-ipc10 tiny-ipc50 cifar --out OUT --dry    # rehearse on a CPU

A step is a list of pieces. What a piece measures is printed and written to OUT/STEP.json at once; a piece that is done
is not done again, one that the time runs out for goes on in the next command. What that needs comes back in OUT as well
(STEP.K.part); put it into the folder named by --state. benchmarks/NOTES.md has the commands in their order.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

import carrying
from attar.core.device import Execution, resolve
from attar.core.errors import AttarError
from attar.core.plugin import unknown
from attar.stages.folder import versions
from attar.store import atomic

PACKING_SECONDS = 20.0
"""Kept back at the end of a command, for packing."""
GRACE_SECONDS = 30.0
"""After which a piece that does not stop is left where it is: its state on the disk is whole at any moment."""


class OutOfTimeError(KeyboardInterrupt):
    """The command's time is over; like Ctrl-C, it passes through whatever handles errors."""


@dataclass(frozen=True)
class Piece:
    """Something to measure. ``run`` returns what was measured, as plain values."""

    name: str
    run: Callable[["Campaign"], dict[str, Any]]
    least_seconds: float = 30.0
    """It is not begun when less time is left."""
    rehearsed: bool = True
    """Whether a rehearsal does it; not where another piece runs the same code."""


@dataclass
class Campaign:
    """What all pieces share: where things lie, how much time is left, whether it is a rehearsal."""

    out: Path
    work: Path
    states: tuple[Path, ...]
    data: Path
    dry: bool
    deadline: float
    clock: Callable[[], float] = time.monotonic
    files: dict[str, Callable[["Campaign"], Sequence[Path]]] = field(default_factory=dict)
    """Which files of a step's folder travel, in the order of their worth."""
    step: str = ""

    @property
    def folder(self) -> Path:
        """The working folder of the step."""
        return self.work / self.step

    @property
    def device(self) -> str:
        """Where networks run."""
        return "cpu" if self.dry else "cuda"

    def left(self) -> float:
        """Seconds until the command has to begin packing."""
        return self.deadline - PACKING_SECONDS - self.clock()

    def say(self, text: str) -> None:
        """One line for the reader, at once."""
        print(text, flush=True)

    def fetch(self, step: str) -> Path:
        """The folder of an earlier step, brought back when it is not here; raises AttarError when it is nowhere."""
        folder = self.work / step
        carrying.unpack(self.states, step, folder)
        if not folder.is_dir():
            raise AttarError(f"There is nothing of '{step}' here; run that step first, or carry its parts in --state.")
        return folder

    def pack(self) -> None:
        """Put into the out folder what the step needs to go on elsewhere."""
        if self.step in self.files and self.folder.is_dir():
            left_out = carrying.pack(self.folder, self.files[self.step](self), self.out, self.step)
            if left_out:
                self.say(f"{self.step}: no room for {len(left_out)} files, which are made again elsewhere")


def run_step(campaign: Campaign, step: str, pieces: Sequence[Piece]) -> bool:
    """Do what is left of a step; returns whether all of it is done.

    A piece that fails is reported, and the next begins.
    """
    campaign.step = step
    found = known_results(campaign, step)
    if carrying.unpack(campaign.states, step, campaign.folder):
        campaign.say(f"{step}: state brought back")
    campaign.folder.mkdir(parents=True, exist_ok=True)
    finished = True
    for piece in pieces:
        if campaign.dry and not piece.rehearsed:
            continue
        release()
        if piece.name in found["pieces"]:
            campaign.say(f"{step}: {piece.name} is done already: {shown(found['pieces'][piece.name]['values'])}")
            continue
        needed = 0.0 if campaign.dry else piece.least_seconds
        if campaign.left() < needed:
            campaign.say(f"{step}: {piece.name} is left for the next command ({campaign.left():.0f} s remain)")
            finished = False
            continue
        campaign.say(f"{step}: {piece.name} begins ({campaign.left():.0f} s remain)")
        started = campaign.clock()
        try:
            with time_limit(campaign.left()):
                values = piece.run(campaign)
        except OutOfTimeError:
            campaign.say(f"{step}: {piece.name} stops, for the time is over; the next command goes on with it")
            return False
        except Exception as error:
            finished = False
            campaign.say(f"{step}: {piece.name} failed: {type(error).__name__}: {error}")
            if not isinstance(error, AttarError):
                campaign.say(traceback.format_exc(limit=-6))
            continue
        seconds = round(campaign.clock() - started, 1)
        found["pieces"][piece.name] = {"values": values, "seconds": seconds}
        for place in (campaign.work, campaign.out):
            atomic.write_json(place / f"{step}.json", found)
        campaign.say(f"{step}: {piece.name} took {seconds} s: {shown(values)}")
    return finished


def release() -> None:
    """Give back what earlier pieces compiled and kept on the device."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def known_results(campaign: Campaign, step: str) -> dict[str, Any]:
    """What earlier commands measured of this step, here or on another machine; begun where there is nothing."""
    for place in (campaign.work, campaign.out, *reversed(campaign.states)):
        if (place / f"{step}.json").is_file():
            found = json.loads((place / f"{step}.json").read_text())
            atomic.write_json(campaign.out / f"{step}.json", found)
            return found
    where = resolve(Execution(device=campaign.device))
    return {"step": step, "dry": campaign.dry, "device": where.describe(), "versions": versions(), "pieces": {}}


def shown(values: dict[str, Any]) -> str:
    """What was measured, on a line."""
    return ", ".join(f"{key} {value}" for key, value in values.items() if not isinstance(value, dict | list))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError inside the block when it takes longer."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Twofold(io.TextIOBase):
    """Writes to a stream and to a file."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream, self._file = stream, path.open("a")

    def write(self, text: str) -> int:
        """To both."""
        self._file.write(text)
        self._file.flush()
        return self._stream.write(text)

    def flush(self) -> None:
        """The stream; the file is always written through."""
        self._stream.flush()


def watched(campaign: Campaign) -> threading.Timer:
    """A timer that ends the process when a piece does not stop in time; the state is packed before."""

    def end() -> None:
        print("A piece did not stop; packing what there is.", flush=True)
        try:
            campaign.pack()
        finally:
            os._exit(3)

    timer = threading.Timer(max(0.0, campaign.deadline - campaign.clock()) + GRACE_SECONDS, end)
    timer.daemon = True
    timer.start()
    return timer


def run(campaign: Campaign, names: Sequence[str]) -> bool:
    """Do these steps one after the other; returns whether all are done."""
    from steps import FILES, STEPS

    names = [step for name in names for step in (("cifar10", "cifar100") if name == "cifar" else (name,))]
    for name in names:
        if name not in STEPS:
            raise unknown("step", name, STEPS)
    campaign.files = dict(FILES)
    campaign.out.mkdir(parents=True, exist_ok=True)
    if not campaign.dry and not torch.cuda.is_available():
        raise AttarError("There is no CUDA device here; --dry rehearses the steps on a CPU.")
    finished, timer = True, watched(campaign)
    try:
        for name in names:
            log = campaign.out / f"{name}.log"
            with (
                contextlib.redirect_stdout(Twofold(sys.stdout, log)),
                contextlib.redirect_stderr(Twofold(sys.stderr, log)),
            ):
                finished &= run_step(campaign, name, STEPS[name])
                campaign.pack()
    finally:
        timer.cancel()
    return finished


def prepare(sources: Sequence[str], wheels: Path, data: Path) -> None:
    """Collect what the machine lacks: wheels, and real images in portions."""
    folders = []
    for source in sources:
        name, equals, folder = source.partition("=")
        if not equals:
            raise AttarError(f"'{source}' is no NAME=FOLDER; write tiny-imagenet=FOLDER, cifar10=FOLDER or both.")
        folders += carrying.portions(Path(folder).expanduser(), data, name)
    carrying.download_wheels(wheels)
    for folder in [wheels, *folders]:
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder}  {size / 2**20:.1f} MiB", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 when all steps are done, 1 when something is left, 2 when the command is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help="check, speed, teacher, tiny-ipc10, tiny-ipc50, tiny-family, cifar"
    )
    parser.add_argument("--out", type=Path, help="folder of results and state that come back")
    parser.add_argument("--work", type=Path, default=Path("runs/campaign"), help="working folder")
    parser.add_argument("--state", type=Path, nargs="*", default=[Path(".gpu-state")], help="earlier commands' OUT")
    parser.add_argument("--data", type=Path, default=Path(".gpu-data"), help="folder of the portions")
    parser.add_argument("--wheels", type=Path, default=Path(".whl"), help="folder for --prepare's wheels")
    parser.add_argument("--seconds", type=float, default=540.0, help="time of the whole command")
    parser.add_argument("--dry", action="store_true", help="the same code on a CPU, with tiny sizes")
    parser.add_argument("--prepare", nargs="+", metavar="NAME=FOLDER", help="collect wheels and images, and end")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        if asked.prepare:
            prepare(asked.prepare, asked.wheels, asked.data)
            return 0
        if not asked.steps or asked.out is None:
            raise AttarError("Name the steps and --out FOLDER, as in 'campaign.py check --out results'.")
        if asked.dry and asked.work == Path("runs/campaign"):
            asked.work = Path("runs/campaign-dry")
            shutil.rmtree(asked.work, ignore_errors=True)
        states = (*asked.state, asked.out)
        campaign = Campaign(asked.out, asked.work, states, asked.data, asked.dry, started + asked.seconds)
        return 0 if run(campaign, asked.steps) else 1
    except AttarError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
