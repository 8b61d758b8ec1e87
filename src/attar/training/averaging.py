"""A moving average of a network's parameters, which is evaluated in their place."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The exponential moving average of the parameters that are trained; it starts at the initial ones.

    Buffers are not averaged: the averaged parameters go with the running BatchNorm statistics of the network that is
    trained, as in EDC (arXiv 2404.13733, its published code).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._parameters]
        self._move = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Move by ``1 - decay`` towards the parameters, after an optimiser's step."""
        self._move(self._values, self._parameters, 0)

    def state(self) -> list[Tensor]:
        """The average as it is now, not a copy."""
        return list(self._values)

    def load(self, state: Sequence[Tensor]) -> None:
        """Continue from an earlier ``state()``, on any device."""
        for value, earlier in zip(self._values, state, strict=True):
            value.copy_(earlier)

    def swap(self) -> None:
        """Exchange the network's parameters with their average; a second time undoes it. Nothing is copied."""
        for place, parameter in enumerate(self._parameters):
            parameter.data, self._values[place] = self._values[place], parameter.data

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the network is the averaged one."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
