"""The settings of ``ops``: views, mixing and codecs as a recipe names them.

Nothing here imports PyTorch, so that a recipe is read and shown at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from attar.core.config import Config

if TYPE_CHECKING:
    import torch
    from jaxtyping import Int
    from torch import Tensor

    from attar.ops.mixing import Mix
    from attar.ops.views import View

LabelPolicy = Literal["mean", "weighted", "norm-balanced"]
"""How the answers of several teachers become one label."""
Rounding = Literal["nearest", "truncate"]
"""From pixels in [0, 1] to bytes."""
RANDAUGMENT_SCALE = 10
"""What settings call the greatest magnitude of RandAugment, as timm does."""
Augmentation = Literal["colour", "crop", "cutout", "flip", "scale", "rotate"]
"""Kinds of differentiable Siamese augmentation (see ``ops/dsa.py``)."""
AUGMENTATIONS: tuple[Augmentation, ...] = ("colour", "crop", "cutout", "flip", "scale", "rotate")
Combination = Literal["all", "one", "warp"]
"""How kinds of differentiable Siamese augmentation are combined."""


class Storage(Config):
    """How stored images are decoded: a method may lay several small images side by side into one that is stored."""

    factor: int = pydantic.Field(default=1, ge=1, le=8)
    """Images along each side of a stored image; 1: a stored image is one image."""
    enlarge: Literal["nearest", "bilinear"] = "bilinear"
    """How an image is enlarged to the size of the stored one when it is shown."""

    def idle(self) -> set[str]:
        """How images are enlarged, where a stored image is one image."""
        return {"enlarge"} if self.factor == 1 else set()

    @property
    def num_parts(self) -> int:
        """Images in a stored image."""
        return self.factor**2


PLAIN = Storage()
"""A stored image is one image."""


class ViewChoice(Config):
    """How views of training images are drawn. Part of a recipe: a mirrored digit is another sign."""

    crop: Literal["none", "resized", "padded"] = "resized"
    """'resized': RandomResizedCrop; 'padded': black border, then a crop of the original size; 'none': whole image."""
    min_scale: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a resized crop, as a fraction of the image."""
    padding: int = pydantic.Field(default=4, ge=0)
    """Width in pixels of the border of a padded crop."""
    flip: bool = True
    """Mirror half of the views left to right."""

    def draw(self, count: int, height: int, width: int, *streams: torch.Generator) -> View:
        """``count`` independent views of images of this size from each stream, those of a stream together."""
        from attar.ops import views

        return views.draw(self, count, height, width, *streams)


class LookChoice(ViewChoice):
    """How views of a small set are drawn: crops, flips and further augmentation."""

    patch_shuffle: int = pydantic.Field(default=1, ge=1, le=15)
    """Patches along each side into which images are cut and shuffled before cropping (RDED: 2); 1: whole images."""
    randaugment_ops: int = pydantic.Field(default=0, ge=0, le=8)
    """Operations of RandAugment on each view; 0: none."""
    randaugment_magnitude: float = pydantic.Field(default=6.0, ge=0, le=RANDAUGMENT_SCALE)
    """Strength of RandAugment, 0 to 10."""
    randaugment_std: float = pydantic.Field(default=1.0, ge=0)
    """Standard deviation of that strength from view to view."""
    dsa: tuple[Augmentation, ...] = ()
    """Kinds of differentiable Siamese augmentation of each view (DSA, arXiv 2102.08259), after everything else: colour,
    crop (a shift), cutout, flip, scale, rotate; empty: none."""
    dsa_combine: Combination = "all"
    """Which kinds of 'dsa' a view has: 'all', 'one' at random (DSA), or 'warp': colour, cutout and flip with one of
    crop, scale and rotate (IDC, CIM)."""
    part_probability: float = pydantic.Field(default=0.75, ge=0, le=1)
    """Where a stored image holds several (CIM, NCFM): how often one of them is shown, enlarged, and not the whole."""

    def idle(self) -> set[str]:
        """How kinds of Siamese augmentation are combined, where there are none."""
        return super().idle() | (set() if self.dsa else {"dsa_combine"})


class MixChoice(Config):
    """How images are mixed."""

    kind: Literal["none", "cutmix", "mixup"] = "none"
    """'cutmix' pastes a box of the partner, 'mixup' averages the two images."""
    alpha: float = pydantic.Field(default=1.0, gt=0)
    """Both parameters of the Beta distribution of the image's own share."""
    shared_by: int = pydantic.Field(default=0, ge=0)
    """Images in a batch that shares one box and weight and has its partners in itself, as the published scripts mix; 0:
    a box and weight for every image."""

    def draw(
        self,
        count: int,
        height: int,
        width: int,
        generator: torch.Generator,
        order: Int[Tensor, " image"] | None = None,
    ) -> Mix | None:
        """One record for each of ``count`` images, partners being a permutation; None when nothing is mixed.

        Where batches share a mix, ``order`` is the one in which images fall into them, by default a random one.
        """
        from attar.ops import mixing

        return mixing.draw(self, count, height, width, generator, order)


class Codec(Config):
    """How a teacher's logits are stored."""

    kind: Literal["fp16", "topk"] = "fp16"
    """'fp16': all logits in half precision; 'topk': the k largest and their classes."""
    k: int = pydantic.Field(default=10, ge=1)
    """How many logits 'topk' keeps (MR-k of LPQLD, arXiv 2604.18135)."""
    values: Literal["fp16", "int8"] = "fp16"
    """How 'topk' stores a logit: in half precision, or in 256 steps between the record's least and greatest."""
    remainder: Literal["spread", "drop"] = "spread"
    """What 'topk' makes of all other classes: spread what probability they have together evenly over them, or none."""
    temperature: float = pydantic.Field(default=20.0, gt=0)
    """At this temperature 'spread' keeps the others' probability as it was; make it the student's."""

    def kept(self, num_classes: int) -> int:
        """Logits in a record."""
        return num_classes if self.kind == "fp16" else min(self.k, num_classes)

    def record_bytes(self, num_classes: int) -> int:
        """Bytes of one image's encoded logits."""
        kept = self.kept(num_classes)
        if self.kind == "fp16":
            return 2 * kept
        spans = {"fp16": 2 * kept, "int8": kept + 2 * 2}[self.values]
        rest = 2 if self.remainder == "spread" and kept < num_classes else 0
        return kept * (1 if num_classes <= 2**8 else 2 if num_classes <= 2**15 else 4) + spans + rest

    def idle(self) -> set[str]:
        """The 'topk' settings where all logits are stored, and the temperature where the remainder is dropped."""
        if self.kind == "fp16":
            return {"k", "values", "remainder", "temperature"}
        return {"temperature"} if self.remainder == "drop" else set()

    def title(self) -> str:
        """In a few words, for tables."""
        if self.kind == "fp16":
            return "fp16"
        return f"top {self.k}" + (" int8" if self.values == "int8" else "") + f", rest {self.remainder}"
