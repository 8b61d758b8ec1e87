"""Random real images: no distillation at all, and the line that every method has to beat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attar.synthesis.method import MethodConfig, Needs

if TYPE_CHECKING:
    from attar.synthesis.task import Recovered, Task


class Config(MethodConfig):
    """Images drawn from the training set, each class without replacement."""

    def needs(self) -> Needs:
        """Real images, which are stored as they are, and no teacher."""
        return replace(super().needs() | Needs(real_images=True, stores_real_pixels=True), teachers="none")

    def real_per_image(self) -> int:
        """The stored image itself."""
        return 1


def recover(task: Task, config: Config) -> Recovered:
    """The unit's slot of a random order of each class's training images, in [0, 1].

    Raises AttarError when a class has fewer images than are asked of it.
    """
    import torch

    from attar.synthesis.coreset import enough, gather
    from attar.synthesis.task import Recovered

    assert task.real is not None  # needs
    places = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        enough(task.real, label, config.ipc)
        stream = task.shared_stream("order", task.real.class_name(label))
        places.append(int(torch.randperm(task.real.count(label), generator=stream)[slot]))
    return Recovered(gather(task, places))
