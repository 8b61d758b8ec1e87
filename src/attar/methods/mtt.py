"""MTT: dataset distillation by matching training trajectories (Cazenavette et al., 2022, arXiv 2203.11932).

A student takes N steps on the distilled images from an expert's weights, and should arrive where the expert arrives on
the real images. The loss is differentiated through all steps, so memory grows with N; see tesla for a loss whose memory
does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.synthesis.trajectory_choices import Trajectories

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from attar.synthesis.task import Recovered, Task
    from attar.synthesis.trajectories import Course, Gradients, Labels, Pixels


class Config(Trajectories):
    """Trajectory matching, differentiated through all student steps."""


def recover(task: Task, config: Config) -> Recovered:
    """Optimise the whole set."""
    from attar.synthesis.trajectories import match

    return match(task, config, differentiate)


def differentiate(
    course: Course, pixels: Pixels, labels: Labels, rate: Float[Tensor, ""], learns_labels: bool
) -> Gradients:
    """Return loss and gradients of one course, through every step of the student."""
    import torch

    from attar.synthesis.trajectories import Gradients

    pixels, rate = pixels.clone().requires_grad_(), rate.clone().requires_grad_()
    labels = labels.clone().requires_grad_(learns_labels)
    weights = course.begin.clone().requires_grad_()
    for step in course.steps:
        weights = weights - rate * course.slope(weights, pixels, labels, step, create_graph=True)
    loss = course.loss(weights)
    found = torch.autograd.grad(loss, [pixels, rate, labels] if learns_labels else [pixels, rate])
    return Gradients(loss.detach(), found[0], found[1], found[2] if learns_labels else None)
