"""Pixels under optimisation: groups of images that joined at different iterations, each with its own Adam."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from attar.ops import schedule
from attar.ops.pixels import Normalisation
from attar.synthesis.canvas import Images
from attar.synthesis.choices import Pixels
from attar.synthesis.stretch_choices import EarlyLate
from attar.synthesis.terms import State

_ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class _Group:
    places: Int[Tensor, " part"] | None
    """Indices of the task's images; None: all."""
    since: int
    """Iteration from which on their learning rate falls."""
    start: Tensor
    pixels: Tensor
    adam: torch.optim.Adam


class Leaves:
    """All pixels of a task, and the optimisers of those that take part."""

    def __init__(self, start: Images, config: Pixels, units: Normalisation, total: int) -> None:
        """``units`` are the units of the pixels; ``total`` is the number of planned iterations."""
        self._config, self._total = config, total
        self._shared = isinstance(config, EarlyLate) and config.late_rates == "shared"
        self._resting = start
        self._low, self._high = (edge[:, : start.shape[1]] for edge in units.bounds(start))
        self._groups: list[_Group] = []

    def join(self, places: Int[Tensor, " part"] | None, iteration: int) -> None:
        """Add these images from this iteration on; images that already take part continue unchanged."""
        if places is None and not self._groups:
            self._groups.append(self._group(None, iteration, self._resting))
            return
        if any(group.places is None for group in self._groups):
            return
        if places is None:
            places = torch.arange(len(self._resting), device=self._resting.device)
        already = torch.cat([group.places for group in self._groups if group.places is not None] or [places[:0]])
        new = places[~torch.isin(places, already)]
        if len(new):
            self._groups.append(self._group(new, iteration, self._resting[new]))

    def restart(self, images: Images) -> None:
        """Continue with these images, of any size, and new optimisers; the learning rates continue to fall."""
        self._resting = images
        self._groups = [
            self._group(group.places, group.since, images if group.places is None else images[group.places])
            for group in self._groups
        ]

    def _group(self, places: Tensor | None, since: int, images: Images) -> _Group:
        start, pixels = images.detach(), images.detach().clone().requires_grad_()
        rate, betas = self._config.learning_rate, self._config.betas
        adam = torch.optim.Adam([pixels], lr=rate, betas=betas, eps=1e-8, fused=True)
        if self._shared and since:  # one optimiser for all: it has counted steps in which these images had no gradient
            steps = torch.tensor(float(since), device=pixels.device)
            zeros = {name: torch.zeros_like(pixels) for name in _ADAM[1:]}
            adam.state[pixels] = {"step": steps, **zeros}
        return _Group(places, 0 if self._shared else since, start, pixels, adam)

    def taking_part(self) -> Images:
        """Return the images that take part, in the task's order."""
        if self._groups[0].places is None:
            return self._groups[0].pixels
        return torch.cat([group.pixels.detach() for group in self._groups])[self._order().argsort()]

    def _order(self) -> Int[Tensor, " part"]:
        """Return each image's rank among those that take part, with all groups concatenated."""
        return torch.cat([group.places for group in self._groups if group.places is not None]).argsort().argsort()

    def all(self) -> Images:
        """Return all images of the task in their current state."""
        if self._groups and self._groups[0].places is None:
            return self._groups[0].pixels.detach()
        images = self._resting.clone()
        for group in self._groups:
            images[group.places] = group.pixels.detach()
        return images

    @torch.no_grad()
    def step(self, gradient: Images, iteration: int) -> None:
        """Take one Adam step along the gradient of the images that take part; clamp to the valid pixel range."""
        parts = [gradient]
        if self._groups[0].places is not None:
            parts = list(gradient[self._order()].split([len(group.pixels) for group in self._groups]))
        for group, part in zip(self._groups, parts, strict=True):
            done, planned = iteration - group.since, self._total - group.since
            rate = schedule.learning_rate(self._config.schedule, self._config.learning_rate, done, planned)
            group.adam.param_groups[0]["lr"] = rate
            group.pixels.grad = part
            if self._config.start_decay:
                group.pixels.lerp_(group.start, rate * self._config.start_decay)
            group.adam.step()
            group.pixels.clamp_(self._low, self._high)

    def state(self) -> State:
        """Return pixels and optimisers, for a checkpoint."""
        found = {}
        for place, group in enumerate(self._groups):
            found[f"{place}.pixels"] = group.pixels.detach()
            found |= {f"{place}.{name}": group.adam.state[group.pixels][name] for name in _ADAM}
        return found

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Continue from a saved state with the same groups."""
        for place, group in enumerate(self._groups):
            group.pixels.copy_(state[f"{place}.pixels"])
            steps = {name: state[f"{place}.{name}"].to(group.pixels.device, copy=True) for name in _ADAM}
            group.adam.state[group.pixels] = steps
