"""Match stored images with real images, class by class, through networks that change in every iteration.

A statistic turns an image's features into numbers. In each iteration its mean over a batch of real images of a class
is compared with its mean over all stored images of that class, both under one draw of augmentation. What an iteration
draws (network, augmentation, real images) depends on the iteration and the class alone, so units never influence one
another, whichever of them are made together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.ops import dsa
from attar.ops.choices import Augmentation, Combination
from attar.ops.pixels import Normalisation, from_bytes
from attar.synthesis.canvas import Canvas, Images
from attar.synthesis.matching_choices import Matching
from attar.synthesis.networks import Bare, Weights
from attar.synthesis.optimise import shape_of
from attar.synthesis.task import Network, RealImages, Task

_CHUNK_PIXELS = {"cpu": 2**19, "cuda": 2**21}
"""Pixels of real images that go through the network at once."""
Records = tuple[Tensor, ...]


class Statistic(Protocol):
    """What is compared of real and stored images. A frozen dataclass; its hash names the compiled function."""

    def draw(self, stream: torch.Generator, num_features: int, device: torch.device) -> Records:
        """Draw the tensors that ``of`` takes in this iteration; none for a fixed statistic."""
        ...

    def of(
        self, features: Float[Tensor, "image feature"], labels: Int[Tensor, " image"], drawn: Records
    ) -> Float[Tensor, "image value"]:
        """Return the numbers of each image; pure and differentiable."""
        ...

    def distance(
        self, stored: Float[Tensor, "group value"], real: Float[Tensor, "group value"] | None
    ) -> Float[Tensor, " group"]:
        """Return the distance of the means of each class; ``real`` is None if real images are not looked at."""
        ...


@dataclass(frozen=True)
class Mean:
    """The features themselves: squared distance of their means (DM, arXiv 2110.04181)."""

    def draw(self, stream: torch.Generator, num_features: int, device: torch.device) -> Records:
        """Draw nothing."""
        return ()

    def of(
        self, features: Float[Tensor, "image feature"], labels: Int[Tensor, " image"], drawn: Records
    ) -> Float[Tensor, "image feature"]:
        """The features."""
        return features

    def distance(
        self, stored: Float[Tensor, "group feature"], real: Float[Tensor, "group feature"] | None
    ) -> Float[Tensor, " group"]:
        """Sum of squares."""
        assert real is not None
        return (real - stored).square().sum(1)


@dataclass(frozen=True)
class Look:
    """One way in which an iteration looks at the images: through a network, for a statistic of what it answers."""

    name: str
    """Name of its distance in the metrics, if there are several looks."""
    network: Bare
    weights: Callable[[int], Weights]
    """The network's weights in an iteration."""
    statistic: Statistic
    real: bool = True
    """Whether stored images are compared with real ones."""


class Groups:
    """A task's images by unit and class: those that are matched with one batch of real images."""

    def __init__(self, task: Task, shown: int) -> None:
        """``shown`` is the number of images that networks see per stored image."""
        assert task.real is not None  # needs
        keys = task.unit_of * task.real.num_classes + task.labels
        unique, group_of = keys.unique(return_inverse=True)
        self.labels: Int[Tensor, " group"] = unique % task.real.num_classes
        self.unit_of: Int[Tensor, " group"] = unique // task.real.num_classes
        self.average: Float[Tensor, "group shown"] = _averaging(group_of.repeat_interleave(shown), len(unique))
        """Averages over the images of each group."""
        self.per_unit: Float[Tensor, "unit group"] = _averaging(self.unit_of, len(task.unit_sizes))

    def __len__(self) -> int:
        return len(self.labels)


class RealSets:
    """The real images of some classes, as bytes on the device, and random batches of them."""

    def __init__(self, real: RealImages, labels: Int[Tensor, " group"], batch: int, device: torch.device) -> None:
        """``labels`` are the groups' classes; a class with fewer images than ``batch`` gives all that it has."""
        every = [real.count(label) for label in range(real.num_classes)]
        classes, row_of = labels.unique(return_inverse=True)
        counts = torch.tensor([every[label] for label in classes.tolist()])
        first = counts.cumsum(0) - counts
        self.images: UInt8[Tensor, "image 3 height width"] = torch.cat(
            [real.take(label, range(every[label])).to(device) for label in classes.tolist()]
        )
        self._shape, self._labels = (real.num_classes, max(every)), labels.cpu()
        self._first, self._counts = (each[row_of.cpu(), None].to(device) for each in (first, counts))
        self.batch = min(batch, max(every))

    def draw(self, stream: torch.Generator) -> tuple[Int[Tensor, "group batch"], Float[Tensor, "group batch"]]:
        """Draw a batch of each group's class, without repeats: indices into ``images``, and weights that sum to 1.

        The stream is used alike whatever classes are here.
        """
        order = torch.rand(self._shape, generator=stream)[self._labels].to(self.images.device)
        there = torch.arange(order.shape[1], device=order.device) < self._counts
        places = order.masked_fill(~there, -1).topk(self.batch, dim=1).indices
        inside = places < self._counts
        weights = inside / self._counts.clamp_max(self.batch)
        return torch.where(inside, places, 0) + self._first, weights


class Matcher:
    """Computes the distances of one look, and their gradients with respect to the pixels."""

    def __init__(
        self, task: Task, config: Matching, canvas: Canvas, groups: Groups, look: Look, real: RealSets
    ) -> None:
        assert task.real is not None  # needs
        self._task, self._look, self._groups, self._real = task, look, groups, real
        self._num_classes, self._kinds = task.real.num_classes, config.kinds()
        self._combine: Combination = config.combination()
        self._streams = () if look.real else (look.name,)
        self._num_features = look.network.num_features(task.size)
        room = _CHUNK_PIXELS.get(task.device.type, 2**21) // (task.size[0] * task.size[1] * len(groups))
        self._chunk = next(size for size in range(max(1, min(room, real.batch)), 0, -1) if real.batch % size == 0)
        self._chunk_of = torch.arange(len(groups), device=task.device).repeat_interleave(self._chunk)
        self._mask = F.one_hot(self._chunk_of, len(groups)).T.float()
        calls = float(sum(stretch.iterations for stretch in config.cost(shape_of(task)))) * task.num_alike
        shown = groups.average.shape[1]
        key = (look.name, config.depth(task.size[0]), config.network_width, canvas, self._kinds, look.statistic)
        kept = task.teachers[0].kept

        def prepared(stored: Canvas | None, count: int, num_calls: float) -> Callable[..., Any]:
            function = _Means(look.network, look.statistic, self._kinds, task.teachers[0], stored)
            amount = look.network.amount(task.size, count * num_calls * (3 if stored else 1), num_calls)
            what = f"features of {'distilled' if stored else 'real'} images"
            return task.teachers[0].compiler(_slope if stored else _plain, function, amount, what=what)

        self._of_stored = kept(("stored", shown, *key), lambda: prepared(canvas, shown, calls))
        if look.real:
            count, times = len(self._chunk_of), real.batch / self._chunk
            self._of_real = kept(("real", count, *key), lambda: prepared(None, count, calls * times))

    def __call__(self, pixels: Images, iteration: int) -> tuple[Images, Float[Tensor, " group"]]:
        """Return the gradient of the sum of all groups' distances, and the distances."""
        task, look, groups = self._task, self._look, self._groups
        weights = look.weights(iteration).to(task.device)
        stream = task.shared_stream("siamese", *self._streams, iteration)
        levels = dsa.sample(self._kinds, self._combine, self._num_classes, stream)[groups.labels.cpu()].to(task.device)
        drawn = look.statistic.draw(task.shared_stream("statistic", iteration), self._num_features, task.device)
        target = self._real_means(weights, levels, drawn, iteration) if look.real else None
        own = groups.average.argmax(0)
        arguments = (weights, levels[own], groups.labels[own], groups.average, drawn)
        return self._of_stored(pixels, *arguments, target, look.statistic)

    def _real_means(
        self, weights: Weights, levels: dsa.Levels, drawn: Records, iteration: int
    ) -> Float[Tensor, "group value"]:
        index, share = self._real.draw(self._task.shared_stream("real", iteration))
        levels, labels = levels[self._chunk_of], self._groups.labels[self._chunk_of]
        parts = [
            self._of_real(self._real.images[part.flatten()], weights, levels, labels, self._mask * own.flatten(), drawn)
            for part, own in zip(index.split(self._chunk, 1), share.split(self._chunk, 1), strict=True)
        ]
        return torch.stack(parts).sum(0)


class _Means:
    """Means of a statistic over groups of images: of stored ones through a canvas, or of real ones as bytes."""

    def __init__(
        self,
        network: Bare,
        statistic: Statistic,
        kinds: tuple[Augmentation, ...],
        teacher: Network,
        canvas: Canvas | None,
    ) -> None:
        self.network, self.statistic, self.kinds, self.canvas = network, statistic, kinds, canvas
        self.reduced, self.normalisation = teacher.precision == "bf16", teacher.normalisation
        self.units = Normalisation() if canvas is None else canvas.units(teacher.normalisation)

    def __call__(
        self, images: Tensor, weights: Weights, levels: Tensor, labels: Tensor, average: Tensor, drawn: Records
    ) -> Float[Tensor, "group value"]:
        seen = from_bytes(images) if self.canvas is None else self.units.undo(self.canvas.show(images))
        seen = dsa.apply(self.normalisation.apply(seen), levels, self.kinds)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.reduced):
            features = self.network(weights, seen)
        return average @ self.statistic.of(features.float(), labels, drawn)


@torch.no_grad()
def _plain(means: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return means(*arguments)


def _slope(means: Callable[..., Tensor], pixels: Images, *arguments: Any) -> tuple[Images, Float[Tensor, " group"]]:
    """Return the gradient of the sum of the distances from the target, and the distances."""
    *inner, target, statistic = arguments
    leaf = pixels.detach().requires_grad_()
    distance = statistic.distance(means(leaf, *inner), target)
    (slope,) = torch.autograd.grad(distance.sum(), leaf)
    return slope, distance.detach()


class Plateau:
    """Halves the rate when the loss has not fallen by a ten-thousandth for more than ``patience`` iterations."""

    def __init__(self, optimiser: torch.optim.Optimizer, patience: int) -> None:
        """``patience`` 0: the rate stays as it is."""
        self._optimiser, self._patience = optimiser, patience
        self._best, self._waited = math.inf, 0

    def step(self, loss: Callable[[], float]) -> None:
        """Look at the loss of an iteration."""
        if not self._patience:
            return
        value = loss()
        if value < self._best * (1 - 1e-4):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited > self._patience:
            self._waited = 0
            self._optimiser.param_groups[0]["lr"] /= 2

    def state(self) -> Tensor:
        """Return the state for a checkpoint."""
        return torch.tensor([self._best, self._waited, self._optimiser.param_groups[0]["lr"]], dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Continue from a saved state."""
        self._best, waited, self._optimiser.param_groups[0]["lr"] = state.tolist()
        self._waited = int(waited)


def match(
    task: Task,
    config: Matching,
    start: Float[Tensor, "image 3 height width"],
    canvas: Canvas,
    looks: Sequence[Look],
    optimiser_of: Callable[[Tensor], torch.optim.Optimizer],
    patience: int = 0,
) -> Float[Tensor, "image 3 height width"]:
    """Minimise the sum of the classes' distances of all looks over the pixels; returns them in [0, 1].

    ``start`` is in [0, 1]. After each step of the optimiser the pixels are clamped to the valid range. With
    ``patience`` the rate is halved when the mean loss of the task stays as it is.
    """
    assert task.real is not None  # needs
    groups = Groups(task, canvas.shown)
    real = RealSets(task.real, groups.labels, config.real_batch, task.device)
    matchers = [Matcher(task, config, canvas, groups, look, real) for look in looks]
    units = canvas.units(task.teachers[0].normalisation)
    pixels = canvas.begin(units.apply(start)).to(task.device, copy=True)
    low, high = (edge[:, : pixels.shape[1]] for edge in units.bounds(pixels))
    optimiser = optimiser_of(pixels)
    plateau = Plateau(optimiser, patience)
    finished, saved = task.checkpoint.load() or (0, dict[str, Tensor]())
    if saved:
        pixels.copy_(saved.pop("pixels"))
        plateau.restore(saved.pop("plateau"))
        optimiser.state[pixels] = {
            name: value.to(task.device, copy=True) if value.ndim else value.clone() for name, value in saved.items()
        }

    def images() -> Tensor:
        return units.undo(pixels.expand(-1, 3, -1, -1)).clamp(0, 1)

    def state() -> dict[str, Tensor]:
        kept = {"pixels": pixels, "plateau": plateau.state(), **optimiser.state[pixels]}
        return {name: value.cpu().clone() for name, value in kept.items()}

    for iteration in range(finished, config.iterations):
        found = [matcher(pixels, iteration) for matcher in matchers]
        each = {look.name: groups.per_unit @ distance for look, (_, distance) in zip(looks, found, strict=True)}
        metrics = {"loss": sum(each.values(), torch.zeros((), device=task.device)), **(each if len(looks) > 1 else {})}
        pixels.grad = torch.stack([slope for slope, _ in found]).sum(0)
        optimiser.step()
        pixels.clamp_(low, high)
        plateau.step(lambda metrics=metrics: float(metrics["loss"].mean()))
        left = task.monitor.step(iteration, images, **metrics)
        task.checkpoint.offer(iteration + 1, state)
        if left:
            break
    return images()


def _averaging(group_of: Int[Tensor, " image"], count: int) -> Float[Tensor, "group image"]:
    member = F.one_hot(group_of, count).T.float()
    return member / member.sum(1, keepdim=True)
