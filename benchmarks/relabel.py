"""What labelling views of images costs: the published way (published.py) against attar, on the same images, in one run.

    python benchmarks/relabel.py --rows data-64,whole-64 --csv relabel.csv

Rows named data have no teacher: what is timed is the way from images to a batch of views and from logits to a file.
Before a row is timed both sides must show the same pictures, and give the same labels, in the same crops, flips and
mixes; else the exit code is 1. Then blocks of epochs alternate.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import published
from attar.core import memory
from attar.core.device import Execution, resolve
from attar.core.randomness import generator
from attar.models.build import build
from attar.models.choices import CommitteeChoice
from attar.models.committee import Committee
from attar.models.teacher import Teacher
from attar.ops import replay
from attar.ops.mixing import Mix, MixChoice
from attar.ops.operations import forward_operations
from attar.ops.replay import Look, LookChoice, Records
from attar.ops.views import View
from attar.stages.relabel import label_epoch
from attar.store import labels as label_files
from attar.store import mapped
from attar.store.images import ImageSet
from attar.store.labels import Header
from blocks import Block, Clock, Row, Side, main, workers_of, write_pictures
from sides import NORMALISATION, DisagreementError

ROWS = {
    "data-64": Row(64, 2048, 128, target=5.0),
    "data-32": Row(32, 4096, 128),
    "data-224": Row(224, 512, 32),
    "whole-64": Row(64, 512, 64, "resnet18"),
    "data-gpu-64": Row(64, 16384, 256, device="cuda"),
    "whole-gpu-64": Row(64, 16384, 256, "resnet18", device="cuda"),
    "whole-gpu-224": Row(224, 2048, 128, "resnet18", 1000, "cuda", target_share=0.8),
}
FARTHEST = 0.01
"""Mean absolute difference of pictures in [0, 1] that PIL's rounding to eight bits explains, and more."""


class Answering(Committee):
    """A committee that answers by a function of images in [0, 1]."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        self.choice, self._answer = CommitteeChoice(), answer

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._answer(images)


class Relabelling:
    """Both sides of a row: the same images and teacher."""

    def __init__(self, row: Row, folder: Path, pictures: Sequence[Tensor]) -> None:
        self.row, self.folder = row, folder
        self.device = resolve(Execution(device=row.device)).device
        self.precision: Literal["fp32", "bf16"] = "fp32"
        self.operations = 0.0
        self.pixels, labels = write_pictures(folder / "pictures", row, pictures)
        self.images = ImageSet(mapped.placed(self.pixels, self.device), labels, torch.zeros_like(labels))
        augmented = published.Augmented(folder / "pictures", row.size, NORMALISATION)
        draws = generator(0, "published", "order")
        self.loader = published.loader(augmented, row.batch_size, draws, self.device.type == "cuda")
        self.draws = np.random.default_rng(0)
        self.answers = torch.zeros(row.batch_size, row.num_classes, device=self.device)
        if row.network:
            module = build(row.network, row.num_classes, row.size, seed=0).to(self.device)
            self.operations = forward_operations(module, row.size)
            classes = tuple(map(str, range(row.num_classes)))
            self.teacher = Teacher(module, row.network, "small", classes, NORMALISATION, row.size)
        self.header = Header(
            images_sha256="0" * 64,
            num_images=row.num_images,
            num_classes=row.num_classes,
            num_epochs=1,
            epochs_per_file=1,
            height=row.size,
            width=row.size,
            views=LookChoice(),
            mix=MixChoice(kind="cutmix"),
            teacher="0" * 64,
        )

    def ask_normalised(self, images: Tensor) -> Tensor:
        """The teacher's answer to normalised images, or zeros without one."""
        return self.teacher.module(images).float() if self.row.network else self.answers[: len(images)]

    def ask(self, images: Tensor) -> Tensor:
        """The same to images in [0, 1], as attar asks."""
        return self.teacher.logits(images) if self.row.network else self.answers[: len(images)]

    def run(self, side: Side, num_epochs: int) -> Block:
        """Label some epochs, a file of labels for each batch or epoch."""
        clock = Clock(self.device, workers_of(self.loader))
        if side == "plain":
            predict = clock.timed(self.ask_normalised)
            for _ in range(num_epochs):
                for _ in published.label(self.loader, predict, self.folder / "epoch_0", self.device, self.draws):
                    pass
        else:
            with memory.kept():  # as in the stage
                self.label(Answering(clock.timed(self.ask)), num_epochs)
        return clock.block(num_epochs * self.row.num_images)

    def label(self, committee: Committee, num_epochs: int) -> None:
        """Label some epochs as the stage does."""
        name, size = next(iter(self.header.files())), self.row.batch_size
        for epoch in range(num_epochs):
            stream = generator(0, "relabel", "epoch", epoch)
            found = label_epoch(self.images, committee, self.header, stream, size, epoch, self.device)
            label_files.write_file(self.folder / "labels", self.header, name, [found])

    def check(self) -> list[str]:
        """One epoch of the published way, shown and asked again by attar."""
        epoch = published.label(self.loader, self.ask_normalised, self.folder / "epoch_0", self.device, self.draws)
        pictures, answers, num_images = 0.0, 0.0, 0
        for mixed, file in epoch:
            labels = torch.load(file, weights_only=True)
            records, index = records_of(labels, self.row.num_images)
            theirs, stored = NORMALISATION.undo(mixed), labels[5].float()
            shown = replay.show(self.images.images, index, records, self.device)
            again = Answering(self.ask).logits(theirs).cpu()
            pictures = max(pictures, float((shown - theirs).abs().mean()))
            answers = max(answers, float((again - stored).abs().max() / stored.abs().max().clamp_min(1)))
            num_images += len(index)
        words = f"{num_images} views: pictures {pictures:.4f} off in the mean, labels {answers:.1e}"
        if num_images != self.row.num_images or not pictures < FARTHEST or not answers < 2e-3:
            raise DisagreementError(f"attar and the published way do not give the same: {words}.")
        return [words]

    def close(self) -> None:
        """Let the workers go."""
        self.loader._iterator = None


def records_of(labels: list[Any], num_images: int) -> tuple[Records, Tensor]:
    """What a published file says was shown, as attar's records of a set of images, and of which images."""
    boxes, flips, partner, weight, box, _, index = labels

    def every(values: Tensor, empty: Tensor) -> Tensor:
        return empty.expand(num_images, *values.shape[1:]).clone().index_copy_(0, index, values)

    def look(places: Tensor) -> Look:
        whole, never = torch.tensor([0, 0, 1, 1]), torch.tensor(False)
        shift = torch.zeros(num_images, 2, dtype=torch.int64)
        return Look(View(every(boxes[places], whole), every(flips[places], never), shift))

    mix = Mix(
        every(index[partner], torch.tensor(0)),
        torch.tensor(box).expand(num_images, 4),
        torch.full((num_images,), weight, dtype=torch.float32),
    )
    return Records(look(torch.arange(len(index))), mix, look(partner)), index


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", ROWS, Relabelling, None))
