"""Data-parallel training: several processes train one network, each on its own part of every batch."""

import contextlib

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attar.core import ranks
from attar.core.errors import AttarError
from attar.core.ranks import Part


class Together:
    """A network that all processes of this launch train together.

    A batch is as large as with one process: each process takes its part of it, and the gradient is that of the whole
    batch. Results equal those of one process except for rounding, and for BatchNorm, whose statistics are those of a
    process's own part unless they are synchronised.
    """

    def __init__(self, network: nn.Module, device: torch.device, synchronise: bool = False) -> None:
        """All processes must create it at the same point; they take the weights and buffers of rank 0.

        ``synchronise`` computes BatchNorm statistics over the whole batch (SyncBatchNorm), which PyTorch can only do on
        GPUs; it replaces the network's BatchNorm layers in place.
        """
        self.part = Part(ranks.rank(), ranks.world_size())
        group = ranks.device_group(device.type)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if synchronise:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network, group)
        self.network = DistributedDataParallel(network, process_group=group)
        """The network as it is called in training."""

    def agree(self, epoch: int) -> None:
        """Raise AttarError unless all processes continue after the same epoch."""
        if len(set(ranks.counts(epoch))) > 1:
            raise AttarError(
                "The processes of this launch do not see the same checkpoint; put --out on a file system that all "
                "machines share."
            )

    def num_images(self, own: int) -> int:
        """Return the number of images of a batch, over all processes; 0 if some process has fewer than two.

        That happens only where unreadable images are skipped; all processes must leave out such a batch.
        """
        found = ranks.counts(own)
        return sum(found) if min(found) > 1 else 0

    def accumulates(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which gradients are added up without exchanging them: for all parts of a batch but the
        last."""
        return self.network.no_sync()
