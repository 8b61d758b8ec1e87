"""Weights of teachers that are asked together: given, or from their accuracy. Nothing here imports PyTorch."""

import math
from collections.abc import Sequence

import pydantic

from attar.core.config import Config
from attar.core.errors import AttarError


class Votes(Config):
    """Settings of the policy 'weighted', which recover and relabel share."""

    weights: tuple[pydantic.PositiveFloat, ...] = ()
    """Weights of the teachers for the policy 'weighted', in the order of members; empty: they follow from priors."""
    priors: tuple[pydantic.PositiveFloat, ...] = ()
    """How good each teacher is, in percent and in the order of members; weights are softmax(priors /
    prior_temperature) (CV-DD). Empty: the teachers' accuracy on real validation images."""
    prior_temperature: float = pydantic.Field(default=10.0, gt=0)
    """Divides the priors: the lower, the more the best teacher counts."""

    def idle_votes(self, policy: str, switch: str) -> dict[str, str]:
        """Return those of these settings that have no effect with this policy, as ``idle`` does.

        ``switch`` is the setting of the policy, as a flag without its group.
        """
        if policy != "weighted":
            return dict.fromkeys(("priors", "prior_temperature"), f"{switch} weighted")
        return {"prior_temperature": "weights that follow from priors (leave --weights empty)"} if self.weights else {}

    def refuse_unfit(self, policy: str, num_teachers: int, group: str, switch: str) -> None:
        """Raise AttarError when weights or priors have no use, or are not one for each teacher.

        ``group`` is what their names begin with on the command line, ``switch`` the setting of the policy.
        """
        for name, values in (("weights", self.weights), ("priors", self.priors)):
            if values and policy != "weighted":
                raise AttarError(
                    f"{group}.{name} is only used with {switch} weighted; add that, or leave the {name} out."
                )
            if values and len(values) != num_teachers:
                raise AttarError(
                    f"{group}.{name} has {len(values)} {name} for {num_teachers} teachers; give one for each teacher."
                )
        if self.weights and self.priors:
            raise AttarError(f"{group}.weights and {group}.priors cannot be combined; leave one of them out.")

    def weights_of(self, accuracies: Sequence[float | None], group: str) -> tuple[float, ...]:
        """Return each teacher's weight; their sum is 1.

        ``accuracies`` are the teachers' top-1 on real validation images, as fractions, None if unknown. Raises
        AttarError when one is needed and unknown. Source: CV-DD (arXiv 2501.07575), section 3.
        """
        if self.weights:
            return tuple(weight / sum(self.weights) for weight in self.weights)
        priors = list(self.priors)
        for number, accuracy in enumerate(accuracies if not priors else ()):
            if accuracy is None:
                raise AttarError(
                    f"The accuracy of teacher {number} is not known, from which the weights of teachers follow; give "
                    f"them with {group}.weights, or {group}.priors."
                )
            priors.append(100 * accuracy)
        raised = [math.exp((prior - max(priors)) / self.prior_temperature) for prior in priors]
        return tuple(each / sum(raised) for each in raised)
