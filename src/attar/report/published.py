"""Published accuracies in tables: beside the run's own, with a mark where the settings differ."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attar.stages.published_figures import Figure

if TYPE_CHECKING:
    from attar.report.table import Line

COLUMN = "published %"
"""Column of published accuracies, in tables that have one."""
MARK = "*"
"""Marks an accuracy that was measured in another setting than the run's."""
_BETWEEN = "; "
_MOST_CHANGES = 3
"""Changed settings that a note lists."""


def beside(line: "Line", figure: Figure, changed: Sequence[str]) -> "Line":
    """Return the line with its published figure; ``changed`` are settings of the run that differ from the recipe's."""
    return replace(
        line,
        published_top1=figure.top1,
        published_std=figure.spread,
        published_source=", ".join(filter(None, (figure.source, figure.said))),
        published_unlike=figure.unlike,
        published_changes=_BETWEEN.join(changed),
    )


def cell(line: "Line") -> str:
    """Return the published accuracy as in tables, with ``MARK`` if the settings differ; '' if there is none."""
    if line.published_top1 is None:
        return ""
    spread = "" if line.published_std is None else f" ± {line.published_std:.1f}"
    return f"{line.published_top1:.1f}{spread}" + MARK * bool(line.published_unlike or line.published_changes)


def in_any(lines: Sequence["Line"]) -> bool:
    """Return whether a line has a published accuracy."""
    return any(line.published_top1 is not None for line in lines)


def notes(lines: Sequence["Line"]) -> list[str]:
    """Return where published accuracies come from, and how their settings differ, one sentence per note."""
    shown = [line for line in lines if line.published_top1 is not None]
    found = list[str]()
    for source in dict.fromkeys(line.published_source for line in shown):
        values = dict.fromkeys(cell(line) for line in shown if line.published_source == source)
        found.append(f"{COLUMN}: {', '.join(values)} from {source}.")
    for unlike in dict.fromkeys(line.published_unlike for line in shown if line.published_unlike):
        found.append(f"With {MARK}: published {unlike}.")
    several = len({line.run for line in lines}) > 1
    for run, changes in dict.fromkeys((line.run, line.published_changes) for line in shown if line.published_changes):
        each = changes.split(_BETWEEN)
        rest = len(each) - _MOST_CHANGES
        more = f" and {rest} more setting{'s' * (rest > 1)}" if rest > 0 else ""
        who = f"; {run} changed" if several else "; this run changed"
        found.append(f"With {MARK}: published for the recipe as it is{who} {', '.join(each[:_MOST_CHANGES])}{more}.")
    return found
