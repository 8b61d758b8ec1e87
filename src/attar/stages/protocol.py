"""What an evaluation protocol consists of: how students are trained, and the labels that it asks for.

``protocols`` has those with a name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from attar.core.config import Config
from attar.ops.choices import LookChoice, MixChoice
from attar.synthesis.method import STUDENT_RATE
from attar.training.choices import Optimisation

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.ops.targets import Targets


_LABELS_OF_EARLIER = {"views", "mix", "label_batchnorm", "label_batch_size"}
"""Keys of a protocol that an earlier attar stored with it; labels are described by their own manifest."""


class ProtocolLabels(Config):
    """Label options of a protocol; they become the recipe's ``relabel`` settings."""

    epochs: int = pydantic.Field(ge=1)
    """Epochs of different views."""
    views: LookChoice
    """Crops, flips and further augmentation."""
    mix: MixChoice
    """How images are mixed."""
    temperature: float = pydantic.Field(gt=0)
    """Temperature at which the codec spreads the probability of dropped classes."""
    batchnorm: Literal["eval", "train"] = "eval"
    """BatchNorm of the teacher while it labels. 'eval': running statistics; 'train': statistics of each batch."""
    batchnorm_batch: int = pydantic.Field(default=8, ge=2)
    """Batch size of labelling with 'train'."""

    def section(self) -> dict[str, Any]:
        """Return the options as plain values for a recipe's ``relabel`` section."""
        return {
            "epochs": self.epochs,
            "views": self.views.plain(),
            "mix": self.mix.plain(),
            "codec": {"temperature": self.temperature},
            "committee": {"batchnorm": self.batchnorm, "batchnorm_batch": self.batchnorm_batch},
        }


class Protocol(Config):
    """Training options of a protocol: how students are trained on a small set of images."""

    name: str
    """Name of the protocol. Tables add 'modified' when a setting differs from the named protocol."""
    version: int = pydantic.Field(default=1, ge=1)
    """Version of the protocol; it is raised whenever a setting changes."""
    training: Optimisation
    """Optimiser, learning rate, epochs, batches."""
    learning_rates: tuple[tuple[str, Annotated[float, pydantic.Field(gt=0)]], ...] = ()
    """Peak learning rates for some students: pairs of a name, which may have wildcards, and a rate; the first match
    counts."""
    cosine_stretches: tuple[tuple[str, Annotated[float, pydantic.Field(ge=1)]], ...] = ()
    """Lengths of the cosine, ``training.cosine_stretch``, for some students: pairs of a name and a length, as above."""
    learned_rate: bool = False
    """Train on a set whose method learned the student's learning rate (mtt, tesla) with that rate; on other sets, such
    as real images, with the rate above."""
    loss: Literal["soft", "mse", "hard"] = "soft"
    """'soft': Kullback-Leibler divergence from the soft labels; 'mse': squared error of logits; 'hard': cross-entropy
    with the classes."""
    temperature: float = pydantic.Field(default=20.0, gt=0)
    """Divides logits before the soft loss."""
    temperature_squared: bool = False
    """Multiply the soft loss by the temperature's square."""
    hard_weight: float = pydantic.Field(default=0.0, ge=0)
    """Weight of an added cross-entropy with the classes."""
    hard_classes: Literal["parts", "own"] = "parts"
    """Target of that cross-entropy for mixed images. 'parts': both classes in proportion; 'own': the image's class."""
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes, for every cross-entropy."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _no_label_options(cls, values: Any) -> Any:
        """Say where settings are now that earlier recipes had here."""
        moved = sorted(_LABELS_OF_EARLIER & set(values)) if isinstance(values, Mapping) else []
        if moved:
            raise ValueError(
                f"a protocol has no setting {' and '.join(moved)}; remove it here and set the label options in "
                f"'relabel'"
            )
        return values

    @classmethod
    def upgraded(cls, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the label options that an earlier attar stored here; they had no effect on training."""
        return {key: value for key, value in made.items() if key not in _LABELS_OF_EARLIER}

    def idle(self) -> dict[str, str]:
        """Settings of the loss from soft labels, if it is another."""
        found = {} if self.loss == "soft" else dict.fromkeys(("temperature", "temperature_squared"), "--loss soft")
        if self.loss == "hard":
            return super().idle() | found | dict.fromkeys(("hard_weight", "hard_classes"), "--loss soft or mse")
        return super().idle() | found | ({} if self.hard_weight else {"hard_classes": "--hard-weight above 0"})

    @pydantic.field_validator("learning_rates", "cosine_stretches", mode="before")
    @classmethod
    def _of_mapping(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, Mapping) else value

    def training_of(self, student: str, learned: Mapping[str, float] = MappingProxyType({})) -> Optimisation:
        """Return how this student is trained, with the first matches in ``learning_rates`` and ``cosine_stretches``.

        'torchvision/' or 'timm/' before the name makes no difference. ``learned`` are the numbers that the method of
        the set learned; with ``learned_rate`` the student's learning rate among them is used.
        """
        rate, stretch = _first(self.learning_rates, student), _first(self.cosine_stretches, student)
        if self.learned_rate and STUDENT_RATE in learned:
            rate = learned[STUDENT_RATE]
        own = {"learning_rate": rate, "cosine_stretch": stretch}
        own = {name: value for name, value in own.items() if value is not None}
        return self.training.changed(**own) if own else self.training

    def value(self, logits: Float[Tensor, "image class"], targets: Targets, hard: bool = False) -> Float[Tensor, ""]:
        """Return the protocol's loss; ``hard``: cross-entropy with the classes instead of soft labels."""
        from attar.ops.targets import Targets, hard_loss, logit_loss, soft_loss

        if hard or self.loss == "hard":
            return hard_loss(logits, targets, self.label_smoothing)
        if self.loss == "mse":
            loss = logit_loss(logits, targets)
        else:
            loss = soft_loss(logits, targets, self.temperature, self.temperature_squared)
        if self.hard_weight:
            classes = Targets(targets.labels) if self.hard_classes == "own" else targets
            loss = loss + self.hard_weight * hard_loss(logits, classes, self.label_smoothing)
        return loss


def _first(pairs: tuple[tuple[str, float], ...], student: str) -> float | None:
    """Return the number of the first pair whose pattern matches the student's name; None if there is none."""
    bare = student.removeprefix("torchvision/").removeprefix("timm/")
    return next((number for pattern, number in pairs if fnmatch.fnmatchcase(bare, pattern)), None)
