"""A moving average of a network's parameters, which is evaluated instead of the parameters themselves."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Exponential moving average of the trained parameters; it starts at the initial parameters.

    Buffers are not averaged: the averaged parameters use the running BatchNorm statistics of the trained network, as in
    EDC (arXiv 2404.13733, its published code).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters: list[Tensor] = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._parameters]
        self._move = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Move the average by ``1 - decay`` towards the parameters; call it after each optimiser step."""
        self._move(self._values, self._parameters, 0)

    def state(self) -> list[Tensor]:
        """Return the current average, without copying it."""
        return list(self._values)

    def load(self, state: Sequence[Tensor]) -> None:
        """Continue from an earlier ``state()``, on any device."""
        for value, earlier in zip(self._values, state, strict=True):
            value.copy_(earlier)

    def swap(self) -> None:
        """Swap the network's parameters with their average; a second call swaps them back. Nothing is copied."""
        for place, parameter in enumerate(self._parameters):
            parameter.data, self._values[place] = self._values[place], parameter.data

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Inside the context, the network has the averaged parameters."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
