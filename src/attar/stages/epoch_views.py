"""The views and labels of one epoch of a distilled set."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.ops import replay
from attar.ops.targets import Targets

if TYPE_CHECKING:
    from attar.stages.distilled import Distilled


class EpochViews:
    """One epoch of a distilled set: how each image is shown, and what the teacher says of it."""

    def __init__(
        self, distilled: "Distilled", epoch: int, images: UInt8[Tensor, "image 3 height width"], device: torch.device
    ) -> None:
        """``images`` may be on the device already."""
        self._distilled, self._device = distilled, device
        self.stored = None if distilled.stored is None else distilled.stored.epoch(epoch)
        self.records = distilled.drawn(epoch) if self.stored is None else self.stored.records
        self._shown = replay.ShownEpoch(images, self.records, device)

    def take(self, index: Int[Tensor, " batch"], soft: bool = True) -> tuple[Float[Tensor, "batch 3 h w"], Targets]:
        """Return views in [0, 1] and their targets; with ``soft=False`` the targets hold classes only."""
        labels, mix, device = self._distilled.labels, self.records.mix, self._device
        shown = self._shown.show(index)
        targets = Targets(labels[index].to(device))
        if mix is not None:
            partners = labels[mix.partner[index]].to(device)
            targets = Targets(targets.labels, partners, mix.weight[index].to(device))
        return shown, replace(targets, logits=self._distilled.logits(self, index, shown)) if soft else targets
