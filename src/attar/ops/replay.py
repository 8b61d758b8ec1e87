"""Showing the images of a small set, in one way to the teacher that labels a view and the student that learns it."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.ops import mixing, views
from attar.ops.mixing import Mix, MixChoice
from attar.ops.pixels import from_bytes
from attar.ops.views import View, ViewChoice


def draw(
    num_images: int, size: tuple[int, int], view: ViewChoice, mix: MixChoice, generator: torch.Generator
) -> tuple[View, Mix | None]:
    """One epoch's views and mixes of a set of images."""
    return view.draw(num_images, *size, generator), mix.draw(num_images, *size, generator)


def show(
    images: UInt8[Tensor, "all 3 height width"], index: Int[Tensor, " image"], view: View, mix: Mix | None
) -> Float[Tensor, "image 3 height width"]:
    """The views of the images at ``index``, mixed with the views of their partners; in [0, 1], on the images' device.

    ``view`` and ``mix`` hold a record for each of all images, on the CPU.
    """
    own = views.apply(from_bytes(images[index.to(images.device)]), view.take(index))
    if mix is None:
        return own
    partners = mix.partner[index]
    other = views.apply(from_bytes(images[partners.to(images.device)]), view.take(partners))
    return mixing.apply(own, other, mix.take(index))
