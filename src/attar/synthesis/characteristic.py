"""Characteristic functions of features, and the cross-entropy of stored images, as statistics to match (NCFM)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attar.synthesis.matching import Records

_SMALLEST = 1e-12
"""Smallest phase term, under a square root."""


@dataclass(frozen=True)
class Characteristic:
    """Distance of two characteristic functions at random frequencies (NCFM, arXiv 2502.20653).

    At a frequency t the characteristic function of features f is the mean of exp(i t.f). Features have length 1;
    frequencies are standard normal, the same for all classes in an iteration.
    """

    num_frequencies: int
    amplitude_share: float
    """Share of the difference in amplitude; the rest is the difference in phase."""
    weight: float

    def draw(self, stream: torch.Generator, num_features: int, device: torch.device) -> Records:
        """Draw the frequencies, on the device: millions of numbers in each iteration."""
        seed = int(torch.randint(2**62, (1,), generator=stream))
        own = torch.Generator(device).manual_seed(seed)
        return (torch.randn(num_features, self.num_frequencies, generator=own, device=device),)

    def of(
        self, features: Float[Tensor, "image feature"], labels: Int[Tensor, " image"], drawn: Records
    ) -> Float[Tensor, "image value"]:
        """Real parts at all frequencies, then imaginary parts."""
        angles = F.normalize(features, dim=1) @ drawn[0]
        return torch.cat([angles.cos(), angles.sin()], 1)

    def distance(
        self, stored: Float[Tensor, "group value"], real: Float[Tensor, "group value"] | None
    ) -> Float[Tensor, " group"]:
        """Mean over the frequencies of the root of both terms, times the weight."""
        assert real is not None
        (a, b), (c, d) = stored.chunk(2, 1), real.chunk(2, 1)
        length, other = (a.square() + b.square()).sqrt(), (c.square() + d.square()).sqrt()
        phase = (2 * (length * other - a * c - b * d)).clamp_min(_SMALLEST)
        share = self.amplitude_share
        return self.weight * (share * (length - other).square() + (1 - share) * phase).sqrt().mean(1)


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of a network's logits for the stored images; real images are not looked at."""

    weight: float

    def draw(self, stream: torch.Generator, num_features: int, device: torch.device) -> Records:
        """Draw nothing."""
        return ()

    def of(
        self, features: Float[Tensor, "image class"], labels: Int[Tensor, " image"], drawn: Records
    ) -> Float[Tensor, "image 1"]:
        """Cross-entropy of each image."""
        return F.cross_entropy(features, labels, reduction="none")[:, None]

    def distance(
        self, stored: Float[Tensor, "group 1"], real: Float[Tensor, "group 1"] | None
    ) -> Float[Tensor, " group"]:
        """The mean, times the weight."""
        return self.weight * stored[:, 0]
