"""What several teachers say together, and teachers that go by the statistics of the batch they see."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.ops.choices import Ensemble


def combine(
    logits: Sequence[Float[Tensor, "image class"]], how: Ensemble = "mean", weights: Sequence[float] = ()
) -> Float[Tensor, "image class"]:
    """One answer from those of several teachers, float32.

    'mean': their average (EDC, arXiv 2404.13733). 'weighted': by ``weights``, one a teacher, whose sum becomes 1
    (CV-DD, arXiv 2501.07575). 'norm-balanced': each image's answers are first brought to one length, the mean of
    theirs, so that no teacher speaks louder (G-VBSM, arXiv 2311.17950).
    """
    stacked = torch.stack([each.float() for each in logits])
    if how == "weighted":
        share = torch.tensor(list(weights), device=stacked.device)
        return torch.tensordot(share / share.sum(), stacked, dims=1)
    if how == "norm-balanced":
        norms = stacked.norm(dim=2, keepdim=True)
        stacked = stacked * (norms.mean(0, keepdim=True) / norms.clamp_min(1e-12))
    return stacked.mean(0)


def batch_normalised(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers go by the statistics of the batch they see; all else stays in evaluation mode.

    Such labels are batch-specific (SRe2L++ in arXiv 2501.07575).
    """
    changed = copy.deepcopy(network).eval()
    for layer in changed.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean = layer.running_var = None  # without them it has nothing else to go by
    return changed
