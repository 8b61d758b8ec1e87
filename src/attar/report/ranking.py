"""DD-Ranking's scores of finished runs: the gain from distilled images without their labels and augmentation."""

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from attar.core.errors import AttarError
from attar.ops import ranking
from attar.report.table import fitted, percent
from attar.stages.evaluation import Accuracy
from attar.stages.rows import (
    DISTILLED,
    DISTILLED_HARD,
    DISTILLED_NOAUG,
    FULL,
    RANDOM,
    RANDOM_HARD,
    RANDOM_NOAUG,
    Row,
)
from attar.stages.run import Run

ROWS = {
    "distilled": (DISTILLED,),
    "random": (RANDOM,),
    "distilled_hard": (DISTILLED_HARD,),
    "real_hard": (FULL,),
    "distilled_plain": (DISTILLED_NOAUG,),
    "random_plain": (RANDOM_NOAUG,),
}
"""Inputs of the scores, and the row of the result table for each; the first row that exists is used."""
HARD_ROWS = ROWS | {"random": (RANDOM_HARD, RANDOM), "distilled_hard": (DISTILLED_HARD, DISTILLED)}
"""The same for a protocol without soft labels: its distilled row is already trained with hard labels."""
TEACHER = "the teacher"
"""Protocol of the row of all real images if it shows the teacher itself; its single score is compared with every
seed."""

Accuracies = Mapping[str, float]
"""Top-1 of one seed, by key of ROWS."""


@dataclass(frozen=True)
class RankingScore:
    """One of the scores, over seeds."""

    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for a single seed."""
    num_seeds: int


@dataclass(frozen=True)
class Ranking:
    """The scores of one student, computed from fractions; None if rows are missing."""

    run: str
    student: str
    protocol: str
    weight: float
    """Weight of the improvement over random in the label-robust score, and of augmented training in the other score."""
    hlr: RankingScore | None
    """Hard-label recovery: accuracy lost relative to all real images; smaller is better."""
    ior: RankingScore | None
    """Improvement over random real images with the same training."""
    lrs: RankingScore | None
    """Label-robust score, in [0, 1]."""
    ars: RankingScore | None
    """Augmentation-robust score, in [0, 1]."""
    missing: tuple[str, ...]
    """Missing rows that a score needs."""
    asked: tuple[str, ...]
    """Rows that the recipe asks for."""


@dataclass(frozen=True)
class _Kind:
    name: str
    parts: tuple[str, ...]
    value: Callable[[Accuracies, float], float]


def _hlr(top1: Accuracies) -> float:
    return ranking.hard_label_recovery(top1["real_hard"], top1["distilled_hard"])


def _ior(top1: Accuracies) -> float:
    return ranking.improvement_over_random(top1["distilled"], top1["random"])


def _plain(top1: Accuracies) -> float:
    return ranking.improvement_over_random(top1["distilled_plain"], top1["random_plain"])


_KINDS = (
    _Kind("hlr", ("real_hard", "distilled_hard"), lambda top1, _: _hlr(top1)),
    _Kind("ior", ("distilled", "random"), lambda top1, _: _ior(top1)),
    _Kind(
        "lrs",
        ("distilled", "random", "real_hard", "distilled_hard"),
        lambda top1, weight: ranking.label_robust_score(_ior(top1), _hlr(top1), weight),
    ),
    _Kind(
        "ars",
        ("distilled", "random", "distilled_plain", "random_plain"),
        lambda top1, weight: ranking.augmentation_robust_score(_ior(top1), _plain(top1), weight),
    ),
)


def rankings(run: Path, weight: float = 0.5) -> list[Ranking]:
    """Return the scores of every student of a finished run, in the order of its table.

    A score is computed for each seed that all its rows have, then averaged. Raises AttarError when the run is not
    evaluated, or no student was trained on the distilled images.
    """
    run = run.resolve()
    asked, known = Run(run).asked, Run(run).accuracies
    scores = [score for score in known if not score.diverged]
    rows = HARD_ROWS if asked.protocol.get("loss") == "hard" else ROWS
    pairs = dict.fromkeys((score.student, score.protocol) for score in scores if score.row in rows["distilled"])
    if not pairs and any(score.row in rows["distilled"] for score in known):
        raise AttarError(
            f"The training of every student on the distilled images of {run} diverged; lower the learning rate "
            "(--evaluate.protocol.training.learning-rate) and run 'attar evaluate' again."
        )
    if not pairs:
        raise AttarError(
            f"{run} has no student trained on its distilled images; add 'distilled' to --evaluate.rows and run "
            "'attar evaluate' again."
        )
    return [_ranking(run.name, student, protocol, weight, scores, rows, asked.rows) for student, protocol in pairs]


def _ranking(
    run: str,
    student: str,
    protocol: str,
    weight: float,
    scores: list[Accuracy],
    rows: Mapping[str, tuple[Row, ...]],
    asked: tuple[Row, ...],
) -> Ranking:
    seeds = sorted({one.seed for one in scores if one.student == student and one.row in rows["distilled"]})
    top1 = {part: _by_seed(those, student, protocol, scores, seeds) for part, those in rows.items()}
    found: dict[str, RankingScore | None] = {}
    for kind in _KINDS:
        common = [seed for seed in seeds if all(seed in top1[part] for part in kind.parts)]
        values = [kind.value({part: top1[part][seed] for part in kind.parts}, weight) for seed in common]
        found[kind.name] = _score(values)
    parts = dict.fromkeys(part for kind in _KINDS if found[kind.name] is None for part in kind.parts)
    missing = tuple(str(rows[part][0]) for part in parts if not top1[part])
    return Ranking(run, student, protocol, weight, **found, missing=missing, asked=tuple(map(str, asked)))


def _by_seed(
    rows: Iterable[Row], student: str, protocol: str, scores: list[Accuracy], seeds: list[int]
) -> dict[int, float]:
    """Return top-1 by seed of the first of these rows that exists, with this protocol or the row's only protocol."""
    for row in rows:
        of_row = [score for score in scores if score.row == row and score.student == student]
        protocols = {score.protocol for score in of_row}
        chosen = protocol if protocol in protocols else next(iter(protocols), "")
        if not protocols or (chosen != protocol and len(protocols) > 1):
            continue
        if chosen == TEACHER:
            return dict.fromkeys(seeds, of_row[0].top1)
        return {score.seed: score.top1 for score in of_row if score.protocol == chosen}
    return {}


def _score(values: list[float]) -> RankingScore | None:
    if not values:
        return None
    return RankingScore(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def hints(table: list[Ranking]) -> list[str]:
    """Return a sentence per run with missing rows: which scores are missing, and how to add the rows."""
    sentences = []
    for run in dict.fromkeys(line.run for line in table):
        lines = [line for line in table if line.run == run]
        lost = [kind.name.upper() for kind in _KINDS if any(getattr(line, kind.name) is None for line in lines)]
        missing = list(dict.fromkeys(row for line in lines for row in line.missing))
        asked = lines[0].asked
        new = [row for row in missing if row not in asked]
        if new:
            sentences.append(
                f"{run}: {_needing(lost)} the {_rows(new)}; add them with --evaluate.rows "
                f"{' '.join([*asked, *new])} (trained students are kept)."
            )
        if "full" in missing and "full" in asked:
            sentences.append(
                f"{run}: {_needing(lost)} the student itself trained on all real images, but the row full shows "
                "another network; add --evaluate.full-data train."
            )
        failed = [row for row in missing if row in asked and row != "full"]
        if failed:
            sentences.append(
                f"{run}: the {_rows(failed)} {'was' if len(failed) == 1 else 'were'} requested but never made: a class "
                "may have too few real images; lower --recover.ipc."
            )
        if lost and not missing:
            sentences.append(f"{run}: {_needing(lost)} rows of the same seeds; run 'attar evaluate' again.")
    return sentences


def as_csv(table: list[Ranking]) -> str:
    """Return the scores as CSV, computed from fractions; empty fields for missing scores."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"{kind.name}_{part}" for kind in _KINDS for part in ("mean", "std", "num_seeds")]
    writer.writerow(["run", "student", "protocol", "weight", *columns])
    for line in table:
        cells: list[object] = []
        for score in _scores(line):
            cells += ["", "", ""] if score is None else [round(score.mean, 6), _rounded(score.std), score.num_seeds]
        writer.writerow([line.run, line.student, line.protocol, line.weight, *cells])
    return buffer.getvalue()


def as_markdown(table: list[Ranking]) -> str:
    """Return the scores for a page, followed by the missing rows."""
    header, rows = _cells(table)
    aligned = ["---" if place < 2 else "---:" for place in range(len(header))]
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, aligned, *rows]]
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in hints(table))]) + "\n"


def for_terminal(table: list[Ranking], width: int) -> Table:
    """Return the scores for a terminal of this width; ``hints`` name the missing rows."""
    return fitted(*_cells(table), width, ("n", "protocol"))


def _cells(table: list[Ranking]) -> tuple[list[str], list[list[str]]]:
    several_runs = len({line.run for line in table}) > 1
    header = ["student", "protocol", "n", "HLR %, lower is better", "IOR %", "LRS", "ARS"]
    rows = []
    for line in table:
        hlr, ior, lrs, ars = _scores(line)
        points = ["-" if s is None else percent(100 * s.mean, s.std and 100 * s.std) for s in (hlr, ior)]
        robust = ["-" if s is None else _three_digits(s) for s in (lrs, ars)]
        counts = [score.num_seeds for score in _scores(line) if score is not None] or [0]
        num_seeds = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        name = f"{line.run}: {line.student}" if several_runs else line.student
        rows.append([name, line.protocol, num_seeds, *points, *robust])
    return header, rows


def _scores(line: Ranking) -> list[RankingScore | None]:
    return [getattr(line, kind.name) for kind in _KINDS]


def _three_digits(score: RankingScore) -> str:
    return f"{score.mean:.3f}" if score.std is None else f"{score.mean:.3f} ± {score.std:.3f}"


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 6)


def _rows(names: list[str]) -> str:
    return f"row {names[0]}" if len(names) == 1 else f"rows {_listed(names)}"


def _needing(names: list[str]) -> str:
    return f"{_listed(names)} need{'s' if len(names) == 1 else ''}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
