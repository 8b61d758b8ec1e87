"""Views: draw the crops, flips and shifts of each iteration, and apply them to the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from attar.ops import dsa, views
from attar.ops.choices import Augmentation, Combination
from attar.synthesis.choices import Crops, Curricula, Pixels
from attar.synthesis.curriculum import lower_bound
from attar.synthesis.task import Task
from attar.synthesis.terms import State

Size = tuple[int, int]
Records = tuple[Tensor, ...]
"""The views of one iteration: each tensor has one entry for all images, or one per unit, or one per image in the batch.
Empty: whole images."""
Show = Callable[[Tensor, Records, Size, Tensor], Tensor]
"""Makes the views of images: ``show(images, records, size, average)``, a pure function at the top level of a module;
``average`` maps images to units."""


class Views(Protocol):
    """Draws the views of each iteration and keeps the random state."""

    @property
    def show(self) -> Show:
        """Function that turns records into views."""
        ...

    @property
    def uses_losses(self) -> bool:
        """Whether ``receive`` must be called."""
        ...

    def draw(self, iteration: int, pixels: Size, shown: Size) -> Records:
        """Draw the views of an iteration, for images of size ``pixels``, resized to the other size."""
        ...

    def receive(self, losses: Float[Tensor, " image"]) -> None:
        """Receive each image's cross-entropy through the last views, for classes that choose views by it."""
        ...

    def state(self) -> State:
        """Return the state that the next draws depend on, for a checkpoint."""
        ...

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        ...


def cropped(
    images: Float[Tensor, "image 3 height width"], records: Records, size: Size, average: Float[Tensor, "unit image"]
) -> Float[Tensor, "image 3 out_height out_width"]:
    """Apply crops, flips and shifts with ``ops/views.py``; records are box, flip and shift."""
    if not records:
        return images
    box, flip, shift = records
    view_of = average.argmax(0) if 1 < len(box) == len(average) else None
    return views.apply(images, views.View(box, flip, shift), size, view_of)


class Whole:
    """Shows whole images, resized if views are smaller."""

    uses_losses = False

    @property
    def show(self) -> Show:
        """Crops, flips and shifts."""
        return cropped

    def draw(self, iteration: int, pixels: Size, shown: Size) -> Records:
        """Return no records, or the whole image as one crop."""
        return () if pixels == shown else views.whole(*pixels).parts()

    def receive(self, losses: Tensor) -> None:
        """Do nothing: losses have no effect on these views."""

    def state(self) -> State:
        """Return an empty state."""
        return {}

    def restore(self, state: State) -> None:
        """Do nothing: there is no state."""


class RandomCrops(Whole):
    """Draws one random view per iteration, for each unit or for each image."""

    def __init__(self, task: Task, config: Crops, iterations: int, shown: int = 1) -> None:
        """``iterations`` is the length of a unit, for the curriculum; ``shown`` is the number of images per stored
        image."""
        self._config, self._iterations, self._full = config, iterations, task.size
        self._streams = task.streams("views")
        self._counts = [count * shown for count in task.unit_sizes] if config.views_per_image else None
        self._reach = (-config.jitter if config.jitter_both_ways else 0, config.jitter + 1)

    def draw(self, iteration: int, pixels: Size, shown: Size) -> Records:
        """Draw crops of at least the curriculum's area. The shift is the same fraction of the image at every size."""
        config, smallest = self._config, self._config.min_crop
        if isinstance(config, Curricula):
            smallest = lower_bound(iteration, self._iterations, config.curriculum, config.milestone, smallest)
        choice = views.ViewChoice(crop=config.crop, min_scale=smallest, padding=config.padding, flip=config.flip)
        view = self._drawn(choice, pixels)
        return view.scaled(self._full, shown).parts()

    def _drawn(self, choice: views.ViewChoice, pixels: Size) -> views.View:
        if self._counts is None:
            view = views.draw(choice, 1, *pixels, *self._streams)
            return replace(view, shift=torch.cat([self._shift(1, stream) for stream in self._streams]))
        found = []
        for count, stream in zip(self._counts, self._streams, strict=True):
            view = views.draw(choice, count, *pixels, stream)
            found.append(replace(view, shift=self._shift(count, stream)))
        return _joined(found)

    def _shift(self, count: int, stream: torch.Generator) -> Tensor:
        return torch.randint(*self._reach, (count, 2), generator=stream)

    def state(self) -> State:
        """Return the states of the units' random streams."""
        return {str(place): stream.get_state() for place, stream in enumerate(self._streams)}

    def restore(self, state: State) -> None:
        """Continue the random streams from a saved state."""
        for place, stream in enumerate(self._streams):
            stream.set_state(state[str(place)].cpu())


@dataclass(frozen=True)
class Augmented:
    """Apply differentiable Siamese augmentation to images; records are the levels of ``ops/dsa.py``."""

    kinds: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, records: Records, size: Size, average: Tensor) -> Tensor:
        """Shrink the images if views are smaller, and augment them."""
        if images.shape[-2:] != size:
            images = views.apply(images, views.whole(*images.shape[-2:]), size)
        (levels,) = records
        if 1 < len(levels) == len(average):
            levels = levels[average.argmax(0)]
        return dsa.apply(images, levels, self.kinds)


class Siamese(Whole):
    """Draws differentiable Siamese augmentation once per iteration and unit (DSA, arXiv 2102.08259)."""

    def __init__(self, task: Task, kinds: tuple[Augmentation, ...], combine: Combination = "all") -> None:
        """``kinds`` and ``combine`` are arguments of ``dsa.sample``."""
        self._kinds = kinds
        self._combine: Combination = combine
        self._streams = task.streams("siamese")

    @property
    def show(self) -> Show:
        """Siamese augmentation of whole images."""
        return Augmented(self._kinds)

    def draw(self, iteration: int, pixels: Size, shown: Size) -> Records:
        """Draw the levels of each unit."""
        return (dsa.sample(self._kinds, self._combine, 1, *self._streams),)

    def state(self) -> State:
        """Return the states of the units' random streams."""
        return {str(place): stream.get_state() for place, stream in enumerate(self._streams)}

    def restore(self, state: State) -> None:
        """Continue the random streams from a saved state."""
        for place, stream in enumerate(self._streams):
            stream.set_state(state[str(place)].cpu())


def views_of(task: Task, config: Crops, shown: int = 1) -> RandomCrops:
    """Return the configured views, over the method's iterations."""
    iterations = config.iterations if isinstance(config, Pixels) else 1
    return RandomCrops(task, config, iterations, shown)


def _joined(found: Sequence[views.View]) -> views.View:
    return views.View(*(torch.cat(parts) for parts in zip(*(view.parts() for view in found), strict=True)))
