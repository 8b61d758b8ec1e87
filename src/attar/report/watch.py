"""'attar watch': show a run from its log alone, as a screen on a terminal and as lines elsewhere. No PyTorch."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from attar.core import interruption
from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.log import readable_seconds
from attar.core.parser import Parser
from attar.report.run_log import Entry, RunLog, RunState, StageProgress, StudentScore

POLL_SECONDS = 1.0
"""How often the log files are read."""
LINE_SECONDS = 10.0
"""Without a terminal, the time between lines about a stage that makes progress."""
QUIET_SECONDS = 120.0
"""A run without an entry for longer than this may have been killed, or compiles; the screen says so."""
SPARK_WIDTH, CURVES_SHOWN, SCORES_SHOWN, WARNINGS_SHOWN = 32, 6, 8, 5
_BLOCKS = "▁▂▃▄▅▆▇█"


def main(arguments: Sequence[str]) -> None:
    """Show the run until it ends, or until Ctrl-C, which ends only the screen and not the run."""
    parser = Parser("attar watch", "Show how far a run is, from its log files. Ctrl-C ends the screen, not the run.")
    parser.add_argument("run", type=Path, metavar="FOLDER", help="the --out folder of a run, also one that has ended")
    parser.add_argument("--once", action="store_true", help="show the present state and end")
    options = parser.parsed(list(arguments))
    if options.run.exists() and not options.run.is_dir():
        raise AttarError(f"{options.run} is a file; give the --out folder of a run.")
    _refuse_several(options.run)
    interruption.set_message("")  # Ctrl-C is the normal way to end this verb
    console = SafeConsole(highlight=False)
    if not console.is_terminal:
        console.width = 160
    with contextlib.suppress(KeyboardInterrupt):
        (_screen if console.is_terminal else _lines)(options.run, console, options.once)


def _refuse_several(folder: Path) -> None:
    """Raise AttarError for a folder that is no run but holds runs, such as that of 'attar compare'."""
    if (folder / "log.jsonl").exists() or any(path.exists() for path in (folder / "squeeze", folder / "recover")):
        return
    runs = sorted((path for path in folder.glob("*/log.jsonl")), key=lambda path: path.stat().st_mtime)
    if runs:
        newest = runs[-1].parent
        raise AttarError(
            f"{folder} holds {len(runs)} runs; give one of them, such as the newest: attar watch {newest}."
        )


def _screen(run: Path, console: SafeConsole, once: bool) -> None:
    log = RunLog(run)
    log.read()
    if once or _has_ended(run, log.state):
        console.print(screen(run, log.state, time.time()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(screen(run, log.state, time.time()), refresh=True)
            if _has_ended(run, log.state):
                return
            time.sleep(POLL_SECONDS)
            log.read()


def _lines(run: Path, console: SafeConsole, once: bool) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    log = RunLog(run)
    log.read()
    for line in summary(run, log.state, time.time()):
        say(line)
    printed = time.monotonic()
    while not once and not _has_ended(run, log.state):
        time.sleep(POLL_SECONDS)
        lines = list(news(log.read()))
        current = log.state.current
        if current is not None and time.monotonic() >= printed + LINE_SECONDS:
            lines.append(progress_line(current))
        for line in lines:
            say(line)
            printed = time.monotonic()


def _has_ended(run: Path, state: RunState) -> bool:
    """Return whether the run has ended; logs of older versions do not say it, but then the last manifest exists."""
    return bool(state.ended) or (not state.recipe and (run / "evaluate" / "manifest.json").is_file())


def heading(run: Path, state: RunState, now: float) -> str:
    """Return one sentence on the run: whether it has begun, goes on, or has ended."""
    if not state.last:
        return f"{run} has no log yet; waiting for the run to begin (Ctrl-C ends the waiting)."
    name = f"{run}: {state.recipe}" if state.recipe else str(run)
    if _has_ended(run, state):
        why = state.ended or "finished"
        how = why if why == "finished" else f"stopped: {why}"
        return f"{name}, {how} ({datetime.fromtimestamp(state.last):%Y-%m-%d %H:%M:%S})"
    quiet = now - state.last
    if quiet > QUIET_SECONDS:
        return f"{name}, no entry for {readable_seconds(quiet)}: it was killed, or it compiles or works on a long step"
    return f"{name}, running; last entry {round(max(0.0, quiet))} s ago"


def progress_line(stage: StageProgress) -> str:
    """Return a stage's progress as one line of text."""
    parts = [_steps(stage), _results(stage)]
    if not stage.is_finished:
        rate, left = stage.rate(), stage.seconds_left()
        parts += [f"{_rate(rate)} a second"] if rate else []
        parts += [f"about {readable_seconds(left)} left in this stage"] if left is not None else []
        parts.append(stage.note)
    else:
        parts.append(f"took {readable_seconds(stage.last - stage.began)}")
    return f"{stage.name:<18} " + ", ".join(filter(None, parts))


def news(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a line for each new entry that a reader wants to see as soon as it is there."""
    for entry in entries:
        match entry["event"]:
            case "run":
                yield f"run                {entry.get('recipe', '')} begins"
            case "jobs":
                yield f"{entry['what']:<18} begins: {entry['done']} of {entry['total']} {entry['results']} are there"
            case "accuracy":
                yield f"squeeze            a teacher has {entry['top1']:.1%} on real validation images"
            case "score" if entry["top1"] is not None:
                who = f"{entry['row']}, {entry['student']}, seed {entry['seed']}"
                yield f"evaluate           {who}: {entry['top1']:.1%}"
            case "warning":
                yield f"warning: {entry['text']}"
            case "finished":
                yield "finished"
            case "stopped":
                yield f"stopped: {entry['why']}"


def summary(run: Path, state: RunState, now: float) -> list[str]:
    """Return the state as lines of text."""
    lines = [heading(run, state, now), *map(progress_line, _shown(state))]
    lines += [f"{name:<18} {top1:.1%} of the real validation images" for name, top1 in state.teachers.items()]
    lines += [f"{'units':<18} {text}"] if (text := _confidence(state)) else []
    if state.current is not None and not _has_ended(run, state):
        lines += [f"{name:<18} {sparkline(curve)} {_last(curve)}" for name, curve in _curves(state.current)]
    lines += [f"{name:<30} {text}" for name, text in _accuracies(state)]
    return lines + [f"warning: {text}" for text in state.warnings]


def screen(run: Path, state: RunState, now: float) -> RenderableType:
    """Return the state as a screen."""
    parts: list[RenderableType] = []
    if state.stages:
        parts.append(_stage_table(state))
    facts = [f"{name} has {top1:.1%} on real validation images" for name, top1 in state.teachers.items()]
    facts += [_confidence(state)]
    parts += [Text("\n".join(filter(None, facts)))] if any(facts) else []
    if state.current is not None and not _has_ended(run, state) and (curves := _curves(state.current)):
        parts.append(_rows([(name, sparkline(curve), _last(curve)) for name, curve in curves]))
        parts += [Text(state.current.note, style="dim")] if state.current.note else []
    if accuracies := _accuracies(state):
        parts.append(_rows(accuracies[-SCORES_SHOWN:]))
    parts += [Text(f"warning: {text}", style="yellow") for text in list(state.warnings)[-WARNINGS_SHOWN:]]
    spaced = [each for part in parts for each in (part, Text())][:-1]
    return (
        Panel(Group(*spaced), title=Text(heading(run, state, now)), title_align="left")
        if parts
        else Text(heading(run, state, now))
    )


def sparkline(values: Iterable[float], width: int = SPARK_WIDTH) -> str:
    """Return the curve as a line of block characters, from its least to its greatest value; '!' where not finite.

    Longer curves are averaged to ``width`` values.
    """
    known = list(values)
    if len(known) > width:
        ends = [round(place * len(known) / width) for place in range(width + 1)]
        known = [sum(known[start:end]) / (end - start) for start, end in itertools.pairwise(ends)]
    finite = [value for value in known if math.isfinite(value)]
    if not finite:
        return "!" * len(known)
    low, span = min(finite), max(finite) - min(finite)
    step = (len(_BLOCKS) - 1) / span if span > 0 else 0.0
    return "".join(_BLOCKS[round((value - low) * step)] if math.isfinite(value) else "!" for value in known)


def _stage_table(state: RunState) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for place in range(5):  # the bar takes what the words leave
        table.add_column(no_wrap=True, ratio=1 if place == 1 else None, min_width=4)
    for stage in _shown(state):
        rate, left = stage.rate(), stage.seconds_left()
        timing = f"took {readable_seconds(stage.last - stage.began)}"
        if not stage.is_finished:
            shown = [f"{_rate(rate)}/s" if rate else "", f"{readable_seconds(left)} left" if left is not None else ""]
            timing = ", ".join(filter(None, shown))
        style = "bold" if stage is state.current else ""
        bar = ProgressBar(total=max(stage.total, 1e-9), completed=stage.done)
        table.add_row(Text(stage.name, style=style), bar, Text(_steps(stage)), Text(_results(stage)), Text(timing))
    return table


def _shown(state: RunState) -> list[StageProgress]:
    """Return the stages, and the current task; others, such as reading images, only while they go on."""
    return [stage for stage in state.stages.values() if stage.results or (stage is state.current and stage.total)]


def _rows(rows: Iterable[Sequence[str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True) for cell in row))
    return table


def _steps(stage: StageProgress) -> str:
    return f"{_count(stage.done)}/{_count(stage.total)} {stage.unit}".strip() if stage.total else ""


def _results(stage: StageProgress) -> str:
    if not stage.results_total or stage.results == stage.unit:
        return ""
    return f"{stage.results_done:,}/{stage.results_total:,} {stage.results}"


def _count(steps: float) -> str:
    return f"{round(steps):,}" if steps >= 100 or abs(steps - round(steps)) < 0.05 else f"{steps:.1f}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _curves(stage: StageProgress) -> list[tuple[str, list[float]]]:
    return [(name, list(curve)) for name, curve in stage.curves.items()][:CURVES_SHOWN]


def _last(curve: Sequence[float]) -> str:
    return f"{curve[-1]:.4g}" if math.isfinite(curve[-1]) else "not finite"


def _confidence(state: RunState) -> str:
    """Return in words how sure the teacher is of the images of the last unit and of all units; '' if not measured."""
    known = [entry for entry in state.units if entry.get("teacher_accuracy") is not None]
    if not known:
        return ""
    right = [float(entry["teacher_accuracy"]) for entry in known]
    sure = [float(entry["teacher_confidence"]) for entry in known]
    others = f"; {sum(right) / len(right):.0%} of those of all {len(known)} units" if len(known) > 1 else ""
    return (
        f"the teacher recognises {right[-1]:.0%} of the images of {known[-1]['name']} (mean probability of their class "
        f"{sure[-1]:.2f}){others}"
    )


def _accuracies(state: RunState) -> list[tuple[str, str]]:
    """Return each row and student with the mean of its seeds so far."""
    groups: dict[tuple[str, str], list[StudentScore]] = {}
    for score in state.scores.values():
        groups.setdefault((score.row, score.student), []).append(score)
    found = []
    for (row, student), scores in groups.items():
        good = [score.top1 for score in scores if not score.diverged and math.isfinite(score.top1)]
        mean = f"{sum(good) / len(good):.1%}" if good else "diverged"
        seeds = f"{len(scores)} seed{'s' if len(scores) > 1 else ''}"
        found.append((f"{row}, {student}", f"{mean} ({seeds})"))
    return found
