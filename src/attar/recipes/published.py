"""Published figures of a recipe: accuracies that papers report, as data, and the sentence that names them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from attar.core.log import readable_bytes
from attar.stages.published_figures import Figure, Labels

RESNETS = ("resnet18", "resnet50", "resnet101")
TIMM_RESNETS = tuple(f"timm/{name}" for name in RESNETS)
_NAMES = {
    "convnet3": "ConvNetW128",
    "convnet3_in": "a ConvNet",
    "convnet4_in": "a ConvNet",
    "mobilenet_v2": "MobileNetV2",
}
"""Papers' names of networks, by attar's; ResNets follow a rule."""
_RESNET = "ResNet-"


@dataclass(frozen=True)
class Published:
    """What papers report for the set that a recipe makes."""

    figures: tuple[Figure, ...] = ()
    """The paper's own figures come first; ``Figure.said`` marks those from other sources."""
    note: str = ""
    """Anything else to know, in words; that there is no published row if there are no figures."""

    def __add__(self, other: "Published") -> "Published":
        return Published(self.figures + other.figures, "; ".join(filter(None, (self.note, other.note))))

    def __str__(self) -> str:
        """Return figures and note as text without a full stop."""
        return "; ".join(filter(None, (*_clauses(self.figures), self.note)))


def row(
    source: str,
    *top1: float | tuple[float, float],
    students: Sequence[str] = RESNETS,
    labels: Labels = "soft",
    said: str = "",
    unlike: str = "",
    label_bytes: int | None = None,
) -> Published:
    """Return the figures of one row of a paper's table: top-1 in percent, or a pair with its standard deviation.

    The first figure is that of the first student, and so on. ``source`` names paper and table.
    """
    found = []
    for student, value in zip(students, top1, strict=False):
        mean, spread = value if isinstance(value, tuple) else (value, None)
        found.append(Figure(student, mean, source, labels, spread, said, unlike, label_bytes))
    return Published(tuple(found))


def note(text: str) -> Published:
    """Return words without a figure."""
    return Published(note=text)


def _clauses(figures: Sequence[Figure]) -> list[str]:
    """Return a clause for each group of figures that differ by their student only."""
    found = list[str]()
    for _, group in itertools.groupby(figures, lambda one: (one.source, one.labels, one.said, one.unlike)):
        members = list(group)
        first, again = members[0], bool(found) and {one.student for one in members} == {figures[0].student}
        numbers = f"{_number(first)} %" if again else _by_student(members)
        if first.labels == "hard" and not (again and figures[0].labels == "hard"):
            numbers += " with hard labels" if again else " and hard labels"
        if first.label_bytes is not None:
            numbers += f" and {readable_bytes(first.label_bytes)} of labels"
        found.append(", ".join(filter(None, (numbers, first.said, first.unlike))))
    return found


def _by_student(figures: Sequence[Figure]) -> str:
    """Return figures with their students: 48.7 / 49.7 % with ResNet-18 / 50, 45.0 % with a ConvNet."""
    parts = list[str]()
    for is_resnet, group in itertools.groupby(figures, lambda one: _name(one.student).startswith(_RESNET)):
        for members in [list(group)] if is_resnet else [[one] for one in group]:
            names = [_name(one.student) for one in members]
            listed = " / ".join([names[0], *(name.removeprefix(_RESNET) for name in names[1:])])
            parts.append(f"{' / '.join(map(_number, members))} % with {listed}")
    return ", ".join(parts)


def _number(figure: Figure) -> str:
    return f"{figure.top1:.1f}" + ("" if figure.spread is None else f" ± {figure.spread:.1f}")


def _name(student: str) -> str:
    plain = student.removeprefix("timm/")
    return plain.replace("resnet", _RESNET) if plain.startswith("resnet") else _NAMES.get(plain, plain)
