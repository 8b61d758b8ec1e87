"""Random real images: no distillation at all, and the line that every method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.method import MethodConfig, Needs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Task

needs = Needs(real_images=True)


class Config(MethodConfig):
    """Images drawn from the training set, each class without replacement."""


def recover(task: Task, config: Config) -> Float[Tensor, "image 3 height width"]:
    """The unit's slot of a random order of each class's training images, in [0, 1].

    Raises AttarError when a class has fewer images than are asked of it.
    """
    import torch

    from attar.synthesis.coreset import enough, gather

    assert task.real is not None  # needs.real_images
    places = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        enough(task.real, label, config.ipc)
        stream = task.shared_stream("order", task.real.class_name(label))
        places.append(int(torch.randperm(task.real.count(label), generator=stream)[slot]))
    return gather(task, places)
