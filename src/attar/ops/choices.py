"""Settings of views, mixing and codecs. Nothing here imports PyTorch, so that recipes load fast."""

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
"""How the logits of several teachers are combined into one label."""
ImageFormat = Literal["png", "jpeg", "webp"]
"""File format of stored images."""
Rounding = Literal["nearest", "truncate"]
"""How pixels in [0, 1] become bytes."""
RANDAUGMENT_SCALE = 10
"""Largest magnitude of RandAugment that can be set, as in timm."""
RandAugmentSet = Literal["torchvision", "timm"]
"""Whose operations RandAugment draws from."""
RandAugmentPlace = Literal["after-crop", "before-crop"]
"""When RandAugment is applied."""
Augmentation = Literal["colour", "crop", "cutout", "flip", "scale", "rotate"]
"""Kinds of differentiable Siamese augmentation (see ``ops/dsa.py``)."""
AUGMENTATIONS: tuple[Augmentation, ...] = ("colour", "crop", "cutout", "flip", "scale", "rotate")
Combination = Literal["all", "one", "warp"]
"""How kinds of differentiable Siamese augmentation are combined."""


class Storage(Config):
    """How stored images are decoded. A method may store several small images side by side in one image."""

    factor: int = pydantic.Field(default=1, ge=1, le=8)
    """Images along each side of a stored image; 1: a stored image is one image."""
    enlarge: Literal["nearest", "bilinear"] = "bilinear"
    """Interpolation that enlarges one of them to the stored image's size."""

    def idle(self) -> dict[str, str]:
        """Return the interpolation if a stored image is one image."""
        return {"enlarge": "a --factor above 1"} if self.factor == 1 else {}

    @property
    def num_parts(self) -> int:
        """Number of images in a stored image."""
        return self.factor**2


PLAIN = Storage()
"""A stored image is one image."""


class ViewChoice(Config):
    """How views of training images are drawn."""

    crop: Literal["none", "resized", "padded"] = "resized"
    """'resized': RandomResizedCrop; 'padded': black border, then a crop of the original size; 'none': whole image."""
    min_scale: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a resized crop, as a fraction of the image."""
    padding: int = pydantic.Field(default=4, ge=0)
    """Width in pixels of the border of a padded crop."""
    flip: bool = True
    """Mirror half of the views left to right."""

    def draw(self, count: int, height: int, width: int, *streams: torch.Generator) -> View:
        """Draw ``count`` independent views of images of this size from each stream, one stream after the other."""
        from attar.ops import views

        return views.draw(self, count, height, width, *streams)


class LookChoice(ViewChoice):
    """How views of a small set are drawn: crops, flips and further augmentation."""

    patch_shuffle: int = pydantic.Field(default=1, ge=1, le=15)
    """Patches along each side into which images are cut and shuffled before cropping (RDED: 2); 1: whole images."""
    randaugment_ops: int = pydantic.Field(default=0, ge=0, le=8)
    """Number of RandAugment operations applied to each view; 0: none."""
    randaugment_magnitude: float = pydantic.Field(default=6.0, ge=0, le=RANDAUGMENT_SCALE)
    """Strength of RandAugment, 0 to 10."""
    randaugment_std: float = pydantic.Field(default=1.0, ge=0)
    """Standard deviation of the strength between views."""
    randaugment_set: RandAugmentSet = "torchvision"
    """Operations of RandAugment. 'torchvision': torchvision's fourteen, always applied; 'timm': the fifteen of timm's
    policies 'rand-m6-n2-mstd1.0', each applied with probability 0.5."""
    randaugment_place: RandAugmentPlace = "after-crop"
    """'after-crop': RandAugment changes the view, after crop and flip; 'before-crop': it changes the stored image, from
    which the view is then cropped (the scripts of EDC and DELT)."""
    dsa: tuple[Augmentation, ...] = ()
    """Kinds of differentiable Siamese augmentation (DSA, arXiv 2102.08259) applied to each view after all other
    augmentation: colour, crop (a shift), cutout, flip, scale, rotate; empty: none."""
    dsa_combine: Combination = "all"
    """'all': apply every kind in 'dsa'; 'one': apply one at random (DSA); 'warp': apply colour, cutout and flip, and
    one of crop, scale and rotate (IDC, CIM)."""
    part_probability: float = pydantic.Field(default=0.75, ge=0, le=1)
    """For stored images that hold several (CIM, NCFM): probability of showing one of them, enlarged, instead of the
    whole image."""
    part_order: Literal["random", "in-turn"] = "random"
    """For stored images that hold several: 'random': each epoch draws which of them is shown; 'in-turn': each epoch
    shows the next one, so that every image is seen equally often, and never the whole stored image."""

    def idle(self) -> dict[str, str]:
        """Return the settings of RandAugment and Siamese augmentation if there is none, and what turns replace."""
        names = ("randaugment_magnitude", "randaugment_std", "randaugment_set", "randaugment_place")
        operations = dict.fromkeys(names, "--randaugment-ops above 0")
        siamese = {"dsa_combine": "kinds of augmentation in --dsa"}
        parts = {"part_probability": "--part-order random"} if self.part_order == "in-turn" else {}
        augmented = (operations if not self.randaugment_ops else {}) | (siamese if not self.dsa else {})
        return super().idle() | augmented | parts


class RealAugmentation(Config):
    """What hides and changes views of real training images, after crop and flip."""

    cutout: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Side of a square of a random colour that hides a part of each view (Cutout), as a fraction of the view's side; 0:
    none."""
    randaugment_ops: int = pydantic.Field(default=0, ge=0, le=8)
    """Number of RandAugment operations after Cutout, of timm's fifteen, each applied with probability 0.5; 0: none."""
    randaugment_magnitude: float = pydantic.Field(default=5.0, ge=0, le=RANDAUGMENT_SCALE)
    """Mean strength of RandAugment, 0 to 10."""
    randaugment_std: float = pydantic.Field(default=2.6, ge=0)
    """Standard deviation of the strength; with the default, strengths are spread as if even from 1 to 9."""

    def idle(self) -> dict[str, str]:
        """Return the settings of RandAugment if there is none."""
        names = ("randaugment_magnitude", "randaugment_std")
        return {} if self.randaugment_ops else dict.fromkeys(names, "--randaugment-ops above 0")


NO_AUGMENTATION = RealAugmentation()
"""Nothing is hidden or changed."""


class MixChoice(Config):
    """How images are mixed."""

    kind: Literal["none", "cutmix", "mixup"] = "none"
    """'cutmix' pastes a box of the partner, 'mixup' averages the two images."""
    alpha: float = pydantic.Field(default=1.0, gt=0)
    """Both parameters of the Beta distribution from which the image's own share is drawn."""
    shared_by: int = pydantic.Field(default=0, ge=0)
    """Images per batch that share one box and weight and are mixed with one another, as in the published scripts; 0:
    every image has its own box and weight."""

    def draw(
        self,
        count: int,
        height: int,
        width: int,
        generator: torch.Generator,
        order: Int[Tensor, " image"] | None = None,
    ) -> Mix | None:
        """Return one record for each of ``count`` images, or None if nothing is mixed; partners are a permutation.

        If batches share a mix, ``order`` is the order in which images fill the batches; by default it is random.
        """
        from attar.ops import mixing

        return mixing.draw(self, count, height, width, generator, order)


class Codec(Config):
    """How a teacher's logits are stored."""

    kind: Literal["fp16", "topk"] = "fp16"
    """'fp16': all logits in half precision; 'topk': the k largest and their classes."""
    k: int = pydantic.Field(default=10, ge=1)
    """Number of logits that 'topk' keeps (MR-k of LPQLD, arXiv 2604.18135)."""
    values: Literal["fp16", "int8"] = "fp16"
    """Storage of a 'topk' logit: half precision, or 256 steps from the smallest to the largest kept logit of the
    view."""
    remainder: Literal["spread", "drop"] = "spread"
    """Classes that 'topk' leaves out: 'spread' their total probability evenly over them, or 'drop' it."""
    temperature: float = pydantic.Field(default=20.0, gt=0)
    """Temperature at which 'spread' preserves the total probability of those classes; use the students' temperature."""

    def kept(self, num_classes: int) -> int:
        """Return the number of logits in a record."""
        return num_classes if self.kind == "fp16" else min(self.k, num_classes)

    def record_bytes(self, num_classes: int) -> int:
        """Return the bytes of one image's encoded logits."""
        kept = self.kept(num_classes)
        if self.kind == "fp16":
            return 2 * kept
        spans = {"fp16": 2 * kept, "int8": kept + 2 * 2}[self.values]
        rest = 2 if self.remainder == "spread" and kept < num_classes else 0
        return kept * (1 if num_classes <= 2**8 else 2 if num_classes <= 2**15 else 4) + spans + rest

    def idle(self) -> dict[str, str]:
        """Return the settings of 'topk' if all logits are stored, and the temperature if the rest is dropped."""
        if self.kind == "fp16":
            return dict.fromkeys(("k", "values", "remainder", "temperature"), "--kind topk")
        return {"temperature": "--remainder spread"} if self.remainder == "drop" else {}

    def title(self) -> str:
        """Describe the codec in a few words, for tables."""
        if self.kind == "fp16":
            return "fp16"
        return f"top {self.k}" + (" int8" if self.values == "int8" else "") + f", rest {self.remainder}"
