"""The set that a chosen recipe makes: what its bytes, its time and its trainings depend on. No PyTorch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from attar.recipes import network_cost
from attar.recipes.network_cost import Network
from attar.recipes.recipe import Recipe
from attar.stages.protocols import PROTOCOLS

TINY = 16
"""Up to this side pictures are treated as digits are: small shifts in place of crops and mixing of boxes."""
FEWEST = 5
"""A class with fewer training pictures is left out: it can be neither learned nor measured."""
MANY = 10_000
"""Training pictures from which a small teacher is good enough to move images for hard labels."""
NUM_TEACHERS, NUM_SEEDS = 3, 3
STUDENT_STEPS = 800
"""Optimiser steps of a student, as in the recipes attar/cifar10-ipc10 and -ipc50."""
Labels = Literal["soft", "hard"]


@dataclass(frozen=True)
class ChosenSet:
    """The set that is to be made: everything that its bytes and its time depend on."""

    network: Network
    labels: Labels
    ipc: int
    classes: tuple[str, ...]
    num_train: int
    gpu: bool
    picture_bytes: int
    """Mean bytes of a real training picture at this size, about."""
    own_teachers: tuple[int, ...] = ()
    """Bytes of each teacher that the user brings, as it is stored; 0 if it is of the chosen network, () to train them."""
    named_bytes: int = 0
    """Bytes of each other teacher, if the user named its network; 0 if it is of the chosen one."""
    real: bool = False
    """Whether the images are real pictures as they are, because the budget holds most of these."""
    recipe: Recipe[Any] | None = None
    """The recipe with the settings that were typed: its epochs, iterations and numbers count. None: the usual ones."""

    @property
    def size(self) -> int:
        return self.network.size

    @property
    def num_images(self) -> int:
        return self.ipc * len(self.classes)

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the teachers that label, at most."""
        if self.labels == "hard":
            return 0
        usual = self.named_bytes or self.network.stored_bytes(len(self.classes))
        return sum(own or usual for own in self.own_teachers or [usual] * NUM_TEACHERS)

    @property
    def num_bytes(self) -> int:
        """Bytes of images and labels, at most; of real pictures about, with a margin."""
        mean, size = self.picture_bytes, self.size
        largest = network_cost.with_margin(mean) if self.real else network_cost.image_bytes(size)
        return self.teacher_bytes + network_cost.set_bytes(self.num_images, largest, self.classes)

    def most_ipc(self, budget: int, most: int) -> int:
        """Most images per class, up to ``most``, with which images and labels take at most ``budget`` bytes; 0 if none."""
        return max((ipc for ipc in range(most + 1) if replace(self, ipc=ipc).num_bytes <= budget), default=0)

    @property
    def all_bytes(self) -> int:
        """Bytes of all real training pictures at this size, about."""
        return self.num_train * self.picture_bytes

    @property
    def batch_size(self) -> int:
        if self.recipe is not None:
            return self.recipe.squeeze.training.batch_size
        return 128 if self.num_train >= MANY else 64 if self.num_train >= 500 else 32

    @property
    def teacher_epochs(self) -> int:
        """1,200 steps; from 6 epochs, which three teachers of CIFAR-10 were trained for, up to 60."""
        if self.recipe is not None:
            return self.recipe.squeeze.training.epochs
        least = 6 if len(self.classes) <= 20 else 12
        return min(60, max(least, math.ceil(1200 * self.batch_size / self.num_train)))

    @property
    def teachers_epochs(self) -> tuple[int, ...]:
        """Epochs of every teacher that is trained; the third of three sees a sixth of the others' epochs."""
        if self.recipe is not None:
            return tuple(each.training.epochs for each in self.recipe.squeeze.each if not each.weights)
        if self.own_teachers:
            return ()
        weak = max(1, round(self.teacher_epochs / 6))
        return (self.teacher_epochs, self.teacher_epochs, weak) if self.labels == "soft" else (self.teacher_epochs,)

    @property
    def num_students(self) -> int:
        """Students of each row of the table."""
        return NUM_SEEDS if self.recipe is None else self.recipe.evaluate.num_seeds * len(self.recipe.evaluate.students)

    @property
    def student_batch(self) -> int:
        if self.recipe is not None:
            return self.recipe.evaluate.protocol.training.batch_size
        return PROTOCOLS["digits" if self.size <= TINY else "attar-small"].training.batch_size

    @property
    def student_epochs(self) -> int:
        if self.recipe is not None:
            return self.recipe.evaluate.protocol.training.epochs
        if self.size <= TINY:
            return PROTOCOLS["digits"].training.epochs
        steps = math.ceil(self.num_images / PROTOCOLS["attar-small"].training.batch_size)
        return min(1000, max(40, round(STUDENT_STEPS / steps)))

    @property
    def method(self) -> str:
        """'attar' needs labels by teachers, or teachers that many pictures have taught; else 'dm', which asks none.

        'random' where real pictures are kept as they are.
        """
        if self.recipe is not None:
            return self.recipe.method
        if self.real:
            return "random"
        taught = self.size > TINY and self.num_train >= MANY and self.ipc > 1
        return "attar" if self.labels == "soft" or taught else "dm"

    @property
    def iterations(self) -> int:
        if self.recipe is not None:
            return getattr(self.recipe.recover, "iterations", 0)
        if self.real:
            return 0
        if self.method == "attar":
            return 1000 if self.ipc == 1 else 100
        return 5000 if self.gpu else 1000 if self.size <= TINY else 600

    @property
    def real_batch(self) -> int:
        if self.recipe is not None:
            return getattr(self.recipe.recover, "real_batch", 0)
        return 128 if self.gpu else 64 if self.size <= TINY else 32

    def operations(self) -> float:
        """Operations of the whole run, about: a pass forward and back is three passes forward."""
        passes = 3.0 * self.num_train * sum(self.teachers_epochs)
        num_rows = 5 if self.labels == "soft" else 1 if self.real else 3
        students = num_rows * self.num_students * self.student_epochs * self.num_images
        passes += students * (3 + (len(self.own_teachers or range(NUM_TEACHERS)) * 0.4 if self.labels == "soft" else 0))
        if self.method == "dm":
            passes += self.iterations * (3 * self.num_images + len(self.classes) * self.real_batch)
        else:
            passes += 3 * self.iterations * self.num_images
        return 2 * passes * self.network.multiplications()
