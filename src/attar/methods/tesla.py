"""TESLA: trajectory matching with constant memory (Cui et al., 2023, arXiv 2211.10586).

A student takes N steps on the distilled images from an expert's weights, and should arrive where the expert arrives on
the real images. With the student's learning rate b, the gradients g_i of its steps and their sum G, the loss is
L = |start - b G - goal|^2 / |start - goal|^2. Its derivative is a sum over steps if the weights of each step are held
fixed, so one step at a time is differentiated and its graph freed: memory does not grow with N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.trajectory_choices import Trajectories

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Recovered, Task
    from attar.synthesis.trajectories import Course, Gradients, Labels, Pixels


class Config(Trajectories, defaults={"iterations": 10000}):
    """Trajectory matching in the memory of one student step.

    Differs from mtt: the weights of a step count as independent of the images shown in earlier steps.
    """


def recover(task: Task, config: Config) -> Recovered:
    """Optimise the whole set."""
    from attar.synthesis.trajectories import match

    return match(task, config, differentiate)


def differentiate(
    course: Course, pixels: Pixels, labels: Labels, rate: Float[Tensor, ""], learns_labels: bool
) -> Gradients:
    """Return loss and gradients of one course; see the module's docstring.

    Nothing is kept of a step but its part of the sums. So the steps are taken twice: first for G, of which the factor
    dL/dG follows, the same for every step; then, on the same way, for the derivative of each g_i times that factor.
    """
    import torch

    from attar.synthesis.trajectories import Gradients

    weights, total = course.begin, torch.zeros_like(course.begin)
    for step in course.steps:
        slope = course.slope(weights.detach().requires_grad_(), pixels, labels, step, create_graph=False)
        total, weights = total + slope, weights - rate * slope
    end = course.begin - rate * total
    way = (course.begin - course.goal).square().sum()
    factor = -2 * rate * (end - course.goal) / way
    of_rate = -2 * (end - course.goal) @ total / way

    pixels = pixels.clone().requires_grad_()
    labels = labels.clone().requires_grad_(learns_labels)
    learned = [pixels, labels] if learns_labels else [pixels]
    sums, weights = [torch.zeros_like(one) for one in learned], course.begin
    for step in course.steps:
        slope = course.slope(weights.detach().requires_grad_(), pixels, labels, step, create_graph=True)
        parts = torch.autograd.grad(slope @ factor, learned)
        sums = [one + part for one, part in zip(sums, parts, strict=True)]
        weights = weights - rate * slope.detach()
    return Gradients(course.loss(end), sums[0], of_rate, sums[1] if learns_labels else None)
