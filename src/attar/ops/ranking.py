"""DD-Ranking's scores: what distilled images are worth without soft labels and augmentation (Li et al., 2025, arXiv
2505.13300).

Everything is on fractions. The ``ddranking`` package (0.2.0) puts differences of per cents into the same exponential:
a lead of one point is there an exponent of 0.5 and not of 0.005, so its scores leave the range [0, 1] that the paper
normalises them to, and a mean over runs is little more than the best run.
"""

import math


def hard_label_recovery(real_hard: float, distilled_hard: float) -> float:
    """HLR: accuracy lost by training on distilled in place of all real images, both with hard labels; less is better.

    Accuracies are fractions in [0, 1], the result is in [-1, 1]. Raises ValueError on any other accuracy.
    """
    return _accuracy(real_hard, "real_hard") - _accuracy(distilled_hard, "distilled_hard")


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR: accuracy gained over as many random real images, trained on by the same recipe; larger is better.

    Accuracies are fractions in [0, 1], the result is in [-1, 1]. Raises ValueError on any other accuracy.
    """
    return _accuracy(distilled, "distilled") - _accuracy(random, "random")


def label_robust_score(improvement: float, recovery: float, weight: float = 0.5) -> float:
    """LRS: ``weight * IOR - (1 - weight) * HLR``, normalised to [0, 1].

    Takes the differences that ``improvement_over_random`` and ``hard_label_recovery`` give, in [-1, 1], and a weight
    in [0, 1]; images that equal random ones and lose nothing score 0.269. Raises ValueError on other values.
    """
    weight = _weight(weight)
    return _normalised(
        weight * _difference(improvement, "improvement") - (1 - weight) * _difference(recovery, "recovery")
    )


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """ARS: ``weight * augmented + (1 - weight) * plain``, normalised to [0, 1] as the label-robust score is.

    ``augmented`` and ``plain`` are the improvements over random with and without augmentation, in [-1, 1], the weight
    is in [0, 1]. Raises ValueError on other values.
    """
    weight = _weight(weight)
    return _normalised(weight * _difference(augmented, "augmented") + (1 - weight) * _difference(plain, "plain"))


def _normalised(exponent: float) -> float:
    return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))


def _accuracy(value: float, name: str) -> float:
    if not 0 <= value <= 1:  # not a number is refused, too
        hint = "; it looks like per cents: divide by 100" if 1 < value <= 100 else ""
        raise ValueError(f"{name} is an accuracy in [0, 1], not {value:g}{hint}")
    return value


def _difference(value: float, name: str) -> float:
    if not -1 <= value <= 1:
        hint = "; it looks like per cents: divide by 100" if 1 < abs(value) <= 100 else ""
        raise ValueError(f"{name} is a difference of accuracies in [-1, 1], not {value:g}{hint}")
    return value


def _weight(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"the weight lies in [0, 1], not {value:g}")
    return value
