"""What training a student on soft labels costs: the published way (published.py) against attar, in one run.

    python benchmarks/evaluate.py --rows data-64,whole-64 --csv evaluate.csv

Rows named data have no student: what is timed is the way from images and stored labels to a batch. Before a row is
timed both sides must give the same pictures and soft labels for the same images; else the exit code is 1. Then blocks
of epochs alternate. Student, precision, layout in memory and optimiser are the same on both sides.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import published
from attar.core import memory
from attar.core.device import Execution, resolve
from attar.core.randomness import generator
from attar.models.build import build
from attar.ops import codec
from attar.ops.codec import Codec
from attar.ops.mixing import Mix, MixChoice
from attar.ops.operations import forward_operations
from attar.ops.replay import Look, LookChoice, Records
from attar.ops.views import View
from attar.stages.dataset_info import DatasetInfo, LabelInfo, TeacherInfo, write_info
from attar.stages.distilled import Distilled
from attar.stages.protocols import PROTOCOLS
from attar.store import images as image_files
from attar.store import labels as label_files
from attar.store.labels import EpochLabels, Header
from attar.training.loop import fit
from blocks import Block, Clock, Row, Side, main, workers_of, write_pictures
from relabel import FARTHEST, records_of
from sides import NORMALISATION, DisagreementError

ROWS = {
    "data-64": Row(64, 2048, 128, target=5.0),
    "data-32": Row(32, 4096, 128),
    "data-224": Row(224, 512, 32),
    "whole-64": Row(64, 256, 64, "resnet18"),
    "data-gpu-64": Row(64, 8192, 256, device="cuda"),
    "whole-gpu-64": Row(64, 8192, 256, "resnet18", device="cuda"),
    "whole-gpu-224": Row(224, 1024, 128, "resnet18", 1000, "cuda", target_share=0.8),
}


class Training:
    """Both sides of a row: the same images, labels and student."""

    def __init__(self, row: Row, folder: Path, pictures: Sequence[Tensor]) -> None:
        self.row, self.how = row, resolve(Execution(device=row.device))
        self.device, self.operations = self.how.device, 0.0
        self.precision: Literal["fp32", "bf16"] = self.how.precision
        pixels, classes = write_pictures(folder / "pictures", row, pictures)
        augmented = published.Augmented(folder / "pictures", row.size, NORMALISATION)
        pinned = self.device.type == "cuda"
        teacher = torch.randn(row.batch_size, row.num_classes, generator=generator(0, "answers")).to(self.device)
        once = published.loader(augmented, row.batch_size, generator(0, "published", "labelling"), pinned)
        draws, cpu = np.random.default_rng(0), torch.device("cpu")
        labelled = published.label(once, lambda images: teacher[: len(images)], folder / "epoch_0", cpu, draws)
        self.files = [file for _, file in labelled]
        replayed = published.Replayed(augmented, self.files)
        self.loader = published.loader(replayed, None, generator(0, "published", "order"), pinned)
        self.opened = distilled(folder / "distilled", row, pixels, classes, self.files)
        self.protocol = PROTOCOLS["cda"].changed(
            training=PROTOCOLS["cda"].training.changed(epochs=1, batch_size=row.batch_size)
        )
        if row.network:
            self.student = build(row.network, row.num_classes, row.size, seed=0).to(self.device)
            self.operations = 3 * forward_operations(self.student, row.size)  # forth, and back to weights and features

    def run(self, side: Side, num_epochs: int) -> Block:
        """Read, and train on, some epochs."""
        clock, row = Clock(self.device, workers_of(self.loader)), self.row
        if side == "plain":
            for _ in range(num_epochs):
                batches = clock.fetched(published.replay(self.loader, self.device))
                if row.network:
                    self.train(batches)
                else:
                    for _ in batches:
                        pass
        else:
            with memory.kept():  # as in the stage
                for epoch in range(num_epochs):
                    self.learn(epoch, clock)
        return clock.block(num_epochs * row.num_images, "data")

    def learn(self, epoch: int, clock: Clock) -> None:
        """An epoch as the stage has it, or its batches alone."""
        opened, size = self.opened, self.row.batch_size
        if not self.row.network:
            for _ in clock.fetched(opened.batches(epoch, size, self.device)):
                pass
            return
        batches = clock.fetched(opened.views(epoch, size, self.device, seed=0))
        fit(
            self.student,
            NORMALISATION,
            lambda _: batches,
            self.protocol.value,
            self.protocol.training,
            len(opened),
            self.how.autocast,
            lambda _: None,
        )

    def train(self, batches: Sequence | object) -> None:
        """An epoch of the published training."""
        network, temperature = self.student.train().to(memory_format=torch.channels_last), self.protocol.temperature
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
        for images, soft, _ in batches:  # type: ignore[attr-defined]
            optimiser.zero_grad()
            with self.how.autocast():
                logits = network(images.contiguous(memory_format=torch.channels_last))
            student = F.log_softmax(logits.float() / temperature, dim=1)
            F.kl_div(student, F.softmax(soft / temperature, dim=1), reduction="batchmean").backward()
            optimiser.step()

    def check(self) -> list[str]:
        """An epoch of either side, image by image."""
        count, size = self.row.num_images, self.row.size
        theirs, answers = torch.empty(count, 3, size, size), torch.empty(count, self.row.num_classes)
        for shown, soft, labels in published.replay(self.loader, self.device):
            theirs[labels[-1]], answers[labels[-1]] = NORMALISATION.undo(shown).cpu(), soft.cpu()
        order = torch.randperm(count, generator=generator(0, "order", 0)).split(self.row.batch_size)
        pictures, apart = 0.0, 0.0
        for index, (shown, targets) in zip(
            order, self.opened.batches(0, self.row.batch_size, self.device), strict=True
        ):
            assert targets.logits is not None
            pictures = max(pictures, float((NORMALISATION.undo(shown).cpu() - theirs[index]).abs().mean()))
            apart = max(apart, float((targets.logits.float().cpu() - answers[index]).abs().max()))
        words = f"{count} views: pictures {pictures:.4f} off in the mean, labels {apart:.1e}"
        if not pictures < FARTHEST or not apart < 1e-3:
            raise DisagreementError(f"attar and the published way do not give the same: {words}.")
        return [words]

    def close(self) -> None:
        """Let the workers go."""
        self.loader._iterator = None


def distilled(folder: Path, row: Row, pixels: Tensor, classes: Tensor, files: Sequence[Path]) -> Distilled:
    """A distilled dataset of these images, with what the published files say in attar's store."""
    names = tuple(f"class {number}" for number in range(row.num_classes))
    rows = ((image, int(label), place) for place, (image, label) in enumerate(zip(pixels, classes, strict=True)))
    image_files.write(folder / "data", rows, names)
    identity, count = image_files.identity(folder / "data")
    looks, mix = LookChoice(), MixChoice(kind="cutmix")
    header = Header(
        images_sha256=identity,
        num_images=count,
        num_classes=row.num_classes,
        num_epochs=1,
        epochs_per_file=1,
        height=row.size,
        width=row.size,
        views=looks,
        mix=mix,
        teacher="0" * 64,
    )
    label_files.write_file(folder / "labels", header, next(iter(header.files())), [stored(row, files)])
    label_files.write_header(folder / "labels", header)
    info = DatasetInfo(
        name="benchmark",
        source="photographs",
        licence="",
        classes=names,
        titles={},
        method="random",
        recover={},
        num_images=count,
        ipc=1,
        size=row.size,
        mean=NORMALISATION.mean,
        std=NORMALISATION.std,
        images_sha256=identity,
        teachers=(TeacherInfo(architecture="none", weights_sha256="0" * 64, accuracy=None),),
        seed=0,
        labels=LabelInfo(mode="stored", epochs=1, views=looks, mix=mix),
        protocol=PROTOCOLS["cda"],
        image_bytes=0,
        label_bytes=0,
        versions={},
    )
    write_info(folder, info)
    return Distilled(folder)


def stored(row: Row, files: Sequence[Path]) -> EpochLabels:
    """One published epoch in the order of the images."""
    count = row.num_images
    boxes, flips = torch.zeros(count, 4, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
    partners, weights = torch.zeros(count, dtype=torch.int64), torch.zeros(count)
    mix_boxes, logits = torch.zeros(count, 4, dtype=torch.int64), torch.zeros(count, row.num_classes)
    for file in files:
        labels = torch.load(file, weights_only=True)
        records, index = records_of(labels, count)
        view, mix = records.look.view, records.mix
        assert mix is not None
        assert mix.box is not None
        boxes[index], flips[index], logits[index] = view.box[index], view.flip[index], labels[5].float()
        partners[index], weights[index], mix_boxes[index] = mix.partner[index], mix.weight[index], mix.box[index]
    look = Look(View(boxes, flips, torch.zeros(count, 2, dtype=torch.int64)))
    return EpochLabels(
        Records(look, Mix(partners, mix_boxes, weights), look.take(partners)), codec.encode(logits, Codec())
    )


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", ROWS, Training, None))
