"""Whether the accuracies of several runs can be compared: the same classes, and the same real images."""

from collections.abc import Sequence
from pathlib import Path

from attar.core.printable import one_line
from attar.report import table
from attar.stages.dataset_info import read_info
from attar.stages.run import Run

_NAMED = 4


def sentences(runs: Sequence[Path]) -> list[str]:
    """Return why accuracies of evaluated runs cannot be compared, one sentence each; none if they can."""
    names = table.names_of(runs)
    if len(names) < 2:
        return []
    classes = {names[run]: frozenset(read_info(run / "distilled").classes) for run in runs}
    if len(set(classes.values())) > 1:
        shared = frozenset.intersection(*classes.values())
        listed = "; ".join(f"{one_line(name)}: {_named(own)}" for name, own in classes.items())
        common = f"{len(shared)} classes are in all of them" if shared else "no class is in all of them"
        return [
            f"These accuracies cannot be compared, because the runs have other classes ({listed}; {common}). With more "
            f"classes, or classes that are more alike, the same method scores lower. Compare each run with its own "
            f"real images."
        ]
    data = {names[run]: Run(run).images.parents.get("data", "") for run in runs}
    if len(set(filter(None, data.values()))) > 1:
        listed = "; ".join(f"{one_line(names[run])}: {_measured(run)}" for run in runs)
        return [
            f"These accuracies can be compared with reserve only, because the runs have other real images of the same "
            f"classes ({listed}). Compare each run with its own real images."
        ]
    return []


def _named(classes: frozenset[str]) -> str:
    shown = sorted(map(one_line, classes))
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"{len(shown)} classes, {', '.join(shown[:_NAMED])}{more}"


def _measured(run: Path) -> str:
    """Return the run's data in words."""
    count = sum(Run(run).scores.val_images)
    return one_line(read_info(run / "distilled").source) + (f", {count:,} validation images" if count else "")
