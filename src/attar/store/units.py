"""Finished units of recovered images on disk: one file per unit, with the snapshots and curves for the figures."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.errors import AttarError
from attar.store import weights
from attar.store.sealed import FIX_DAMAGED


@dataclass(frozen=True)
class Unit:
    """One slot, or several, of a block of classes."""

    slot: int
    """The first slot."""
    block: int
    """Number of the block of ``unit_classes`` classes."""
    classes: tuple[int, ...]
    num_slots: int = 1

    @property
    def labels(self) -> tuple[int, ...]:
        """Class of each image; every slot has each class once."""
        return self.classes * self.num_slots

    @property
    def slots(self) -> tuple[int, ...]:
        """Slot of each image."""
        return tuple(slot for slot in range(self.slot, self.slot + self.num_slots) for _ in self.classes)

    @property
    def name(self) -> str:
        """The unit's name: part of its file name and of the names of its random streams."""
        return f"slot{self.slot:05d}-block{self.block:04d}"

    def path(self, folder: Path) -> Path:
        """Return the unit's file."""
        return folder / f"{self.name}.safetensors"


@dataclass(frozen=True)
class UnitResult:
    """The result of a unit."""

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, " image"]
    snapshots: dict[int, UInt8[Tensor, "image 3 height width"]]
    """Images, by the number of iterations done."""
    curves: dict[str, Float[Tensor, " iteration"]]
    """Loss terms and metrics of every iteration."""
    verifier: dict[int, float]
    """The verifier's accuracy on the images, by the number of iterations done."""
    num_parallel: int = 1
    """How many units, including this one, shared a teacher batch."""
    soft_labels: Float[Tensor, "image class"] | None = None
    """Probabilities that the method learned with the images."""
    learned: dict[str, float] = field(default_factory=dict)
    """Numbers that the method learned for the whole set."""


def plan(
    num_classes: int,
    first_slot: int,
    last_slot: int,
    unit_classes: int,
    unit_slots: int = 1,
    without: Collection[int] = (),
) -> list[Unit]:
    """Return all units of a run, ordered by slot; they depend on the recipe, not on the number of processes.

    ``last_slot`` is exclusive. Units begin at multiples of ``unit_slots``, or at ``first_slot``. The classes in
    ``without`` get no images; blocks of the other classes have numbers after theirs, so that no unit draws what a unit
    of those classes drew.
    """
    todo = [label for label in range(num_classes) if label not in without]
    blocks = [tuple(todo[start : start + unit_classes]) for start in range(0, len(todo), unit_classes)]
    first_block = -(-len(without) // unit_classes)
    starts = [slot for slot in range(first_slot, last_slot) if slot % unit_slots == 0 or slot == first_slot]
    return [
        Unit(start, place, block, end - start)
        for start, end in zip(starts, [*starts[1:], last_slot], strict=True)
        for place, block in enumerate(blocks, start=first_block)
    ]


def save(folder: Path, unit: Unit, result: UnitResult, identity: str = "") -> None:
    """Write the unit's file atomically. Times are in the log, not in this file, so equal work gives equal bytes.

    ``identity`` is a hash that identifies the work that the unit is part of.
    """
    tensors = {"images": result.images, "labels": result.labels}
    tensors |= {f"snapshot.{iteration}": images for iteration, images in result.snapshots.items()}
    tensors |= {f"curve.{name}": values for name, values in result.curves.items()}
    if result.soft_labels is not None:
        tensors["soft_labels"] = result.soft_labels
    extra = {
        "verifier": json.dumps(result.verifier),
        "num_parallel": str(result.num_parallel),
        "unit": unit.name,
        "made_for": identity,
    }
    if result.learned:
        extra["learned"] = json.dumps(result.learned)
    weights.save_weights(unit.path(folder), tensors, extra, sealed=True)


def fault(folder: Path, unit: Unit, identity: str = "") -> str:
    """Return in a sentence what is wrong with a unit's file (missing, damaged, of other work); '' if nothing is."""
    try:
        load(folder, unit, identity)
    except AttarError as error:
        return str(error)
    return ""


def load(folder: Path, unit: Unit, identity: str = "") -> UnitResult:
    """Read a unit's file.

    Raises AttarError naming the file when it is missing, damaged, of another unit, or of other work than ``identity``
    (if given).
    """
    path = unit.path(folder)
    if not path.is_file():
        raise AttarError(f"There is no file {path}; delete the folder {folder.parent} and run the same command again.")
    tensors, extra = weights.load_weights(path)
    count = len(unit.labels)
    images, labels = tensors.get("images"), tensors.get("labels")
    fits = images is not None and images.dtype == torch.uint8 and images.ndim == 4 and images.shape[:2] == (count, 3)
    if not fits or labels is None or labels.tolist() != list(unit.labels) or extra.get("unit", unit.name) != unit.name:
        raise AttarError(f"{path} does not hold the images of {unit.name}; {FIX_DAMAGED}.")
    if identity and extra.get("made_for", identity) not in ("", identity):
        raise AttarError(f"{path} belongs to another run; {FIX_DAMAGED}.")
    return _result(tensors, extra)


def first(folder: Path) -> UnitResult:
    """Return the first unit of a folder; raises AttarError when there is none or it is damaged."""
    path = min(folder.glob("slot*-block*.safetensors"), default=None)
    if path is None:
        raise AttarError(f"{folder} holds no units; delete the folder {folder.parent} and run the same command again.")
    tensors, extra = weights.load_weights(path)
    if not {"images", "labels"} <= tensors.keys():
        raise AttarError(f"{path} holds no images; {FIX_DAMAGED}.")
    return _result(tensors, extra)


def _result(tensors: dict[str, Tensor], extra: dict[str, str]) -> UnitResult:
    return UnitResult(
        images=tensors["images"],
        labels=tensors["labels"],
        snapshots={int(key.split(".")[1]): value for key, value in tensors.items() if key.startswith("snapshot.")},
        curves={key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith("curve.")},
        verifier={int(key): value for key, value in json.loads(extra.get("verifier", "{}")).items()},
        num_parallel=int(extra.get("num_parallel", 1)),
        soft_labels=tensors.get("soft_labels"),
        learned=json.loads(extra.get("learned", "{}")),
    )
