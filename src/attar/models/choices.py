"""Settings of networks and of a committee of teachers. Nothing here imports PyTorch."""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from attar.ops.choices import LabelPolicy
from attar.ops.votes import Votes

Stem = Literal["auto", "small", "standard"]
"""First layers of a torchvision ResNet."""

StoredPrecision = Literal["fp32", "fp16", "int8"]
"""How weights are stored. 'fp32': as they are; 'fp16' and 'int8': kernels and matrices with 2 bytes or 1 byte a
number."""


class CommitteeChoice(Votes):
    """Which teachers label, and how their logits are combined into one label."""

    members: tuple[pydantic.NonNegativeInt, ...] = ()
    """Numbers of the teachers that label, in the order of squeeze.members, from 0; empty: all teachers."""
    policy: LabelPolicy = "mean"
    """How logits are combined. 'mean'; 'weighted': mean with the given weights, or those that follow from priors;
    'norm-balanced': mean after each teacher's logits are scaled to the same norm."""
    batchnorm: Literal["eval", "train"] = "eval"
    """Statistics that BatchNorm uses to label. 'eval': the teacher's running statistics; 'train': those of the batch
    that is labelled (SRe2L++)."""
    batchnorm_batch: int = pydantic.Field(default=8, ge=2)
    """Images per batch with 'train'; it changes the labels."""

    @pydantic.field_validator("members")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((index for index in value if value.count(index) > 1), None)
        if twice is not None:
            raise ValueError(
                f"teacher {twice} is named twice; name each once, and use weights to give one more influence"
            )
        return value

    def idle(self) -> dict[str, str]:
        """Return the batch size if running statistics are used, and weights that the policy ignores."""
        batch = {"batchnorm_batch": "--batchnorm train"} if self.batchnorm == "eval" else {}
        return batch | self.idle_votes(self.policy, "--policy")


FORMER_COMMITTEE = "voices"
"""Key of the committee in settings of labels that were written before 26 November 2026."""
_RENAMED = {"ensemble": "policy", "teacher_weights": "weights"}
"""Settings of a committee by the names that they had then."""


def with_committee(labels: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings of labels, as a file has them, with the committee under its key and names of today."""
    former = labels.get(FORMER_COMMITTEE)
    if not isinstance(former, Mapping):
        return labels
    committee = {_RENAMED.get(key, key): value for key, value in former.items()}
    return {key: value for key, value in labels.items() if key != FORMER_COMMITTEE} | {"committee": committee}
