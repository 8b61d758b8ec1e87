"""Settings that the methods share which match distributions (dm, ncfm). Nothing here imports PyTorch."""

from __future__ import annotations

import math
from dataclasses import replace

import pydantic

from attar.ops.choices import AUGMENTATIONS, Augmentation, Combination
from attar.synthesis.method import MethodConfig, Needs, Stretch, UnitShape


class Matching(MethodConfig):
    """Match stored with real images of each class, through a ConvNet that is another one in each iteration."""

    iterations: int = pydantic.Field(default=20_000, ge=1)
    """Optimisation steps of each unit."""
    image_learning_rate: float = pydantic.Field(default=1.0, gt=0)
    """Step size for pixels, in units of the teacher's normalised input; for mosaics in units of [0, 1] pixels."""
    momentum: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Momentum of the steps."""
    real_batch: int = pydantic.Field(default=256, ge=1)
    """Random real images of each class in an iteration; a smaller class is used whole."""
    dsa: tuple[Augmentation, ...] = AUGMENTATIONS
    """Kinds of differentiable Siamese augmentation (arXiv 2102.08259) of real and stored images alike: one draw for
    each class in an iteration."""
    flip: bool = True
    """Let the augmentation mirror images. Turn it off when a mirrored object means something else (digits)."""
    network_depth: int = pydantic.Field(default=0, ge=0, le=8)
    """Blocks of the ConvNets; 0: 3 at 32 pixels, one more or less for each doubling or halving of the side, at least 2;
    ncfm takes those of the experts."""
    network_width: int = pydantic.Field(default=128, ge=1)
    """Channels of the ConvNets."""
    grey: bool = False
    """Optimise grey images, for grey data: one value per pixel, copied to all three channels."""

    def needs(self) -> Needs:
        """Real images, and all slots of a class in one unit; no teacher."""
        needs = super().needs() | Needs(real_images=True, stores_real_pixels=True, unit="slots")
        return replace(needs, teachers="none")

    def idle(self) -> dict[str, str]:
        """The mirror, if it is none of the kinds of augmentation."""
        return super().idle() | ({} if "flip" in self.dsa else {"flip": "flip in --dsa"})

    def kinds(self) -> tuple[Augmentation, ...]:
        """Kinds of augmentation that are drawn."""
        return tuple(kind for kind in self.dsa if kind != "flip" or self.flip)

    def combination(self) -> Combination:
        """How the kinds are combined in a draw: one of them at random, as in DSA."""
        return "one"

    def depth(self, size: int) -> int:
        """Blocks of the ConvNets for images of this side in pixels."""
        return self.network_depth or max(2, 3 + math.ceil(math.log2(size / 32)))

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """One stretch; the teachers are not used."""
        return (Stretch(self.iterations, teachers=(0.0,) * unit.num_teachers),)

    def metrics(self) -> tuple[str, ...]:
        """The mean distance of a unit's classes."""
        return ("loss", *super().metrics())
