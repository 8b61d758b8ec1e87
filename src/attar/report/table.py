"""Tables of results: one row a training set and student, with what it cost."""

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from attar.core.log import readable_bytes
from attar.stages.folder import manifest_of

TITLES = {
    "distilled": "distilled",
    "random-soft": "random real, soft labels",
    "random-hard": "random real, hard labels",
    "full": "all real images",
}
FOLDERS = ("squeeze", "recover", "distilled", "evaluate")


@dataclass(frozen=True)
class Line:
    """One line of a result table; accuracies are per cent, of the last epoch."""

    run: str
    row: str
    student: str
    protocol: str
    num_seeds: int
    top1_mean: float
    top1_std: float | None
    """Sample standard deviation over seeds; None for a single one."""
    top5_mean: float
    top5_std: float | None
    num_images: int
    image_bytes: int
    label_bytes: int
    train_seconds: float
    """Mean over seeds."""
    device: str


def lines(run: Path) -> list[Line]:
    """The table of a finished run; raises AttarError when it is not finished."""
    manifest = manifest_of(run / "evaluate", "evaluate")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for score in manifest["result"]["scores"]:
        groups.setdefault((score["row"], score["student"], score["protocol"]), []).append(score)
    table = []
    for (row, student, protocol), scores in groups.items():
        top1, top5 = ([100 * score[key] for score in scores] for key in ("top1", "top5"))
        table.append(
            Line(
                run=run.name,
                row=row,
                student=student,
                protocol=protocol,
                num_seeds=len(scores),
                top1_mean=round(statistics.fmean(top1), 2),
                top1_std=_spread(top1),
                top5_mean=round(statistics.fmean(top5), 2),
                top5_std=_spread(top5),
                num_images=scores[0]["num_images"],
                image_bytes=scores[0]["image_bytes"],
                label_bytes=scores[0]["label_bytes"],
                train_seconds=round(statistics.fmean(score["seconds"] for score in scores), 3),
                device=manifest["device"],
            )
        )
    return table


def manifests(run: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that are done, by stage."""
    paths = [run / folder / "manifest.json" for folder in FOLDERS]
    found = [json.loads(path.read_text()) for path in paths if path.is_file()]
    return {manifest["stage"]: manifest for manifest in found}


def stage_seconds(run: Path) -> dict[str, float]:
    """Device-seconds of squeeze, recover and relabel, as far as they are done."""
    return {stage: made["device_seconds"] for stage, made in manifests(run).items() if stage != "evaluate"}


def as_csv(table: list[Line]) -> str:
    """The table as CSV, every column."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in table)
    return buffer.getvalue()


def as_markdown(table: list[Line]) -> str:
    """The table for a page."""
    header, rows = _cells(table)
    aligned = ["---" if place < 2 else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, aligned, *rows]) + "\n"


def for_terminal(table: list[Line], width: int) -> Table:
    """The table for a terminal of this width; a narrow one goes without some of the columns, which the CSV has."""
    header, rows = _cells(table)
    dropped = {"top-5 %", "images"} if width < 100 else set()
    if len({line.student for line in table}) == 1:
        dropped.add("student")
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    kept = [place for place, name in enumerate(header) if name not in dropped]
    for place in kept:
        shown.add_column(header[place], justify="left" if place < 2 else "right", no_wrap=True)
    for cells in rows:
        shown.add_row(*(cells[place] for place in kept))
    return shown


def percent(mean: float, std: float | None) -> str:
    """A mean with its spread, as in 91.2 ± 0.4."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def _cells(table: list[Line]) -> tuple[list[str], list[list[str]]]:
    several_runs = len({line.run for line in table}) > 1
    header = ["trained on", "student", "images", "top-1 %", "top-5 %", "n", "image bytes", "label bytes", "seconds"]
    rows = [
        [
            (f"{line.run}: " if several_runs else "") + TITLES.get(line.row, line.row),
            line.student,
            str(line.num_images),
            percent(line.top1_mean, line.top1_std),
            percent(line.top5_mean, line.top5_std),
            str(line.num_seeds),
            readable_bytes(line.image_bytes),
            readable_bytes(line.label_bytes),
            f"{line.train_seconds:.0f}" if line.train_seconds >= 10 else f"{line.train_seconds:.1f}",
        ]
        for line in table
    ]
    return header, rows


def _spread(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 2) if len(values) > 1 else None
