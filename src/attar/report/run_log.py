"""Read the log files of a run while it writes them: stages, rates, losses, scores and warnings. No PyTorch."""

import contextlib
import json
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]
"""One line of a log: 'time' in seconds since 1970, 'event', and the event's values."""
FOLDERS = (
    *("", "squeeze", "squeeze/[0-9]*", "squeeze/experts", "recover", "prepared/*", "distilled", "evaluate"),
    *("baselines/*/recover", "baselines/*/distilled"),
)
"""Folders of a run that may have log files."""
RATE_POINTS = 30
"""How many of the last progress events the rate is measured over."""
_OF_FIRST = ("run", "jobs", "finished")
"""Events that every process of torchrun writes; those of the first process count."""
MOST_VALUES = 2000
"""Longest curve that is kept, in values; older ones are left out."""


@dataclass
class Share:
    """The progress of one process in a stage, in steps."""

    done: float = 0.0
    total: float = 0.0
    before: float = 0.0
    taken_over: float = 0.0
    """Steps of an interrupted training that it continues; they count as done, but not for the rate."""


@dataclass
class StageProgress:
    """A stage, or another task that counts steps, such as reading images."""

    name: str
    """'recover', or with the set of a baseline: 'recover (random)'."""
    unit: str = ""
    shares: dict[Path, Share] = field(default_factory=dict)
    """By log file: every process writes its own."""
    results: str = ""
    """What the stage makes, such as units or students; '' if the log does not say."""
    by: str = ""
    folder: Path = Path()
    """The event that reports a finished result, and the folder of the log that has it."""
    results_done: int = 0
    results_total: int = 0
    began: float = 0.0
    last: float = 0.0
    """Time of the last entry, in seconds since 1970."""
    note: str = ""
    curves: dict[str, deque[float]] = field(default_factory=dict)
    """Losses and other numbers of the current unit or training."""
    points: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RATE_POINTS))
    result_is_new: bool = False

    @property
    def before(self) -> float:
        """Steps that were finished before this session began."""
        return max((share.before for share in self.shares.values()), default=0.0)

    @property
    def done(self) -> float:
        """Finished steps of all processes."""
        return self.before + sum(share.done - share.before for share in self.shares.values())

    @property
    def total(self) -> float:
        """Steps in all; 0 when the log does not say."""
        return self.before + sum(share.total - share.before for share in self.shares.values())

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.total > 0 and self.done >= self.total - 1e-6

    def rate(self) -> float | None:
        """Return steps per second, measured over the last entries; None when too few are known."""
        if len(self.points) < 2 or self.points[-1][0] <= self.points[0][0]:
            return None
        steps = (self.points[-1][1] - self.points[0][1]) / (self.points[-1][0] - self.points[0][0])
        return steps if steps > 0 else None

    def seconds_left(self) -> float | None:
        """Return the seconds that the rest takes at this rate; None when that is unknown."""
        rate = self.rate()
        return None if rate is None or self.total <= 0 else max(0.0, self.total - self.done) / rate


@dataclass(frozen=True)
class StudentScore:
    """The accuracy of a trained student, as a fraction of the real validation images."""

    row: str
    student: str
    seed: int
    top1: float
    diverged: bool


@dataclass
class RunState:
    """What the log says about a run."""

    recipe: str = ""
    began: float = 0.0
    last: float = 0.0
    """Times of the first and last entry, in seconds since 1970; 0 without entries."""
    stages: dict[str, StageProgress] = field(default_factory=dict)
    current: StageProgress | None = None
    """The stage with the newest entry."""
    teachers: dict[str, float] = field(default_factory=dict)
    """Accuracy of each teacher, as a fraction of the real validation images, by its name."""
    units: deque[Entry] = field(default_factory=lambda: deque(maxlen=MOST_VALUES))
    """The entries of finished units."""
    scores: dict[tuple[str, str, int], StudentScore] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    """The texts of all warnings, each once, in their order."""
    ended: str = ""
    """'finished', or why the run stopped; '' while it goes on, or when it was killed."""

    def add(self, entry: Entry, path: Path) -> None:
        """Take in one entry of the log file ``path``, which is relative to the run."""
        when = float(entry["time"])
        self.began, self.last = self.began or when, max(self.last, when)
        take = getattr(self, f"_take_{entry['event']}", None)
        if take is not None:
            take(entry, path)
        if (stage := self._made_by(entry, path)) is not None:
            stage.results_done += int(entry.get("results", 1))
            stage.last, stage.result_is_new = when, True

    def _take_run(self, entry: Entry, path: Path) -> None:
        self.recipe, self.ended = str(entry.get("recipe", "")), ""

    def _take_stopped(self, entry: Entry, path: Path) -> None:
        self.ended = str(entry.get("why", "stopped"))

    def _take_finished(self, entry: Entry, path: Path) -> None:
        self.ended = "finished"

    def _take_warning(self, entry: Entry, path: Path) -> None:
        self.warnings[str(entry["text"])] = None

    def _take_accuracy(self, entry: Entry, path: Path) -> None:
        self.teachers[_teacher(path)] = float(entry["top1"])

    def _take_jobs(self, entry: Entry, path: Path) -> None:
        stage = StageProgress(_name(entry["what"], path), results=str(entry["results"]), began=float(entry["time"]))
        stage.results_done, stage.results_total = int(entry["done"]), int(entry["total"])
        stage.by, stage.folder, stage.last = str(entry.get("by", "")), path.parent, stage.began
        self.stages.pop(stage.name, None)  # a continued stage moves to the end
        self.stages[stage.name] = self.current = stage

    def _take_progress(self, entry: Entry, path: Path) -> None:
        name, when = _name(entry["what"], path), float(entry["time"])
        stage = self.stages.setdefault(name, StageProgress(name, began=when))
        share = Share(
            float(entry["done"]),
            float(entry["total"]),
            float(entry.get("before", 0)),
            float(entry.get("taken_over", 0)),
        )
        if not stage.results and share.done <= share.before:  # the same task again, such as reading another split
            stage = self.stages[name] = StageProgress(name, began=when)
        if share.taken_over != stage.shares.get(path, share).taken_over:
            stage.points.clear()
        stage.shares[path] = share
        stage.unit, stage.note = str(entry.get("unit", "")), str(entry.get("note", stage.note))
        stage.points.append((when, stage.done))
        self._add_values(stage, entry.get("values", {}))
        stage.last = when
        self.current = stage

    def _take_epoch(self, entry: Entry, path: Path) -> None:
        stage = self.stages.setdefault("squeeze", StageProgress("squeeze", began=float(entry["time"])))
        name = _teacher(path)
        self._add_values(stage, {"loss" if name == "teacher" else f"{name}, loss": entry.get("loss")})

    def _take_unit(self, entry: Entry, path: Path) -> None:
        if path.parts[0] == "recover":
            self.units.append(entry)

    def _take_score(self, entry: Entry, path: Path) -> None:
        key = (str(entry["row"]), str(entry["student"]), int(entry["seed"]))
        top1 = math.nan if entry["top1"] is None else float(entry["top1"])
        self.scores[key] = StudentScore(*key, top1, bool(entry.get("diverged")))

    def _made_by(self, entry: Entry, path: Path) -> StageProgress | None:
        """Return the stage that an entry reports a result of; its jobs tell in which folder and by which event."""
        made = (each for each in self.stages.values() if each.by == entry["event"] and each.folder == path.parent)
        return next(made, None)

    def _add_values(self, stage: StageProgress, values: Mapping[str, Any]) -> None:
        if not values:
            return
        if stage.result_is_new:
            stage.curves.clear()
            stage.result_is_new = False
        for name, value in values.items():
            curve = stage.curves.setdefault(name, deque(maxlen=MOST_VALUES))
            curve.append(math.nan if value is None else float(value))


class RunLog:
    """The log files of a run; ``read`` returns what was written since the last call."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._read: dict[Path, int] = {}
        self.state = RunState()

    def read(self) -> list[Entry]:
        """Take in all new entries and return them, in the order of their time. Damaged lines are skipped."""
        new = [(float(entry["time"]), path, entry) for path in self._paths() for entry in self._new(path)]
        new.sort(key=lambda found: found[0])
        taken = []
        for _, path, entry in new:
            if entry["event"] in _OF_FIRST and "rank" in path.name:
                continue
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self.state.add(entry, path.relative_to(self._run))
                taken.append(entry)
        return taken

    def _paths(self) -> Iterable[Path]:
        return sorted(path for folder in FOLDERS for path in self._run.glob(f"{folder}/log*.jsonl".lstrip("/")))

    def _new(self, path: Path) -> Iterator[Entry]:
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            text = file.read()
            whole = text.rfind(b"\n") + 1  # the rest of a line may still come
            self._read[path] = self._read.get(path, 0) + whole
            for line in text[:whole].decode(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and isinstance(entry.get("time"), int | float) and "event" in entry:
                        yield entry


def _name(what: str, path: Path) -> str:
    """Return a stage's name, with the set of a baseline."""
    return f"{what} ({path.parts[1]})" if path.parts[0] == "baselines" else what


def _teacher(path: Path) -> str:
    """Return the name of the teacher in whose folder a log lies."""
    found = re.fullmatch(r"squeeze/(\d+)/.*", path.as_posix())
    return f"teacher {found[1]}" if found else "teacher"
