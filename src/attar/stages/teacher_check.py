"""Check a teacher before images are made with it: its classes, its image size, its layers and its accuracy."""

import math
from typing import Literal

from torch import nn

from attar.core.errors import AttarError
from attar.models import build
from attar.models.teacher import Teacher
from attar.stages.workspace import Workspace
from attar.synthesis.choices import Statistics
from attar.synthesis.method import MethodConfig
from attar.synthesis.statistics import refuse_unobservable

WEAK = 0.05
"""A teacher is near chance when its accuracy covers less than this fraction of the gap from chance to 100 %."""
SURE = 1.65
"""... and by this many standard deviations of the accuracy, which few images measure badly: 95 %, one-sided."""


def check(
    teacher: Teacher,
    space: Workspace,
    method: str,
    config: MethodConfig,
    name: str = "The teacher",
    *,
    used: bool = True,
) -> None:
    """Raise AttarError, which calls the teacher ``name``, when its classes, size or accuracy make it unusable.

    A teacher that is not ``used``, for images or for labels, may be as weak as it likes; a warning says so.
    """
    if teacher.classes != space.real.classes and not config.accept_other_classes:
        first = next((name for name in teacher.classes if name not in space.real.classes), teacher.classes[0])
        raise AttarError(
            f"{name} knows other classes than the data ({len(teacher.classes)} against "
            f"{len(space.real.classes)}; '{first}' is the first that differs); squeeze a teacher on these data, or "
            f"use it anyway with --recover.accept-other-classes True."
        )
    if len(teacher.classes) != len(space.real.classes):
        raise AttarError(
            f"{name} has {len(teacher.classes)} classes, but the data have {len(space.real.classes)}; "
            f"squeeze a teacher on these data."
        )
    if teacher.image_size != space.choice.size:
        raise AttarError(
            f"{name} was made for {teacher.image_size} pixels, but the data are prepared at {space.choice.size}; "
            f"use --data.size {teacher.image_size}, or squeeze again."
        )
    check_network(teacher.module, teacher.architecture, method, config)
    _check_accuracy(teacher, space, config, name, used)


def _check_accuracy(teacher: Teacher, space: Workspace, config: MethodConfig, name: str, used: bool) -> None:
    """Raise AttarError when a teacher that is used is surely near chance; warn when it may be."""
    if teacher.accuracy is None or config.accept_weak_teacher:
        return
    num_classes, num_val = len(space.real.classes), len(space.val_labels)
    found = near_chance(teacher.accuracy, num_classes, num_val)
    seen = f"{name} is right on {teacher.accuracy:.1%} of the {num_val} real validation images"
    if found == "yes" and used:
        raise AttarError(
            f"{seen}, about chance ({1 / num_classes:.1%}); train it longer or with a lower learning rate, check its "
            f"class order, or use it anyway with --recover.accept-weak-teacher True."
        )
    if found == "no":
        return
    mend = "train it longer (--squeeze.training.epochs)"
    space.log.warn(
        f"{seen}, and guessing reaches about as much ({1 / num_classes:.1%}); "
        + (
            f"add pictures, or {mend}"
            if used
            else f"images and labels do not depend on it, only its own row in the table: {mend}"
        )
    )


def near_chance(accuracy: float, num_classes: int, num_images: int) -> Literal["yes", "no", "perhaps"]:
    """Return whether an accuracy, a fraction of ``num_images`` images, is near that of guessing.

    'perhaps' if so few images leave it open: the standard deviation is that of a binomial distribution.
    """
    chance = 1 / num_classes
    weak = chance + WEAK * (1 - chance)
    if accuracy < weak - SURE * math.sqrt(weak * (1 - weak) / num_images):
        return "yes"
    guessing = chance + SURE * math.sqrt(chance * (1 - chance) / num_images)
    return "perhaps" if accuracy < max(weak, guessing) else "no"


def check_network(network: nn.Module, architecture: str, method: str, config: MethodConfig) -> None:
    """Raise AttarError when the network lacks layers that the method needs."""
    if isinstance(config, Statistics):
        refuse_unobservable(network, architecture, config)
    if config.needs().batchnorm and not build.has_batchnorm(network):
        raise AttarError(
            f"The teacher '{architecture}' has no BatchNorm layers, which method '{method}' matches; "
            f"choose a network with BatchNorm (resnet18), or another method."
        )
