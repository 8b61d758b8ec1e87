"""Real images of as many bytes as the distilled set: what its bytes achieve when they hold photographs instead."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from attar.core import ranks
from attar.core.elapsed import Clock
from attar.core.log import readable_bytes
from attar.core.randomness import generator
from attar.stages.choices import Evaluate
from attar.stages.dataset_info import DatasetInfo, read_info
from attar.stages.folder import StageFolder
from attar.stages.protocol import Protocol
from attar.stages.recover import RealByClass
from attar.stages.rows import DISTILLED_HARD, EQUAL_BYTES
from attar.stages.run import is_finished
from attar.stages.workspace import Workspace
from attar.store import images as image_files
from attar.synthesis.method import MethodConfig

Encoded = tuple[bytes, int, int]
"""An image's file, its class and its slot."""
_FEWEST = 2
"""Images that a student can be trained on."""


def budget(distilled: DatasetInfo, judging: Evaluate) -> int:
    """Return the bytes of the distilled images and of what their students need for labels.

    These are the stored labels, or the stored teachers of online labels; nothing when the table shows the distilled
    images with hard labels only.
    """
    hard = DISTILLED_HARD in judging.rows and all(row.labels == "hard" for row in judging.rows)
    return distilled.image_bytes + (0 if hard or judging.protocol.loss == "hard" else distilled.label_bytes)


def settings(config: MethodConfig, num_bytes: int) -> dict[str, Any]:
    """Return what the set depends on besides the real data, as plain values."""
    kept = {"budget_bytes": num_bytes, "image_format": config.image_format, "jpeg_quality": config.jpeg_quality}
    return kept | ({"webp_quality": config.webp_quality} if config.image_format == "webp" else {})


def run(space: Workspace, config: MethodConfig, num_bytes: int, folder: Path) -> bool:
    """Store as many random real images in ``folder`` as fit into ``num_bytes``; returns whether there are enough.

    ``config`` has the image format of the distilled set. The classes take turns, so their numbers of images differ by
    one at most, except for classes that have no more. The first images are those of the method 'random'. When the real
    data are streamed or not even two images fit, one warning says that the row is left out.
    """
    if space.feed == "streaming":
        space.log.warn(
            f"the row {EQUAL_BYTES} (real images of as many bytes) is left out, because the real images are streamed; "
            f"--data.resident on reads them into memory"
        )
        return False
    request = space.request(method="random", recover=settings(config, num_bytes))
    stage = StageFolder(folder, "recover", request, {"data": space.real.fingerprint}, space.log.warn)
    if stage.finished() is None:
        stage.begin()
        if ranks.is_first():
            _make(space, config, num_bytes, stage)
        ranks.wait()
    if not is_finished(folder):
        space.log.warn(
            f"the row {EQUAL_BYTES} (real images of as many bytes) is left out, because {readable_bytes(num_bytes)} "
            f"hold fewer than {_FEWEST} of them"
        )
    return is_finished(folder)


def trained_alike(protocol: Protocol, num_images: int, num_distilled: int) -> Protocol:
    """Return the protocol with as many epochs as give about the steps that it has on the distilled images."""
    training = protocol.training
    each, asked = (-(-count // training.batch_size) for count in (num_images, num_distilled))
    epochs = max(1, round(training.epochs * asked / each))
    warmup = training.warmup_epochs * epochs / training.epochs
    return protocol.changed(training=training.changed(epochs=epochs, warmup_epochs=warmup))


def protocol_of(judging: Evaluate, small: Path, distilled: Path) -> Protocol:
    """Return the protocol for the students of the set in ``small``, next to the distilled set in ``distilled``."""
    return trained_alike(judging.protocol, read_info(small).num_images, read_info(distilled).num_images)


def balanced(counts: Sequence[int], classes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (class, slot) of every image: one of each class in the order of ``classes``, then the next of each."""
    for slot in range(max(counts)):
        yield from ((label, slot) for label in classes if slot < counts[label])


def fitting(folder: Path, rows: Sequence[Encoded], classes: tuple[str, ...], num_bytes: int) -> int:
    """Write the longest beginning of ``rows`` whose files take at most ``num_bytes``; returns its number of images.

    Returns 0, and writes nothing, when not even the first image fits. Longer and shorter sets are tried in a folder of
    their own, because another run may make the same set at the same time.
    """
    most, least, count = len(rows) + 1, 0, len(rows)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fitting-", suffix=".tmp", dir=folder.parent) as tried:
        while most - least > 1:
            size = image_files.write(Path(tried), iter(rows[:count]), classes)
            least, most = (count, most) if size <= num_bytes else (least, count)
            step = int((num_bytes - size) * count / size)
            count = min(max(count + step, least + 1), most - 1)
    if least:
        image_files.write(folder, iter(rows[:least]), classes)
    return least


def _make(space: Workspace, config: MethodConfig, num_bytes: int, stage: StageFolder) -> None:
    clock, real, data = Clock(), RealByClass(space), stage.path / "data"
    classes = space.real.classes
    rows = _encoded(space, real, config, num_bytes)
    count = fitting(data, rows, classes, num_bytes)
    if count < _FEWEST:
        shutil.rmtree(stage.path)
        return
    images_sha256, _ = image_files.identity(data)
    size = image_files.num_bytes(data)
    result = {"images_sha256": images_sha256, "num_images": count, "image_bytes": size, "method": "random"}
    result |= {"size": space.choice.size, "classes": list(classes)}
    num_real = space.train.num_images
    which = f"all {count:,} real images fit" if count == num_real else f"{count:,} of {num_real:,} real images fit"
    space.log.say(f"evaluate  {which} into {readable_bytes(num_bytes)}, the bytes of the distilled set")
    numbers = [sum(label == each for _, label, _ in rows[:count]) for each in range(len(classes))]
    short = [each for each, number in enumerate(numbers) if number < max(numbers) - 1]
    if short and count < num_real:
        fewest = min(short, key=lambda each: numbers[each])
        space.log.warn(
            f"the row {EQUAL_BYTES} has {max(numbers):,} images of the largest classes, but all images of "
            f"{len(short)} smaller ones (the fewest: {numbers[fewest]:,} of '{classes[fewest]}')"
        )
    stage.finish(result, clock.elapsed(), space.device.describe(), image_files.files_of(data))


def _encoded(space: Workspace, real: RealByClass, config: MethodConfig, num_bytes: int) -> list[Encoded]:
    """Encode real images in balanced order until they exceed ``num_bytes``."""
    counts, places = [real.count(label) for label in range(real.num_classes)], dict[int, list[int]]()
    for label, count in enumerate(counts):
        stream = generator(space.seed, "recover", "order", real.class_name(label))  # as the method 'random' draws
        places[label] = _shuffled(count, stream)
    classes = _shuffled(len(counts), space.stream(str(EQUAL_BYTES), "classes"))
    rows, total = list[Encoded](), 0
    for label, slot in balanced(counts, classes):
        image = real.take(label, [places[label][slot]])[0]
        data = image_files.encode(image, config.image_format, config.image_quality)
        rows.append((data, label, slot))
        total += len(data)
        if total > num_bytes:
            break
    return rows


def _shuffled(count: int, stream: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=stream).tolist()
