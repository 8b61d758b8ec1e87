"""Random real images: no distillation at all, and the line that every method has to beat."""

import torch
from jaxtyping import Float
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops.pixels import from_bytes
from attar.ops.task import MethodConfig, Needs, Task

needs = Needs(real_images=True)


class Config(MethodConfig):
    """Images drawn from the training set, each class without replacement."""


def recover(task: Task, config: Config) -> Float[Tensor, "image 3 height width"]:
    """The unit's slot of a random order of each class's training images, in [0, 1].

    Raises AttarError when a class has fewer images than are asked of it.
    """
    assert task.real is not None  # needs.real_images
    chosen = []
    for label, slot in zip(task.labels.tolist(), task.slots.tolist(), strict=True):
        count, name = task.real.count(label), task.real.class_name(label)
        if config.ipc > count:
            raise AttarError(
                f"Class '{name}' has {count} training images but {config.ipc} are asked for; "
                f"use --recover.ipc {count} or less."
            )
        order = torch.randperm(count, generator=task.shared_stream("order", name))
        chosen.append(task.real.take(label, [int(order[slot])]))
    return from_bytes(torch.cat(chosen).to(task.device))
