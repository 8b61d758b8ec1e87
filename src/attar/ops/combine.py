"""Combine the logits of several teachers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attar.ops.choices import LabelPolicy


def combine(
    logits: Sequence[Float[Tensor, "image class"]], policy: LabelPolicy = "mean", weights: Sequence[float] = ()
) -> Float[Tensor, "image class"]:
    """Combine the logits of several teachers; returns float32.

    'mean': average (EDC, arXiv 2404.13733). 'weighted': average with ``weights``, one per teacher, scaled to the sum 1
    (CV-DD, arXiv 2501.07575). 'norm-balanced': for each image, every teacher's logits are first scaled to the mean of
    the teachers' norms, so that larger logits do not count more (G-VBSM, arXiv 2311.17950).
    """
    stacked = torch.stack([each.float() for each in logits])
    if policy == "weighted":
        share = torch.tensor(list(weights), device=stacked.device)
        return torch.tensordot(share / share.sum(), stacked, dims=1)
    if policy == "norm-balanced":
        norms = stacked.norm(dim=2, keepdim=True)
        stacked = stacked * (norms.mean(0, keepdim=True) / norms.clamp_min(1e-12))
    return stacked.mean(0)
