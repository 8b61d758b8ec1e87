"""Diversity: a term that keeps the images of a class from becoming alike (data densification of G-VBSM)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attar.synthesis.task import Task
from attar.synthesis.terms import PerUnit, Seen, State, Stateless, UnitBatch

if TYPE_CHECKING:
    from attar.synthesis.observed import Observed

SIDE = 32
"""Side in pixels to which larger views are averaged."""


@dataclass(frozen=True)
class Diversity(Stateless):
    """Spread the eigenvalues of the products of a class's images with one another.

    For the images of each class in a unit it is the Kullback-Leibler divergence of the softmax of the eigenvalues from
    their softmax at a higher temperature, summed over classes. Source: G-VBSM (arXiv 2311.17950), data densification.
    """

    temperature: float = 4.0
    """Temperature of the target."""
    mean: bool = False
    """Divide the products by the number of pixels and channels. As published they are sums: then the largest eigenvalue
    is so much larger than the others that both softmax put all weight on it, and the term is 0."""
    name = "diversity"

    def constants(self, task: Task, teacher: int, observed: "Observed") -> State:
        """Return, for each number of images that a class has in a unit, the images of each such class ('places.N') and
        the unit that each belongs to ('units.N')."""
        classes: dict[int, list[tuple[int, list[int]]]] = {}
        pairs: dict[tuple[int, int], list[int]] = {}
        for place, pair in enumerate(zip(task.unit_of.tolist(), task.labels.tolist(), strict=True)):
            pairs.setdefault(pair, []).append(place)
        for (unit, _), places in pairs.items():
            classes.setdefault(len(places), []).append((unit, places))
        found: State = {}
        for size in sorted(size for size in classes if size > 1):  # an image alone has nothing to differ from
            units = torch.tensor([unit for unit, _ in classes[size]])
            found[f"places.{size}"] = torch.tensor([places for _, places in classes[size]], device=task.device)
            found[f"units.{size}"] = F.one_hot(units, len(task.unit_sizes)).T.float().to(task.device)
        return found

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """Return each unit's sum over its classes."""
        pixels = pooled(seen.images)
        total = seen.images.new_zeros(len(batch.average))
        for name, places in constants.items():
            if name.startswith("places."):
                own = pixels[places.flatten()].unflatten(0, (places.shape[0], places.shape[1]))
                total = total + constants[f"units.{name.removeprefix('places.')}"] @ self._spread(own)
        return total, state

    def _spread(self, images: Float[Tensor, "class image value"]) -> Float[Tensor, " class"]:
        products = images @ images.mT
        if self.mean:
            products = products / images.shape[2]
        eigenvalues = torch.linalg.eigvalsh(products)
        target = (eigenvalues.detach() / self.temperature).log_softmax(1)
        return F.kl_div(eigenvalues.log_softmax(1), target, reduction="none", log_target=True).sum(1)


def pooled(images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image value"]:
    """Average images of more than SIDE pixels down to SIDE x SIDE pixels, and flatten them."""
    height, width = images.shape[2:]
    if height % SIDE == 0 and width % SIDE == 0:
        images = F.avg_pool2d(images, (height // SIDE, width // SIDE))  # deterministic on every device
    elif height > SIDE and width > SIDE:
        images = F.adaptive_avg_pool2d(images, (SIDE, SIDE))
    return images.flatten(1)


def diversity_of(config: Any) -> tuple[Diversity, ...]:
    """Return the configured term; none for weight 0. ``config`` is composed of the group Diverse."""
    if not config.diversity_weight:
        return ()
    mean = config.diversity_products == "mean"
    return (Diversity(weight=config.diversity_weight, temperature=config.diversity_temperature, mean=mean),)
