"""Plan the units of a run, and the groups of units that share a batch."""

from collections.abc import Sequence
from itertools import groupby, pairwise

from attar.stages.growth import Earlier
from attar.stages.kept import Kept
from attar.store import units
from attar.store.units import Unit
from attar.synthesis.method import MethodConfig, UnitShape


def planned(
    num_classes: int, config: MethodConfig, grown: Sequence[Earlier] = (), earlier_run: Kept | None = None
) -> list[tuple[Unit, ...]]:
    """Return the units of a run, in groups that share a batch; all units of a group have equally many slots.

    ``grown`` are the sets that it was grown from: no unit and no group has slots of an earlier set and later ones.
    Slots that images of an earlier run fill are made for the other classes only.
    """
    needs, unit_classes, unit_slots = config.needs(), config.unit_classes, config.unit_slots
    if needs.unit == "class":
        unit_classes = 1
    elif needs.unit == "set":
        unit_classes = num_classes
    at_once, found = config.parallel_units if needs.side_by_side else 1, list[tuple[Unit, ...]]()
    full = 0 if earlier_run is None else earlier_run.ipc
    ends = sorted({config.ipc_start, full or config.ipc, *(one.ipc for one in grown), config.ipc})
    for first, end in pairwise(ends):
        slots = end if needs.unit in ("slots", "set") else unit_slots
        without = earlier_run.labels if earlier_run is not None and end <= full else ()
        todo = units.plan(num_classes, first, end, unit_classes, slots, without)
        for _, alike in groupby(todo, key=lambda unit: unit.num_slots):  # a schedule may depend on the slots (delt)
            same = list(alike)
            found += [tuple(same[start : start + at_once]) for start in range(0, len(same), at_once)]
    return found


def unit_shape(unit: Unit, size: int, num_teachers: int) -> UnitShape:
    """Return the properties of a unit that its cost depends on."""
    return UnitShape(len(unit.classes), unit.num_slots, size, num_teachers)
