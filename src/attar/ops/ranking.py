"""DD-Ranking's scores: the gain from distilled images without soft labels and augmentation (Li et al., 2025, arXiv
2505.13300).

All accuracies are fractions. The ``ddranking`` package (0.2.0) uses percentages in the same exponential: a lead of one
point gives the exponent 0.5 instead of 0.005. So its scores leave the range [0, 1] of the paper, and the best run
dominates a mean over runs.
"""

import math


def hard_label_recovery(real_hard: float, distilled_hard: float) -> float:
    """Return HLR: the accuracy on all real images minus that on distilled images, both with hard labels.

    Smaller is better. Accuracies are fractions in [0, 1]; the result is in [-1, 1]. Raises ValueError otherwise.
    """
    return _accuracy(real_hard, "real_hard") - _accuracy(distilled_hard, "distilled_hard")


def improvement_over_random(distilled: float, random: float) -> float:
    """Return IOR: the accuracy on distilled images minus that on equally many random real images, same training.

    Larger is better. Accuracies are fractions in [0, 1]; the result is in [-1, 1]. Raises ValueError otherwise.
    """
    return _accuracy(distilled, "distilled") - _accuracy(random, "random")


def label_robust_score(improvement: float, recovery: float, weight: float = 0.5) -> float:
    """Return LRS: ``weight * IOR - (1 - weight) * HLR``, normalised to [0, 1].

    ``improvement`` and ``recovery`` are IOR and HLR, in [-1, 1]; the weight is in [0, 1]. If both are 0 the score is
    0.269. Raises ValueError on other values.
    """
    weight = _weight(weight)
    return _normalised(
        weight * _difference(improvement, "improvement") - (1 - weight) * _difference(recovery, "recovery")
    )


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """Return ARS: ``weight * augmented + (1 - weight) * plain``, normalised to [0, 1] like the label-robust score.

    ``augmented`` and ``plain`` are IOR with and without augmentation, in [-1, 1]; the weight is in [0, 1]. Raises
    ValueError on other values.
    """
    weight = _weight(weight)
    return _normalised(weight * _difference(augmented, "augmented") + (1 - weight) * _difference(plain, "plain"))


def _normalised(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def _accuracy(value: float, name: str) -> float:
    if not 0 <= value <= 1:  # also true for NaN
        hint = "; it looks like a percentage: divide by 100" if 1 < value <= 100 else ""
        raise ValueError(f"{name} must be an accuracy in [0, 1], not {value:g}{hint}")
    return value


def _difference(value: float, name: str) -> float:
    if not -1 <= value <= 1:
        hint = "; it looks like a percentage: divide by 100" if 1 < abs(value) <= 100 else ""
        raise ValueError(f"{name} must be a difference of accuracies in [-1, 1], not {value:g}{hint}")
    return value


def _weight(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"the weight must be in [0, 1], not {value:g}")
    return value
