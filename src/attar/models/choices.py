"""What a recipe may say of networks and of a committee of teachers, without PyTorch."""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from attar.core.config import Config
from attar.ops.choices import LabelPolicy

Stem = Literal["auto", "small", "standard"]
"""First layers of a torchvision ResNet."""


class CommitteeChoice(Config):
    """Which teachers label together, and how their answers become one label."""

    members: tuple[pydantic.NonNegativeInt, ...] = ()
    """Numbers of the teachers that label, as in squeeze.members, the first being 0; empty: all of them."""
    policy: LabelPolicy = "mean"
    """Of several teachers: 'mean' of their logits, 'weighted' mean, or 'norm-balanced' mean."""
    weights: tuple[pydantic.PositiveFloat, ...] = ()
    """With 'weighted': a weight for each teacher, in the order of members."""
    batchnorm: Literal["eval", "train"] = "eval"
    """BatchNorm by the teacher's running statistics, or 'train': by those of the batch that is labelled (SRe2L++)."""
    batchnorm_batch: int = pydantic.Field(default=8, ge=2)
    """With 'train': images in such a batch, part of the result."""

    @pydantic.field_validator("members")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((index for index in value if value.count(index) > 1), None)
        if twice is not None:
            raise ValueError(f"teacher {twice} is named twice; name each once and use weights to count one more")
        return value

    def idle(self) -> set[str]:
        """The size of a batch whose statistics are not used."""
        return {"batchnorm_batch"} if self.batchnorm == "eval" else set()


def upgraded_committee(voices: Mapping[str, Any]) -> dict[str, Any]:
    """A committee's settings from those that manifests and sets had until 26 November 2026."""
    renamed = {"ensemble": "policy", "teacher_weights": "weights"}
    return {renamed.get(key, key): value for key, value in voices.items()}
