"""Grow a finished set: make images for more slots, keep the earlier ones bit for bit, and label only the new ones.

A method can add images if none of its images depends on how many a class gets (``MethodConfig.grows``). Then only the
units of the new slots are made. The manifest's ``grown`` lists the earlier sizes.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.log import Advance, Log
from attar.ops.codec import Parts
from attar.stages.folder import GROWN, MANIFEST, StageFolder, manifest_of
from attar.stages.run import FOLDERS, is_finished
from attar.store import labels as label_files
from attar.store.images import ImageSet
from attar.store.labels import HEADER, EpochLabels, Header, LabelStore
from attar.synthesis.method import MethodConfig

BEFORE = "distilled-before"
"""Folder in a run that keeps the earlier labels until the new ones are finished."""
_KEY = "recover.ipc"


@dataclass(frozen=True)
class Earlier:
    """A set that the images were grown from."""

    ipc: int
    num_images: int
    images_sha256: str


def begin(stage: StageFolder, config: MethodConfig, method: str, log: Log, run: Path | None) -> tuple[Earlier, ...]:
    """Turn a finished smaller set into one that is to be continued; returns the earlier sets, smallest first.

    Does nothing if the folder holds no finished set of fewer images per class and otherwise the same settings. ``run``
    is the folder of the run whose labels, baselines and scores depend on the set; None for a baseline. Raises
    AttarError when the method cannot add images.
    """
    manifest = manifest_of(stage.path, "recover") if is_finished(stage.path) else None
    former = 0 if manifest is None else manifest["request"].get("recover", {}).get("ipc", 0)
    ranks.wait()  # everyone has looked before anyone writes
    if manifest is not None and 0 < former < config.ipc and stage.differs_only_in(manifest, _KEY):
        _refuse(config, method, former, stage.path)
        if ranks.is_first():
            if run is not None:
                _set_aside(run)
            made = manifest["result"]
            one = Earlier(former, made["num_images"], made["images_sha256"])
            stage.reopen(manifest, [*manifest.get(GROWN, ()), asdict(one)])
            log.say(f"recover   the {former} images of each class are kept; {config.ipc - former} more are made")
        ranks.wait()
    return earlier_of(stage)


def earlier_of(stage: StageFolder) -> tuple[Earlier, ...]:
    """Return the sets that a stage's images were grown from, smallest first."""
    return tuple(Earlier(**one) for one in stage.grown())


def _refuse(config: MethodConfig, method: str, former: int, path: Path) -> None:
    """Raise AttarError when images cannot be added."""
    if not config.grows():
        raise AttarError(
            f"{path} holds {former} images per class and cannot grow, because the method {method} makes each image for "
            f"a set of a given size; make a set of {config.ipc} images per class with another --out."
        )


def _set_aside(run: Path) -> None:
    """Put the finished labels of a run aside, and forget the baselines and the table of the smaller set."""
    labels = run / FOLDERS["relabel"]
    if is_finished(labels):
        shutil.rmtree(run / BEFORE, ignore_errors=True)
        labels.rename(run / BEFORE)
    shutil.rmtree(run / "baselines", ignore_errors=True)
    (run / FOLDERS["evaluate"] / MANIFEST).unlink(missing_ok=True)


def earlier_labels(out: Path, images: ImageSet, header: Header) -> LabelStore | None:
    """Return the labels that were set aside, if they are of the first images and made as ``header`` asks; else None."""
    folder = out.parent / BEFORE / "labels"
    if not (folder / HEADER).is_file() or header.mix.shared_by:
        return None
    store = LabelStore(folder)
    former, same = store.header, set(Header.model_fields) - {"images_sha256", "num_images", "epochs_per_file"}
    if any(getattr(former, name) != getattr(header, name) for name in same):
        return None
    count = former.num_images
    first = ImageSet(images.images[:count], images.labels[:count], images.slots[:count])
    return store if count < header.num_images and first.sha256() == former.images_sha256 else None


def added_to(store: LabelStore, answer: Callable[[int, Advance], EpochLabels]) -> Callable[[int, Advance], Parts]:
    """Return a function that gives an epoch's labels: the stored ones, then those of new images by ``answer``."""
    first = store.header.num_images

    def both(epoch: int, advance: Advance) -> Parts:
        new = label_files.parts_of(answer(epoch, advance))
        if "partner" in new:  # images are mixed among the new ones
            new["partner"] = new["partner"] + first
        return {key: torch.cat([part, new[key]]) for key, part in store.parts(epoch).items()}

    return both
