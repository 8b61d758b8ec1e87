"""Relabel: label every view of every image with the committee's logits, and write the finished dataset."""

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from attar.core import memory, ranks, work
from attar.core.errors import AttarError
from attar.core.log import Advance, readable_bytes
from attar.models import committee as committees
from attar.models.committee import Committee
from attar.ops import replay
from attar.ops.choices import Storage
from attar.ops.codec import EncodedLogits, Parts
from attar.stages import dataset_files, growth, members
from attar.stages.dataset_info import INFO, DatasetInfo, LabelInfo, TeacherInfo, write_info
from attar.stages.folder import MANIFEST, StageFolder, logged, manifest_of, total
from attar.stages.label_choice import Relabel, planned_bytes, refuse_full_disk
from attar.stages.protocol import Protocol
from attar.stages.published_labels import PublishedLabels
from attar.stages.run import ImagesMade, images_in, labels_in
from attar.stages.workspace import Workspace
from attar.store import atomic, fkd, learned_labels, mapped, sealed
from attar.store import images as image_files
from attar.store import labels as label_files
from attar.store.images import ImageSet
from attar.store.labels import HEADER, EpochLabels, Header, LabelStore


def run(
    space: Workspace,
    config: Relabel,
    protocol: Protocol,
    recovered: Path | None = None,
    folder: Path | None = None,
    *,
    scored: Literal["soft", "hard"] = "soft",
) -> dict[str, Any]:
    """Make ``<out>/distilled``: images, labels and everything needed to use them; returns its manifest.

    ``protocol`` and ``scored`` are recorded as the way to train on the set; they do not change it. Pass ``recovered``
    and ``folder`` to read and write elsewhere, as for a baseline. Raises AttarError when the labels do not fit on the
    disk, or the folder holds other labels.
    """
    recovered, out = recovered or space.out / "recover", folder or space.out / "distilled"
    made = images_in(recovered)
    config = config.changed(committee=members.resolved(space.num_teachers, config.committee))
    asked = () if config.mode == "none" else members.of_labels(space, config.committee)
    parents = members.parents(space, asked) | {"images": made.images_sha256}
    if config.imported:
        parents["labels"] = _listed(space, Path(config.imported).expanduser(), out)
    request = space.request(relabel=config)
    stage = StageFolder(out, "relabel", request, parents, space.log.warn, lambda: _expected(config, out))
    growth.begin_labels(stage, config, space.log)
    finished = stage.finished()
    if finished is not None:
        return finished
    committee = members.committee(space, config.committee) if asked else None
    if committee is not None:
        _refuse_other_classes(space, asked, committee, made.settings)
    images = mapped.read(recovered / "data", parents["images"], "the manifest of recover")
    sealed.check_all(recovered / "data", made.listed("data"))
    published = None
    if config.imported:
        published = _published(space, config, images)
        config = _as_published(config, published)
    storage = made.storage
    if config.mode == "given" and not made.soft_labels:
        raise AttarError(
            f"The method made no soft labels with the images in {recovered}; use --relabel.mode stored, or let it make "
            f"some (--method tesla with --recover.labels learned)."
        )
    if config.imported and storage.factor > 1:
        raise AttarError(
            f"Each image in {recovered} holds {storage.num_parts}, but published labels are for whole images; leave "
            f"out --relabel.imported."
        )
    header = _header(space, config, images, parents, storage) if config.mode == "stored" else None
    if header is not None:
        _tell_size(space, config, header, out)
    stage.begin()
    earlier = []
    if header is not None:
        assert committee is not None  # labels are stored
        kept = None
        if published is None:
            kept = growth.earlier_labels(out, images, header, by_batch=committee.by_batch)
        earlier = [labels_in(kept.folder.parent).elapsed] if kept is not None else []
        _label(space, header, _labelling(space, config, header, committee, images, published, kept), out)
    if ranks.is_first():
        if out.is_relative_to(space.out):  # in a shared folder another run may be writing
            atomic.sweep(out)
        dataset_files.link_images(recovered / "data", out / "data")
        label_bytes = 0
        if header is not None:
            label_files.write_header(out / "labels", header)
            label_bytes = label_files.num_bytes(out / "labels", header)
        elif config.mode == "given":
            label_bytes = dataset_files.copy_given(recovered, out, images, parents["images"], len(space.real.classes))
        elif committee is not None:
            committee.save(out / "teacher", config.teacher_precision)
            label_bytes = dataset_files.folder_bytes(out / "teacher")
        image_bytes = image_files.num_bytes(out / "data")
        files = _files(out, header)
        known = sealed.entries(out, files)
        info = _info(space, config, protocol, committee, images, made, parents, (image_bytes, label_bytes))
        scored = "hard" if config.mode == "none" else scored
        info = info.changed(files=known, storage=storage, labels=info.labels.changed(scored=scored))
        write_info(out, info)
        result = {"image_bytes": image_bytes, "label_bytes": label_bytes, "num_images": len(images.images)}
        files.append(out / INFO)
        finished = stage.finish(result, total([logged(out, "labels"), *earlier]), space.device.describe(), files)
        shutil.rmtree(out.parent / growth.BEFORE, ignore_errors=True)
    ranks.wait()
    return finished or manifest_of(out, "relabel")


def _labelling(
    space: Workspace,
    config: Relabel,
    header: Header,
    committee: Committee,
    images: ImageSet,
    published: PublishedLabels | None,
    kept: LabelStore | None,
) -> Callable[[int, Advance], EpochLabels | Parts]:
    """Return a function that gives the labels of one epoch: published ones, or the committee's.

    ``kept`` are the labels of the first images and epochs, which are taken as they are.
    """
    if published is not None:
        return _reading(published, header)
    whole = _asking(space, config, header, committee, images)
    if kept is None:
        return whole
    if (first := kept.header.num_images) == header.num_images:
        return growth.added_to(kept, None, whole)
    space.log.say(f"relabel   the labels of the first {first:,} images are kept")
    new = ImageSet(images.images[first:], images.labels[first:], images.slots[first:])
    smaller = header.changed(num_images=len(new.labels))
    return growth.added_to(kept, _asking(space, config, smaller, committee, new, ("after", first)), whole)


def _listed(space: Workspace, folder: Path, out: Path) -> str:
    """Return the hash of the imported labels; after the import their folder is no longer needed."""
    if (out / MANIFEST).is_file() and not folder.exists():
        known = labels_in(out).imported_sha256
        if known:
            space.log.warn(f"the folder {folder} no longer exists; the labels that were imported from it are used")
            return known
    return fkd.fingerprint(folder)


def _refuse_other_classes(
    space: Workspace, asked: Sequence[int], committee: Committee, recovering: Mapping[str, Any]
) -> None:
    """Raise AttarError for teachers of other classes than the data's; recover checked those that made the images."""
    checked = recovering.get("members") or (0,)
    for index, teacher in zip(asked, committee.members, strict=True):
        if index not in checked and teacher.classes != space.real.classes:
            first = next((name for name in teacher.classes if name not in space.real.classes), teacher.classes[0])
            raise AttarError(
                f"Teacher {index} ({teacher.architecture}) knows other classes than the data ('{first}' is the first "
                f"that differs); leave it out of --relabel.committee.members, or import a teacher of these classes."
            )


def check_sources(config: Relabel) -> None:
    """Raise AttarError, before the run starts, when the labels to import do not exist."""
    if config.imported:
        fkd.fingerprint(Path(config.imported).expanduser())


def label_epoch(
    images: ImageSet,
    committee: Committee,
    header: Header,
    stream: torch.Generator,
    batch_size: int,
    epoch: int = 0,
    device: torch.device | None = None,
    after_batch: Callable[[int], None] = lambda _: None,
) -> EpochLabels:
    """Draw one epoch's views and label them with the committee, on ``device``, by default that of the images.

    Calls ``after_batch`` with the size of each batch. Raises AttarError when a logit is not finite.
    """
    size = (header.height, header.width)
    order = replay.published_order(images.labels, images.slots, epoch) if header.mix.shared_by else None
    records = replay.draw(header.num_images, size, header.views, header.mix, stream, order, header.storage, epoch)
    asked = torch.arange(header.num_images)
    if committee.by_batch:  # which images share a batch is part of the result, and classes must be mixed in it
        asked = torch.randperm(header.num_images, generator=stream)
        batch_size = max(1, batch_size // committee.batch) * committee.batch
    answers, shown = EncodedLogits(header.num_images, header.codec), replay.ShownEpoch(images.images, records, device)
    with torch.inference_mode():
        for index in committees.batches(asked, batch_size):
            answers.put(index, committee.logits(shown.show(index)))
            after_batch(len(index))
    if not all(bool(part.isfinite().all()) for part in answers.parts.values() if part.is_floating_point()):
        raise AttarError(
            f"The teacher returns logits that are not finite for views of the images (epoch {epoch}); "
            f"squeeze another teacher."
        )
    return EpochLabels(records, answers.parts)


def _published(space: Workspace, config: Relabel, images: ImageSet) -> PublishedLabels:
    folder = Path(config.imported).expanduser()
    with space.log.progress("looking", sum(1 for _ in folder.glob("epoch_*/batch_*"))) as advance:
        return PublishedLabels(folder, images, len(space.real.classes), advance)


def _as_published(config: Relabel, published: PublishedLabels) -> Relabel:
    """Return ``config`` with the published labels' views and mixing; they may have fewer epochs."""
    epochs = min(config.epochs, published.num_epochs)
    pool = min(config.pool_epochs, published.num_epochs)
    return config.changed(
        views=published.views, mix=published.mix, epochs=config.epochs if pool else epochs, pool_epochs=pool
    )


def _asking(
    space: Workspace,
    config: Relabel,
    header: Header,
    committee: Committee,
    images: ImageSet,
    more: tuple[str | int, ...] = (),
) -> Callable[[int, Advance], EpochLabels]:
    """Return a function that labels one epoch with the committee; one epoch is one progress step.

    ``more`` names random streams of their own for images that are added to a set.
    """
    device = space.device.device
    near = ImageSet(mapped.placed(images.images, device), images.labels, images.slots)

    def answer(epoch: int, advance: Advance) -> EpochLabels:
        stream = space.stream("relabel", "epoch", epoch, *more)
        return label_epoch(
            near,
            committee,
            header,
            stream,
            config.batch_size,
            epoch,
            device,
            lambda num_images: advance(num_images / header.num_images),
        )

    return answer


def _reading(published: PublishedLabels, header: Header) -> Callable[[int, Advance], EpochLabels]:
    """Return a function that reads one epoch of published labels; one epoch is one progress step."""

    def read(epoch: int, advance: Advance) -> EpochLabels:
        found = published.epoch(epoch, header.codec)
        advance()
        return found

    return read


def _label(space: Workspace, header: Header, answer: Callable[[int, Advance], EpochLabels | Parts], out: Path) -> None:
    log, folder = space.log.beside(out), out / "labels"
    warn = work.once(log.warn)

    def write(name: str, epochs: range, advance: Advance) -> None:
        label_files.write_file(folder, header, name, [answer(epoch, advance) for epoch in epochs])

    jobs = [
        work.Job(
            name=name,
            run=functools.partial(write, name, epochs),
            done=functools.partial(_is_whole, folder, header, name, warn),
            steps=len(epochs),
            num_results=len(epochs),
        )
        for name, epochs in header.files().items()
    ]
    with memory.kept():
        work.do(jobs, log, "relabel", unit="epochs", results="epochs", event="labels")


def _is_whole(folder: Path, header: Header, name: str, warn: Callable[[str], object]) -> bool:
    """Return whether a label file is complete; warns why an existing one must be made again."""
    if not (folder / name).exists():
        return False
    fault = label_files.fault(folder, header, name)
    if fault:
        warn(f"{fault.partition('; ')[0]}; it is made again")
    return not fault


def _expected(config: Relabel, out: Path) -> list[Path]:
    """Return the files that finished labels have."""
    header = label_files.LabelStore(out / "labels").header if config.mode == "stored" else None
    return [*_files(out, header), out / INFO]


def _files(out: Path, header: Header | None) -> list[Path]:
    """Return the files of a distilled dataset except ``dataset.json``: images, and labels or teachers."""
    images = image_files.files_of(out / "data")
    if header is None:
        others = [*sorted((out / "teacher").rglob("*")), out / "labels" / learned_labels.FILE]
        return images + [path for path in others if path.is_file() and not atomic.is_temporary(path)]
    return images + [out / "labels" / name for name in (HEADER, *header.files())]


def _header(space: Workspace, config: Relabel, images: ImageSet, parents: dict[str, str], storage: Storage) -> Header:
    count, height, width = len(images.images), images.images.shape[2], images.images.shape[3]
    num_classes, stored = len(space.real.classes), config.stored_epochs
    one = label_files.record_bytes(num_classes, config.codec, config.views, config.mix, storage)
    return Header(
        codec=config.codec,
        images_sha256=parents["images"],
        num_images=count,
        num_classes=num_classes,
        num_epochs=stored,
        pooled=bool(config.pool_epochs),
        epochs_per_file=min(stored, label_files.epochs_per_file(count, one)),
        height=height,
        width=width,
        views=config.views,
        mix=config.mix,
        teacher=parents.get("labels") or parents.get("committee") or parents["teacher"],
        storage=storage,
    )


def _tell_size(space: Workspace, config: Relabel, header: Header, out: Path) -> None:
    """Print the labels' size before writing them; raises AttarError when the disk has too little room."""
    needed = planned_bytes(header.num_images, header.num_classes, config, space.choice.size, header.storage)
    refuse_full_disk(needed, out)
    epochs = f"{header.num_epochs} epoch{'s' if header.num_epochs > 1 else ''}"
    pooled = " in a pool" if header.pooled else ""
    which = "" if out == space.out / "distilled" else f" ({out.parent.name})"
    shape = f"{epochs} of {header.num_images:,} images{pooled}, {header.codec.title()}"
    space.log.say(f"relabel   {shape}: at most {readable_bytes(needed)} of labels{which}")


def _info(
    space: Workspace,
    config: Relabel,
    protocol: Protocol,
    committee: Committee | None,
    images: ImageSet,
    made: ImagesMade,
    parents: dict[str, str],
    num_bytes: tuple[int, int],
) -> DatasetInfo:
    real, answering = space.real, committee.members if committee else ()
    known = members.weights_sha256(space, members.of_labels(space, config.committee)) if committee else ()
    normalisation = answering[0].normalisation if answering else space.normalisation
    return DatasetInfo(
        name=space.choice.source,
        source=real.name,
        licence=real.licence,
        classes=real.classes,
        titles=real.titles,
        method=made.method,
        recover=made.settings,
        num_images=len(images.images),
        ipc=len(images.images) // len(real.classes),
        size=space.choice.size,
        mean=normalisation.mean,
        std=normalisation.std,
        images_sha256=parents["images"],
        learned=made.learned,
        teachers=tuple(
            TeacherInfo(architecture=one.architecture, weights_sha256=sha256, accuracy=one.accuracy)
            for one, sha256 in zip(answering, known, strict=True)
        ),
        seed=space.seed,
        labels=LabelInfo(
            mode=config.mode,
            epochs=config.epochs,
            views=config.views,
            mix=config.mix,
            committee=config.committee,
            teacher_precision=config.teacher_precision,
            imported=bool(config.imported),
        ),
        protocol=protocol,
        image_bytes=num_bytes[0],
        label_bytes=num_bytes[1],
        versions=made.versions,
    )
