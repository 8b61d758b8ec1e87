"""CIM: condensing images by matching (ECCV 2026, arXiv 2607.00916), after its published code.

Each stored image is a mosaic of four real images that the teacher is surest of. Pixels are optimised until a teacher
sees in each enlarged part what it sees in the whole real image, under the same augmentation of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pydantic

from attar.ops.choices import Augmentation, Storage
from attar.synthesis.choices import Pixels
from attar.synthesis.method import Needs, Stretch, UnitShape

if TYPE_CHECKING:
    from attar.synthesis.task import Recovered, Task


class Config(
    Pixels,
    defaults={
        "iterations": 200,
        "learning_rate": 0.01,
        "betas": (0.9, 0.999),
        "schedule": "constant",
        "start_decay": 0.01,
    },
):
    """Mosaics of real images, optimised to have the features of the images that they hold."""

    factor: int = pydantic.Field(default=2, ge=1, le=8)
    """Images along each side of a stored image; each is stored at 1/factor of its side."""
    pool: int = pydantic.Field(default=300, ge=1)
    """Number of images of each class, from the first on, from which those with the lowest cross-entropy are chosen
    (published: 300; 500 for 100 and 200 images per class)."""
    layer: str = ""
    """Layer of the teacher whose output is matched; empty: the input of the classifier. Published: the input of the
    classifier for small ResNets, 'layer2' for ResNets on ImageNet, a block for ConvNets."""
    dsa: tuple[Augmentation, ...] = ("crop", "cutout", "flip")
    """Kinds of differentiable Siamese augmentation (arXiv 2102.08259), applied equally to the real image and its part,
    with one draw per unit and iteration. Leave out 'flip' when a mirrored object means something else (digits)."""

    @pydantic.model_validator(mode="after")
    def _pool(self) -> Self:
        needed = self.ipc * self.factor**2
        if needed > self.pool:
            raise ValueError(
                f"pool ({self.pool}) is smaller than the number of real images per class that the stored images hold "
                f"({needed}); raise it, or lower ipc"
            )
        return self

    def real_per_image(self) -> int:
        """One real image for each part."""
        return self.factor**2

    def needs(self) -> Needs:
        """Real images, and units of one class; the stored images start as real ones."""
        return super().needs() | Needs(real_images=True, stores_real_pixels=True, unit="class")

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """All parts of the stored images are shown in each iteration."""
        return tuple(stretch.showing(self.factor**2) for stretch in super().cost(unit))

    def metrics(self) -> tuple[str, ...]:
        """The distance of the features, which is the loss, and the fraction of views classified as their class."""
        return ("loss", "feature_distance", "view_accuracy")

    def storage(self) -> Storage:
        """Parts are enlarged bilinearly, as in the published code."""
        return Storage(factor=self.factor, enlarge="bilinear")


def recover(task: Task, config: Config) -> Recovered:
    """Optimise the mosaics of a class; real images and parts go through the same augmentation."""
    from attar.synthesis.canvas import Mosaic
    from attar.synthesis.mosaics import Surest
    from attar.synthesis.optimise import optimise
    from attar.synthesis.task import Recovered
    from attar.synthesis.terms import Features
    from attar.synthesis.views import Siamese

    storage = config.storage()
    real = Surest(config.ipc, config.pool, storage.num_parts)
    loss = (Features(place=config.layer, others=real),)
    views = Siamese(task, config.dsa)
    return Recovered(optimise(task, config, real.packed(task), views, loss, canvas=Mosaic(storage, config.grey)))
