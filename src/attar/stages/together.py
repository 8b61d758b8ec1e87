"""Whether all processes of a launch train each network together, or each process trains networks of its own."""

from collections.abc import Iterable

from torch import nn

from attar.core import ranks, work
from attar.core.errors import AttarError
from attar.ops.operations import forward_operations
from attar.stages.workspace import Workspace
from attar.training.parallel import Together

WORTHWHILE = 1e16
"""Floating-point operations of a training from which 'auto' divides it: minutes of a GPU, a day of a core. In smaller
trainings the processes mostly wait for one another."""

Training = tuple[nn.Module, int]
"""A network, and the number of images that it sees in training, over all epochs."""


def shares(space: Workspace, trainings: Iterable[Training], count: int) -> bool:
    """Return whether all processes train each of ``count`` networks together, as execution.data_parallel says.

    All processes must call it at the same point. The first one's trainings decide; they are made only if the choice
    depends on them. Raises AttarError if BatchNorm is to be synchronised on a CPU.
    """
    execution, launcher = space.execution, work.launcher()
    if launcher.together is not None:
        return launcher.together
    if execution.data_parallel == "off" or launcher.team_size() == 1:
        return False
    if not space.device.name:  # else processes on other machines train
        _refuse_synchronised_on_cpu(space)
    if execution.data_parallel == "on":
        return True
    if not ranks.of_first(0 < count < launcher.team_size()):
        return False
    # If another run finishes one meanwhile, processes may count differently; the first one decides.
    return ranks.of_first(all(_is_much(space, *training) for training in trainings))


def _refuse_synchronised_on_cpu(space: Workspace) -> None:
    if space.execution.sync_batchnorm and space.device.device.type != "cuda":
        raise AttarError(
            "PyTorch synchronises BatchNorm on GPUs only, and this run is on a CPU; remove --execution.sync-batchnorm."
        )


def _is_much(space: Workspace, network: nn.Module, num_images: int) -> bool:
    return 3 * forward_operations(network, space.choice.size) * num_images >= WORTHWHILE


def join(space: Workspace, network: nn.Module) -> Together:
    """Train this network, which lies on the device, with the other processes; all must call it at the same point.

    Raises AttarError if BatchNorm is to be synchronised on a CPU.
    """
    _refuse_synchronised_on_cpu(space)
    return Together(network, space.device.device, space.execution.sync_batchnorm)


def plain(trained: nn.Module, untrained: nn.Module) -> nn.Module:
    """Return the second network with the weights of the first, whose BatchNorm layers may need other processes."""
    untrained.load_state_dict(trained.state_dict())
    return untrained.eval()
