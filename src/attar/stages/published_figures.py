"""Published figures beside a run's own: a file in its folder, written if its recipe is that of a published row."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from attar.core.errors import AttarError
from attar.stages.evaluation import first_fault
from attar.store import atomic, sealed

FILE = "published.json"
Labels = Literal["soft", "hard"]


@dataclass(frozen=True)
class Figure:
    """The published accuracy of one student."""

    student: str
    """Architecture as attar names it, or the paper's name if attar does not know which network it is."""
    top1: float
    """Top-1 accuracy in percent."""
    source: str
    """Paper and table."""
    labels: Labels = "soft"
    """Labels that the student was trained with."""
    spread: float | None = None
    """Published standard deviation; None if there is none."""
    said: str = ""
    """Who reports it, if not the method's own paper: 'as CV-DD quotes CDA'."""
    unlike: str = ""
    """How the published setting differs from the recipe's: 'on whitened images'."""
    label_bytes: int | None = None
    """Published size of the labels."""


@dataclass(frozen=True)
class Beside:
    """Published figures that a run can be compared with: those for its data, method and images per class."""

    recipe: str
    """Name of the built-in recipe."""
    figures: tuple[Figure, ...]
    changed: tuple[str, ...] = ()
    """Settings of the run that differ from the recipe's, each as ``key old -> new``."""

    def of(self, student: str, labels: str) -> Figure | None:
        """Return the first figure of this student with these labels."""
        plain = student.removeprefix("timm/")
        found = (one for one in self.figures if one.student.removeprefix("timm/") == plain and one.labels == labels)
        return next(found, None)


def write(run: Path, beside: Beside | None) -> None:
    """Write the figures into a run's folder; None removes those of an earlier recipe."""
    if beside is None:
        atomic.remove(run / FILE)
    else:
        sealed.write_json(run / FILE, asdict(beside))


def read(run: Path) -> Beside | None:
    """Return the figures in a run's folder, None if there are none; raises AttarError when the file is damaged."""
    path = run / FILE
    try:
        found: Mapping[str, Any] = sealed.read_json(path, sealed.FIX_DAMAGED)
        return pydantic.TypeAdapter(Beside).validate_python(found)
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        raise AttarError(f"{path} is damaged ({first_fault(error)}); {sealed.FIX_DAMAGED}.") from None
