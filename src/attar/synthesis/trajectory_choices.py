"""Settings of the methods that match trajectories of weights (mtt, tesla). Nothing here imports PyTorch."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pydantic

from attar.ops.choices import AUGMENTATIONS, Augmentation
from attar.synthesis.method import SOFT_LABELS, STUDENT_RATE, MethodConfig, Needs, Stretch, UnitShape

DistilledLabels = Literal["hard", "assigned", "learned"]
"""Labels of the distilled images: their classes, or soft labels that an expert assigns or that are learned."""


class Trajectories(MethodConfig):
    """Match the weights of students trained on the distilled images with those of experts trained on real images."""

    iterations: int = pydantic.Field(default=5000, ge=1)
    """Updates of the images; each trains a student from an expert's weights and compares where both arrive."""
    image_learning_rate: float = pydantic.Field(default=1000.0, gt=0)
    """Step size for pixels, in units of the experts' normalised input."""
    momentum: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Momentum of the steps, and of those of the student's learning rate."""
    start: Literal["real", "noise"] = "real"
    """What the images begin as: random real images of their class, or noise."""
    student_steps: int = pydantic.Field(default=50, ge=1)
    """Steps that a student takes on the distilled images in each iteration."""
    expert_epochs: int = pydantic.Field(default=2, ge=1)
    """Epochs on the real images after which the student's weights are compared with the expert's."""
    max_start_epoch: int = pydantic.Field(default=5, ge=1)
    """Students begin at the weights of an expert after 0 to max_start_epoch - 1 epochs, at random."""
    batch_size: int = pydantic.Field(default=0, ge=0)
    """Distilled images in each step of a student; 0: all of them."""
    student_learning_rate: float = pydantic.Field(default=0.01, gt=0)
    """The student's learning rate at the start; it is learned with the images."""
    rate_learning_rate: float = pydantic.Field(default=1e-5, ge=0)
    """Learning rate of the student's learning rate; 0: it stays as it is."""
    labels: DistilledLabels = "hard"
    """Labels of the distilled images. 'hard': their classes; 'assigned': soft labels by the expert whose weights are
    matched, made again in every iteration (TESLA); 'learned': soft labels that begin as the experts' mean and are
    optimised with the images (DATM, arXiv 2310.05773). Use soft labels with relabel.mode given."""
    label_learning_rate: float = pydantic.Field(default=2.0, gt=0)
    """Learning rate of the logits of learned labels."""
    label_momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Momentum of that SGD."""
    dsa: tuple[Augmentation, ...] = AUGMENTATIONS
    """Kinds of differentiable Siamese augmentation (arXiv 2102.08259) of the distilled images: one at random for each
    image and step."""
    flip: bool = True
    """Let the augmentation mirror images. Turn it off when a mirrored object means something else (digits)."""
    grey: bool = False
    """Optimise grey images, for grey data: one value per pixel, copied to all three channels."""

    def needs(self) -> Needs:
        """Experts with every epoch's weights, real images to start from, and the whole set in one unit; no teacher."""
        own = Needs(
            snapshots="epochs",
            expert_epochs=self.max_start_epoch - 1 + self.expert_epochs,
            unit="set",
            real_images=self.start == "real",
            stores_real_pixels=self.start == "real",
        )
        return replace(super().needs() | own, teachers="none")

    def kinds(self) -> tuple[Augmentation, ...]:
        """Kinds of augmentation that are drawn."""
        return tuple(kind for kind in self.dsa if kind != "flip" or self.flip)

    def idle(self) -> dict[str, str]:
        """Sizes of units, because the whole set is one; the settings of learned labels, if labels are not learned."""
        units = dict.fromkeys(("unit_classes", "unit_slots", "parallel_units"), "methods that divide the set")
        learning = dict.fromkeys(("label_learning_rate", "label_momentum"), "--labels learned")
        mirror = {} if "flip" in self.dsa else {"flip": "flip in --dsa"}
        return super().idle() | units | mirror | ({} if self.labels == "learned" else learning)

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """All iterations have the same shape, and no teacher looks at the images."""
        return (Stretch(self.iterations, teachers=(0.0,) * unit.num_teachers),)

    def learns(self) -> frozenset[str]:
        """The student's learning rate, and soft labels if labels are not hard."""
        return frozenset((STUDENT_RATE,) if self.labels == "hard" else (STUDENT_RATE, SOFT_LABELS))

    def metrics(self) -> tuple[str, ...]:
        """The distance of the weights as a fraction of the expert's way, and the student's learning rate."""
        return ("loss", STUDENT_RATE)
