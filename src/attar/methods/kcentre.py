"""k-centre: real images that leave none of their class far away (Sener & Savarese, 2018, arXiv 1708.00489)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.coreset_choices import Coreset

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Recovered, Task


class Config(Coreset):
    """Real images, each the one whose features are farthest from those chosen before it."""

    normalise_features: bool = False
    """Scale every image's features to length one; the paper compares them as they are."""


def recover(task: Task, config: Config) -> Recovered:
    """The unit's slots of the centres of each class, in [0, 1]; nothing is drawn at random.

    Raises AttarError when a class has fewer images than are asked of it.
    """
    from attar.synthesis.coreset import coreset
    from attar.synthesis.task import Recovered

    return Recovered(coreset(task, config, centres))


def centres(features: Float[Tensor, "image feature"], count: int) -> list[int]:
    """Indices of the centres: the image nearest to the mean, then always the one farthest from all that are chosen.

    The greedy algorithm 1 of the paper, within one class. No image is taken twice; of equals the first.
    """
    import torch

    # Indices stay on the device, for to read one is to wait for it.
    chosen = [(features - features.mean(dim=0)).square().sum(dim=1).argmin(0, keepdim=True)]
    nearest = torch.full_like(features[:, 0], torch.inf)
    while len(chosen) < count:
        nearest = nearest.minimum((features - features.index_select(0, chosen[-1])).square().sum(dim=1))
        nearest.index_fill_(0, chosen[-1], -1)  # below the zero of an image that equals a centre
        chosen.append(nearest.argmax(0, keepdim=True))
    return torch.cat(chosen).tolist()
