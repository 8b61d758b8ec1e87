"""Optimisers by name, with the memory layout that their fastest kernels need."""

from typing import Any

import torch
from torch import Tensor, nn

from attar.training.choices import Optimisation

FUSED_DEVICES = ("cpu", "cuda")


class Optimiser:
    """One of PyTorch's optimisers or timm's Muon, with the work needed before and after its steps."""

    def __init__(self, network: nn.Module, choice: Optimisation) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._fused = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in self._parameters)
        if choice.optimizer == "muon":
            self.inner = _muon(network, self._parameters, choice)
            return
        groups = _groups(self._parameters, choice)
        if choice.optimizer in ("adam", "adamw"):
            kind = torch.optim.Adam if choice.optimizer == "adam" else torch.optim.AdamW
            self.inner = kind(groups, lr=choice.learning_rate, betas=choice.betas, fused=self._fused)
        else:
            self.inner = torch.optim.SGD(groups, lr=choice.learning_rate, momentum=choice.momentum, fused=self._fused)

    def zero_grad(self) -> None:
        self.inner.zero_grad()

    def step(self, learning_rate: float) -> None:
        """Take one step along the gradients."""
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        if self._fused:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad = _laid_out(parameter.grad, parameter)
        self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an earlier ``state_dict()``, on any device and in any memory layout."""
        self.inner.load_state_dict(state)
        for parameter, kept in self.inner.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                    kept[name] = _laid_out(value, parameter)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """Return ``value`` with the strides of ``parameter``.

    Fused kernels go through memory in order: tensors with other strides raise an error on a GPU and silently give wrong
    results on a CPU. Such tensors come from files, which store them in the default order, and sometimes from a backward
    pass.
    """
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _groups(parameters: list[nn.Parameter], choice: Optimisation, **more: Any) -> list[dict[str, Any]]:
    """Return all parameters; one-dimensional ones (biases, normalisation) form a separate group if they do not
    decay."""
    if choice.decay_norms:
        groups = [{"params": parameters, "weight_decay": choice.weight_decay, **more}]
    else:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": choice.weight_decay, **more},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **more},
        ]
    return [group for group in groups if group["params"]]


def _muon(network: nn.Module, parameters: list[nn.Parameter], choice: Optimisation) -> torch.optim.Optimizer:
    """Return Muon (Jordan et al., 2024) for matrices and convolutions, with Adam for the rest.

    This is timm's Muon, not torch.optim's. torch.optim's accepts only two-dimensional parameters, which in a
    convolutional network leaves only the classifier, where Muon should not be used. timm's treats a convolution as the
    matrix of its filters and uses Adam (with Nesterov momentum and decoupled decay) for other parameters. Steps are
    scaled to the size of AdamW's (Liu et al., 2025, arXiv 2502.16982), so that one learning rate and one decay serve
    all parameters.
    """
    from timm.optim.muon import Muon  # half of timm and torchvision come along; only those who ask for it wait

    linear = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
    embeddings = [module.weight for module in network.modules() if isinstance(module, nn.Embedding)]
    apart = {id(weight) for weight in [*linear[-1:], *embeddings]}  # the classifier is the last linear layer
    groups = [
        *_groups([p for p in parameters if id(p) not in apart], choice),
        *_groups([p for p in parameters if id(p) in apart], choice, use_fallback=True),
    ]
    return Muon(
        groups,
        lr=choice.learning_rate,
        momentum=choice.momentum,
        nesterov=True,
        betas=choice.betas,
        adjust_lr_fn="match_rms_adamw",
    )
