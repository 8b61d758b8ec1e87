"""Assemble finished units into the set of images: Parquet files, learned numbers, and soft labels if there are any."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.core.errors import AttarError
from attar.stages import kept
from attar.stages.folder import StageFolder
from attar.stages.kept import Kept
from attar.store import images as image_files
from attar.store import learned_labels, units
from attar.store.units import Unit
from attar.synthesis.method import MethodConfig

Groups = list[tuple[Unit, ...]]
"""The units of a run, in groups that share a batch."""


def assemble(
    config: MethodConfig,
    classes: tuple[str, ...],
    todo: Groups,
    stage: StageFolder,
    see: Callable[[Unit, Tensor], None] = lambda unit, images: None,
    earlier: Kept | None = None,
) -> dict[str, Any]:
    """Write the images of all units, and the soft labels that the method made; returns the manifest's values.

    The images that were kept from an ``earlier`` run come first, as the files that they were. Calls ``see`` with each
    unit and its images. Raises AttarError when separate units learned numbers for the whole set, or only some have soft
    labels.
    """
    out, fewer, learned, labels = stage.path, dict[str, int](), dict[str, float](), list[Tensor | None]()

    def rows() -> Iterator[tuple[Tensor | bytes, int, int]]:
        if earlier is not None:
            for data, label, slot in image_files.encoded(out / kept.FOLDER):
                yield data, earlier.labels[label], slot
        for group in todo:
            for unit in group:
                result = units.load(out / "units", unit, stage.identity)
                if result.num_parallel != len(group):
                    fewer[unit.name] = result.num_parallel
                if result.learned and sum(map(len, todo)) > 1:
                    raise AttarError(
                        "The method learns numbers for the whole set, so separate units would contradict one "
                        'another; return Needs(unit="set") from its needs() (see docs/add-a-method.md).'
                    )
                learned.update(result.learned)
                labels.append(result.soft_labels)
                see(unit, result.images)
                yield from zip(result.images, unit.labels, unit.slots, strict=True)

    size = image_files.write(out / "data", rows(), classes, config.image_format, config.image_quality)
    images_sha256, num_images = image_files.identity(out / "data")
    found: dict[str, Any] = {"images_sha256": images_sha256, "num_images": num_images, "image_bytes": size}
    found |= {"learned": learned} if learned else {}
    found |= {kept.RESULT: list(earlier.makers)} if earlier is not None else {}
    known = [part for part in labels if part is not None]
    if len(known) not in (0, len(labels)):
        raise AttarError(
            "The method returned soft labels for some units only; return them for all (see docs/add-a-method.md)."
        )
    if known:
        learned_labels.save(out / learned_labels.FILE, torch.cat(known), images_sha256)
        found["soft_labels"] = True
    return found | ({"fewer_parallel_units": fewer} if fewer else {})


def files_of(todo: Groups, out: Path) -> list[Path]:
    """Return the stage's files: every unit, the images, and soft labels if the method made some."""
    made = [unit.path(out / "units") for group in todo for unit in group] + image_files.files_of(out / "data")
    made += kept.files_of(out) if (out / kept.FOLDER).is_dir() else []
    return made + [path for path in [out / learned_labels.FILE] if path.is_file()]
