"""Herding: real images whose features have the class's mean (Welling, 2009; Rebuffi et al., 2017, arXiv 1611.07725)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.coreset_choices import Coreset

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Recovered, Task


class Config(Coreset):
    """Real images, chosen one by one so that the mean of their features stays nearest to that of all."""

    normalise_features: bool = True
    """Scale every image's features to length one, as iCaRL does; means are left as they are."""


def recover(task: Task, config: Config) -> Recovered:
    """The unit's slots of the herd of each class, in [0, 1]; nothing is drawn at random.

    Raises AttarError when a class has fewer images than are asked of it.
    """
    from attar.synthesis.coreset import coreset
    from attar.synthesis.task import Recovered

    return Recovered(coreset(task, config, herd))


def herd(features: Float[Tensor, "image feature"], count: int) -> list[int]:
    """Indices of the herd: each next image brings the running mean nearest to the mean of all (iCaRL, algorithm 4).

    No image is taken twice; of equals the first.
    """
    import torch

    mean, total = features.mean(dim=0), torch.zeros_like(features[0])
    taken = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    chosen: list[Tensor] = []  # on the device, for to read an index is to wait for it
    for number in range(1, count + 1):
        # |mean - (total + f) / number| is smallest where f is nearest to this point.
        distance = (features - (number * mean - total)).square().sum(dim=1)
        chosen.append(distance.masked_fill(taken, torch.inf).argmin(0, keepdim=True))
        taken.index_fill_(0, chosen[-1], True)
        total = total + features.index_select(0, chosen[-1])[0]
    return torch.cat(chosen).tolist()
