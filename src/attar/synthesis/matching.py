"""Match stored images with real images, class by class, through networks that change in every iteration.

A statistic turns an image's features into numbers. In each iteration its mean over a batch of real images of a class
is compared with its mean over all stored images of that class, both under one draw of augmentation. What an iteration
draws (network, augmentation, real images) depends on the iteration and the class alone, so units never influence one
another, whichever of them are made together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.ops import dsa
from attar.ops.choices import Augmentation
from attar.ops.pixels import Normalisation, from_bytes
from attar.synthesis.canvas import Canvas, Images
from attar.synthesis.choices import Matching
from attar.synthesis.networks import Bare, Weights
from attar.synthesis.optimise import shape_of
from attar.synthesis.task import RealImages, Task

_CHUNK_PIXELS = {"cpu": 2**19, "cuda": 2**23}
"""Pixels of real images that go through the network at once."""
Records = tuple[Tensor, ...]


class Statistic(Protocol):
    """What is compared of real and stored images. A frozen dataclass; its hash names the compiled function."""

    def draw(self, iteration: int, num_features: int) -> Records:
        """Draw the tensors that ``of`` takes in this iteration, on the CPU; none for a fixed statistic."""
        ...

    def of(self, features: Float[Tensor, "image feature"], drawn: Records) -> Float[Tensor, "image value"]:
        """Return the numbers of each image; pure and differentiable."""
        ...

    def distance(
        self, real: Float[Tensor, "group value"], stored: Float[Tensor, "group value"]
    ) -> Float[Tensor, " group"]:
        """Return the distance of the means of each class."""
        ...


@dataclass(frozen=True)
class Mean:
    """The features themselves: squared distance of their means (DM, arXiv 2110.04181, equation 5)."""

    def draw(self, iteration: int, num_features: int) -> Records:
        """Draw nothing."""
        return ()

    def of(self, features: Float[Tensor, "image feature"], drawn: Records) -> Float[Tensor, "image feature"]:
        """The features."""
        return features

    def distance(
        self, real: Float[Tensor, "group feature"], stored: Float[Tensor, "group feature"]
    ) -> Float[Tensor, " group"]:
        """Sum of squares."""
        return (real - stored).square().sum(1)


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
    """Computes distances between real and stored images, and their gradients with respect to the pixels."""

    def __init__(self, task: Task, config: Matching, canvas: Canvas, network: Bare, statistic: Statistic) -> None:
        assert task.real is not None  # needs
        self._task, self._config, self._statistic = task, config, statistic
        self.groups = Groups(task, canvas.shown)
        self.real = RealSets(task.real, self.groups.labels, config.real_batch, task.device)
        self._num_classes = task.real.num_classes
        self._kinds = config.kinds()
        teacher = task.teachers[0]
        self.units = canvas.units(teacher.normalisation)
        area = task.size[0] * task.size[1]
        room = _CHUNK_PIXELS.get(task.device.type, 2**23) // (area * len(self.groups))
        self._chunk = next(
            size for size in range(max(1, min(room, self.real.batch)), 0, -1) if self.real.batch % size == 0
        )
        chunk_of = torch.arange(len(self.groups), device=task.device).repeat_interleave(self._chunk)
        self._mask = torch.nn.functional.one_hot(chunk_of, len(self.groups)).T.float()
        self._num_features = network.num_features(task.size)
        key = (config.depth(task.size[0]), config.network_width, canvas, self._kinds, statistic, self.units)
        calls = float(sum(stretch.iterations for stretch in config.cost(shape_of(task)))) * task.num_alike

        def prepared(of_stored: bool, count: int, num_calls: float) -> Callable[..., Any]:
            function = _Means(network, statistic, self._kinds, teacher.precision, teacher.normalisation)
            if of_stored:
                function.canvas, function.units = canvas, self.units
            amount = network.amount(task.size, count * num_calls * (3 if of_stored else 1), num_calls)
            return teacher.compiler(_slope if of_stored else _plain, function, amount)

        shown, chunk = self.groups.average.shape[1], len(chunk_of)
        self._stored = teacher.kept(("stored", *key, shown), lambda: prepared(True, shown, calls))
        self._real = teacher.kept(
            ("real", *key, chunk), lambda: prepared(False, chunk, calls * self.real.batch / self._chunk)
        )

    def levels(self, iteration: int) -> dsa.Levels:
        """Draw one augmentation for each group's class."""
        stream = self._task.shared_stream("siamese", iteration)
        return dsa.sample(self._kinds, "one", self._num_classes, stream)[self.groups.labels.cpu()].to(self._task.device)

    def __call__(self, pixels: Images, weights: Weights, iteration: int) -> tuple[Images, Float[Tensor, " group"]]:
        """Return the gradient of the sum of all groups' distances, and the distances."""
        weights, device = weights.to(self._task.device), self._task.device
        drawn = tuple(each.to(device) for each in self._statistic.draw(iteration, self._num_features))
        levels = self.levels(iteration)
        target = self._real_means(weights, levels, drawn, iteration)
        own = levels[self.groups.average.argmax(0)]
        return self._stored(pixels, weights, own, self.groups.average, drawn, target, self._statistic)

    def _real_means(
        self, weights: Weights, levels: dsa.Levels, drawn: Records, iteration: int
    ) -> Float[Tensor, "group value"]:
        index, share = self.real.draw(self._task.shared_stream("real", iteration))
        levels = levels.repeat_interleave(self._chunk, 0)
        total: Tensor | float = 0.0
        for part, own in zip(index.split(self._chunk, 1), share.split(self._chunk, 1), strict=True):
            images = self.real.images[part.flatten()]
            total = total + self._real(images, weights, levels, self._mask * own.flatten(), drawn)
        assert isinstance(total, Tensor)
        return total


class _Means:
    """Means of a statistic over groups of images: of stored ones through a canvas, or of real ones as bytes."""

    def __init__(
        self,
        network: Bare,
        statistic: Statistic,
        kinds: tuple[Augmentation, ...],
        precision: str,
        normalisation: Normalisation,
    ) -> None:
        self.network, self.statistic, self.kinds = network, statistic, kinds
        self.reduced, self.normalisation = precision == "bf16", normalisation
        self.canvas: Canvas | None = None
        self.units: Normalisation | None = None

    def __call__(
        self, images: Tensor, weights: Weights, levels: Tensor, average: Tensor, drawn: Records
    ) -> Float[Tensor, "group value"]:
        if self.canvas is None or self.units is None:
            seen = from_bytes(images)
        else:
            seen = self.units.undo(self.canvas.show(images))
        seen = dsa.apply(self.normalisation.apply(seen), levels, self.kinds)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.reduced):
            features = self.network(weights, seen)
        return average @ self.statistic.of(features.float(), drawn)


@torch.no_grad()
def _plain(means: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return means(*arguments)


def _slope(means: Callable[..., Tensor], pixels: Images, *arguments: Any) -> tuple[Images, Float[Tensor, " group"]]:
    """Return the gradient of the sum of the distances from the target, and the distances."""
    *inner, target, statistic = arguments
    leaf = pixels.detach().requires_grad_()
    distance = statistic.distance(target, means(leaf, *inner))
    (slope,) = torch.autograd.grad(distance.sum(), leaf)
    return slope, distance.detach()


def match(
    task: Task,
    config: Matching,
    start: Float[Tensor, "image 3 height width"],
    canvas: Canvas,
    network: Bare,
    statistic: Statistic,
    weights: Callable[[int], Weights],
) -> Float[Tensor, "image 3 height width"]:
    """Minimise the sum of the classes' distances over the pixels; returns them in [0, 1].

    ``start`` is in [0, 1]; ``weights`` gives the network's weights in each iteration. After each step the pixels are
    clamped to the valid range.
    """
    matcher = Matcher(task, config, canvas, network, statistic)
    units, groups = matcher.units, matcher.groups
    pixels = canvas.begin(units.apply(start)).to(task.device, copy=True)
    low, high = (edge[:, : pixels.shape[1]] for edge in units.bounds(pixels))
    optimiser = torch.optim.SGD([pixels], lr=config.image_learning_rate, momentum=config.momentum)
    finished, saved = task.checkpoint.load() or (0, dict[str, Tensor]())
    if saved:
        pixels.copy_(saved["pixels"])
        optimiser.state[pixels] = {"momentum_buffer": saved["momentum"].to(task.device, copy=True)}

    def images() -> Tensor:
        return units.undo(pixels.expand(-1, 3, -1, -1)).clamp(0, 1)

    def state() -> dict[str, Tensor]:
        kept = {"pixels": pixels, "momentum": optimiser.state[pixels]["momentum_buffer"]}
        return {name: value.cpu().clone() for name, value in kept.items()}

    for iteration in range(finished, config.iterations):
        pixels.grad, distance = matcher(pixels, weights(iteration), iteration)
        optimiser.step()
        pixels.clamp_(low, high)
        left = task.watch.step(iteration, images, loss=groups.per_unit @ distance)
        task.checkpoint.offer(iteration + 1, state)
        if left:
            break
    return images()


def _averaging(group_of: Int[Tensor, " image"], count: int) -> Float[Tensor, "group image"]:
    member = torch.nn.functional.one_hot(group_of, count).T.float()
    return member / member.sum(1, keepdim=True)
