"""Recover of ImageNet-21K with 20 images a class on 8 to 512 GPUs, simulated: how long, and what failures cost.

    python benchmarks/simulate.py
    python benchmarks/simulate.py --unit-seconds 17.5 --start-seconds 60 --hours-between-failures 6

2,090 units of 100 images. A unit takes ``--unit-seconds`` of one GPU, give or take ``--spread``; starting a process
takes ``--start-seconds`` (imports, data, teacher, compiling). Machines of 8 GPUs fail at random, on average once in
``--hours-between-failures`` each, and return after ``--repair-seconds``. Two ways to share the work:

- torchrun: units are dealt out at the start, by attar's own function. A failure ends all processes; when the machine
  is back, all start again and deal out what is left. Units in work are lost, up to ``--saved-every`` seconds of each.
- tasks: each GPU takes the next unit when it is free, as with a scheduler of tasks. A failure stops one machine.

The best possible time is all units' seconds divided by the GPUs. Every number is the mean of ``--runs`` runs; what is
not modelled: reading and writing shared storage, and GPUs of unequal speed.
"""

import argparse
import heapq
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tables
from attar.core.work import shares

NUM_UNITS, MACHINE_GPUS = 2090, 8
GPUS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Model:
    """What is assumed; times in seconds."""

    unit: float
    spread: float
    start: float
    between_failures: float
    """Of one machine, on average; infinite where nothing fails."""
    repair: float
    saved_every: float

    def units(self, count: int, draws: random.Random) -> list[float]:
        """Draw how long each unit takes."""
        return [self.unit * max(0.1, draws.gauss(1, self.spread)) for _ in range(count)]

    def kept(self, worked: float) -> float:
        """Return how much of a unit's work is on the disk when its process dies."""
        return worked // self.saved_every * self.saved_every

    def failure(self, machines: int, draws: random.Random) -> float:
        """Draw the time until the next failure of any of these machines."""
        return math.inf if math.isinf(self.between_failures) else draws.expovariate(machines / self.between_failures)


@dataclass(frozen=True)
class Outcome:
    """How one run went."""

    seconds: float
    failures: int
    lost: float
    """Seconds of GPUs whose work was lost."""


def dealt_out(model: Model, gpus: int, units: Sequence[float], draws: random.Random) -> Outcome:
    """Simulate torchrun: one failure stops everybody."""
    machines, left, now, failures, lost = -(-gpus // MACHINE_GPUS), list(units), 0.0, 0, 0.0
    while True:
        begun, stopped = now + model.start, now + model.failure(machines, draws)
        dealt = shares([1.0] * len(left), gpus)
        finished = begun + max(sum(left[place] for place in share) for share in dealt)
        if finished <= stopped:
            return Outcome(finished, failures, lost)
        failures += 1
        rest = list[float]()
        for share in dealt:
            at = begun
            for place in share:
                worked, at = max(0.0, stopped - at), at + left[place]
                if at <= stopped:
                    continue
                kept = model.kept(worked)
                lost += worked - kept
                rest.append(left[place] - kept)
        left, now = rest, stopped + model.repair


class Tasks:
    """Tasks on a cluster: each GPU takes the next unit; a failure stops the units of one machine."""

    def __init__(self, model: Model, gpus: int, units: Sequence[float], draws: random.Random) -> None:
        self._model, self._draws = model, draws
        self._left, self._waiting = list(units), deque(range(len(units)))
        self._machines = [range(first, min(first + MACHINE_GPUS, gpus)) for first in range(0, gpus, MACHINE_GPUS)]
        self._lives = [0] * len(self._machines)
        self._running = dict[int, tuple[int, float]]()
        """By GPU: the unit, and when it began."""
        self._idle = set[int]()
        self._events = list[tuple[float, int, str, int, int]]()
        self._open, self._failures, self._lost = len(units), 0, 0.0

    def run(self) -> Outcome:
        """Go through all events until the last unit is finished."""
        now = 0.0
        for machine in range(len(self._machines)):
            self._start(machine, now)
        while self._open:
            now, _, kind, place, life = heapq.heappop(self._events)
            machine = place if kind in ("fail", "ready") else place // MACHINE_GPUS
            if life != self._lives[machine]:
                continue  # of a machine's former life
            if kind == "fail":
                self._fail(machine, now)
            elif kind == "ready":
                self._idle.update(self._machines[machine])
            else:
                del self._running[place]
                self._open -= 1
                self._idle.add(place)
            self._hand_out(now)
        return Outcome(now, self._failures, self._lost)

    def _later(self, time: float, kind: str, place: int, machine: int) -> None:
        heapq.heappush(self._events, (time, len(self._events), kind, place, self._lives[machine]))

    def _start(self, machine: int, now: float) -> None:
        self._later(now + self._model.start, "ready", machine, machine)
        self._later(now + self._model.failure(1, self._draws), "fail", machine, machine)

    def _fail(self, machine: int, now: float) -> None:
        self._failures += 1
        self._lives[machine] += 1
        for gpu in self._machines[machine]:
            self._idle.discard(gpu)
            if gpu in self._running:
                place, begun = self._running.pop(gpu)
                kept = self._model.kept(now - begun)
                self._left[place] -= kept
                self._lost += now - begun - kept
                self._waiting.append(place)
        self._start(machine, now + self._model.repair)

    def _hand_out(self, now: float) -> None:
        while self._waiting and self._idle:
            gpu, place = self._idle.pop(), self._waiting.popleft()
            self._running[gpu] = place, now
            self._later(now + self._left[place], "end", gpu, gpu // MACHINE_GPUS)


@dataclass(frozen=True)
class Line:
    """The mean of some runs."""

    gpus: int
    way: str
    seconds: float
    share_of_best: float
    failures: float
    lost_gpu_minutes: float

    def cells(self) -> list[str]:
        """What the table shows of it."""
        return [
            str(self.gpus),
            self.way,
            f"{self.seconds / 60:.1f}",
            f"{self.share_of_best:.0%}",
            f"{self.failures:.1f}",
            f"{self.lost_gpu_minutes:.1f}",
        ]


def line(model: Model, way: str, gpus: int, runs: int) -> Line:
    """Simulate some runs."""
    outcomes, shares_of_best = list[Outcome](), list[float]()
    for seed in range(runs):
        draws = random.Random(seed)
        units = model.units(NUM_UNITS, draws)
        outcome = (dealt_out if way == "torchrun" else lambda *given: Tasks(*given).run())(model, gpus, units, draws)
        outcomes.append(outcome)
        shares_of_best.append(sum(units) / gpus / outcome.seconds)
    mean = statistics.fmean
    return Line(
        gpus=gpus,
        way=way,
        seconds=mean(outcome.seconds for outcome in outcomes),
        share_of_best=mean(shares_of_best),
        failures=mean(outcome.failures for outcome in outcomes),
        lost_gpu_minutes=mean(outcome.lost for outcome in outcomes) / 60,
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--unit-seconds", type=float, default=17.5, help="one unit on one GPU")
    parser.add_argument("--spread", type=float, default=0.03, help="standard deviation of a unit's time, as a share")
    parser.add_argument("--start-seconds", type=float, default=60.0, help="from a process's start to its first unit")
    parser.add_argument("--hours-between-failures", type=float, default=24.0, help="of one machine of 8 GPUs")
    parser.add_argument("--repair-seconds", type=float, default=300.0, help="until the machine is back")
    parser.add_argument("--saved-every", type=float, default=60.0, help="seconds between the saves of a long unit")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--csv", type=Path, help="file for the table, unrounded")
    asked = parser.parse_args()
    given = (asked.unit_seconds, asked.spread, asked.start_seconds)
    kinds = {
        "no failures": Model(*given, math.inf, asked.repair_seconds, asked.saved_every),
        f"each machine fails every {asked.hours_between_failures:g} h": Model(
            *given, asked.hours_between_failures * 3600, asked.repair_seconds, asked.saved_every
        ),
    }
    lines = list[Line]()
    for title, model in kinds.items():
        print(f"{NUM_UNITS:,} units of {model.unit:g} s, {title}, n = {asked.runs} runs")
        table = tables.Table({"GPUs": 4, "way": 8, "minutes": 8, "of best": 7, "failures": 8, "lost GPU-minutes": 16})
        for gpus in asked.gpus:
            rows = [line(model, way, gpus, asked.runs) for way in ("torchrun", "tasks")]
            lines += rows
            table.add(rows)
    if asked.csv:
        tables.write_csv(asked.csv, Line, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
