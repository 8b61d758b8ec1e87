"""Grow a finished set: make images for more slots, or labels for more epochs, and keep the earlier ones bit for bit.

A method can add images if none of its images depends on how many a class gets (``MethodConfig.grows``). Then only the
units of the new slots are made, and only new images are labelled. Labels of an epoch do not depend on other epochs, so
more epochs can be added to any labels that are no pool. The manifest's ``grown`` lists the earlier sizes.
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
from attar.stages.folder import GROWN, MANIFEST, PLAN, StageFolder, manifest_of
from attar.stages.label_choice import Relabel, lacks_epochs
from attar.stages.run import FOLDERS, is_finished
from attar.store import labels as label_files
from attar.store import sealed
from attar.store.images import ImageSet
from attar.store.labels import HEADER, EpochLabels, Header, LabelStore
from attar.synthesis.method import MethodConfig

BEFORE = "distilled-before"
"""Folder beside a set that keeps the earlier labels until the new ones are finished."""
_KEY, _EPOCHS = "recover.ipc", "relabel.epochs"


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
            log.say(f"recover   images of each class: {former} kept, {config.ipc - former} added")
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


def begin_labels(stage: StageFolder, config: Relabel, log: Log) -> None:
    """Put finished labels of fewer epochs, but otherwise the same settings, aside, to be a part of the new ones."""
    manifest = manifest_of(stage.path, "relabel") if is_finished(stage.path) else None
    ranks.wait()  # everyone has looked before anyone writes
    if manifest is None or not lacks_epochs(manifest["request"]["relabel"], config):
        return
    if stage.differs_only_in(manifest, _EPOCHS) and ranks.is_first():
        former = manifest["request"]["relabel"]["epochs"]
        aside = stage.path.with_name(BEFORE)
        shutil.rmtree(aside, ignore_errors=True)
        (stage.path.parent / FOLDERS["evaluate"] / MANIFEST).unlink(missing_ok=True)
        stage.path.rename(aside)
        sealed.write_json(stage.path / PLAN, {**manifest, GROWN: [*manifest.get(GROWN, ()), {"epochs": former}]})
        if config.mode == "stored":
            log.say(f"relabel   the labels of {former} epochs are kept; {config.epochs - former} more are made")
    ranks.wait()


def earlier_labels(out: Path, images: ImageSet, header: Header, *, by_batch: bool) -> LabelStore | None:
    """Return the labels that were set aside, if they are a part of those that ``header`` describes; else None.

    They are of the first images and of the first epochs. ``by_batch`` says that a label depends on the images that are
    labelled with it.
    """
    folder = out.parent / BEFORE / "labels"
    if not (folder / HEADER).is_file():
        return None
    store = LabelStore(folder)
    former, same = store.header, set(Header.model_fields) - {"images_sha256", "num_images", "epochs_per_file"}
    if not header.pooled and former.num_epochs < header.num_epochs:
        same -= {"num_epochs"}
    if any(getattr(former, name) != getattr(header, name) for name in same):
        return None
    count = former.num_images
    if count > header.num_images or (count < header.num_images and (by_batch or header.mix.shared_by)):
        return None
    first = ImageSet(images.images[:count], images.labels[:count], images.slots[:count])
    return store if first.sha256() == former.images_sha256 else None


def added_to(
    store: LabelStore, new: Callable[[int, Advance], EpochLabels] | None, whole: Callable[[int, Advance], EpochLabels]
) -> Callable[[int, Advance], EpochLabels | Parts]:
    """Return a function that gives an epoch's labels: the stored ones, then those of new images by ``new``.

    ``new`` is None if there are no new images. An epoch that is not stored is labelled by ``whole``.
    """
    first = store.header.num_images

    def both(epoch: int, advance: Advance) -> EpochLabels | Parts:
        if epoch >= store.header.num_epochs:
            return whole(epoch, advance)
        kept = store.parts(epoch)
        if new is None:
            advance()
            return kept
        more = label_files.parts_of(new(epoch, advance))
        if "partner" in more:  # images are mixed among the new ones
            more["partner"] = more["partner"] + first
        return {key: torch.cat([part, more[key]]) for key, part in kept.items()}

    return both
