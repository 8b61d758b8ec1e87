"""Mix pairs of images: CutMix (Yun et al., 2019, arXiv 1905.04899), Mixup (Zhang et al., 2018, arXiv 1710.09412)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.ops.choices import MixChoice


@dataclass(frozen=True)
class Mix:
    """One mixing record per image: its partner, the box taken from the partner, and the weight of the image itself."""

    partner: Int[Tensor, " image"]
    """Index of the image mixed in, among all images of the set."""
    box: Int[Tensor, "image 4"] | None
    """CutMix: top, left, height, width of the part taken from the partner; None for Mixup."""
    weight: Float[Tensor, " image"]
    """Fraction of the result that is the image itself, in [0, 1]."""

    def __len__(self) -> int:
        return len(self.partner)

    def to(self, device: torch.device | str) -> Self:
        box = None if self.box is None else self.box.to(device)
        return type(self)(self.partner.to(device), box, self.weight.to(device))

    def take(self, index: Tensor | slice) -> Self:
        """Return the records at these indices."""
        return type(self)(self.partner[index], None if self.box is None else self.box[index], self.weight[index])


def draw(
    choice: MixChoice,
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    order: Int[Tensor, " image"] | None = None,
) -> Mix | None:
    """Draw one record for each of ``count`` images; the partners are a permutation. Returns None without mixing.

    If batches share a mix, ``order`` is the order in which images fill the batches; by default it is random.
    """
    if choice.kind == "none":
        return None
    if choice.shared_by:
        order = torch.randperm(count, generator=generator) if order is None else order
        return _draw_shared(choice, order, height, width, generator)
    partner = torch.randperm(count, generator=generator)
    return _drawn(choice, partner, count, height, width, generator)


def _draw_shared(
    choice: MixChoice, order: Int[Tensor, " image"], height: int, width: int, generator: torch.Generator
) -> Mix:
    partner = torch.empty_like(order)
    batches = order.split(choice.shared_by)
    for batch in batches:
        partner[batch] = batch[torch.randperm(len(batch), generator=generator)]
    mix = _drawn(choice, torch.arange(len(batches)), len(batches), height, width, generator)
    batch_of = torch.empty_like(order)
    batch_of[order] = torch.arange(len(order)) // choice.shared_by
    return Mix(partner, None if mix.box is None else mix.box[batch_of], mix.weight[batch_of])


def _drawn(choice: MixChoice, partner: Tensor, count: int, height: int, width: int, generator: torch.Generator) -> Mix:
    draws = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    share = torch.from_numpy(draws.beta(choice.alpha, choice.alpha, count))
    if choice.kind == "mixup":
        return Mix(partner, None, share.to(torch.float32))
    centre = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    side = torch.sqrt(1 - share)
    top, bottom = _span(centre[:, 0], side, height)
    left, right = _span(centre[:, 1], side, width)
    box = torch.stack([top, left, bottom - top, right - left], dim=1)
    weight = 1 - (box[:, 2] * box[:, 3]).to(torch.float32) / (height * width)
    return Mix(partner, box, weight)


def apply(
    images: Float[Tensor, "image channel height width"],
    partners: Float[Tensor, "image channel height width"],
    mix: Mix,
    out: Tensor | None = None,
) -> Float[Tensor, "image channel height width"]:
    """Mix each image with its partner; ``partners[i]`` is the image ``mix.partner[i]``.

    ``out`` may be ``images`` or ``partners`` if it is no longer needed: on a CPU new memory costs more than mixing.
    """
    mix = mix.to(images.device)
    if mix.box is None:
        share = mix.weight.view(-1, 1, 1, 1).to(images.dtype)
        return torch.add(share * images, (1 - share) * partners, out=out)
    top, left, box_height, box_width = (part.view(-1, 1, 1) for part in mix.box.unbind(1))
    row = torch.arange(images.shape[-2], device=images.device).view(1, -1, 1)
    column = torch.arange(images.shape[-1], device=images.device).view(1, 1, -1)
    inside = ((row >= top) & (row < top + box_height)) & ((column >= left) & (column < left + box_width))
    if out is None:
        return torch.where(inside[:, None], partners, images)
    return torch.where(inside[:, None], partners, images, out=out)


def _span(centre: Tensor, side: Tensor, length: int) -> tuple[Tensor, Tensor]:
    middle = (centre * length).floor()
    half = (side * length).floor() // 2
    return (middle - half).clamp(0, length).to(torch.int64), (middle + half).clamp(0, length).to(torch.int64)
