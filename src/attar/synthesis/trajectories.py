"""Match trajectories of weights: the loop that mtt and tesla share; they differ in how they differentiate.

A student begins at an expert's weights and takes some steps on the distilled images; the loss is the squared distance
between its weights and the expert's of some epochs later, divided by the squared length of the expert's way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attar.core.errors import AttarError
from attar.ops import dsa
from attar.ops.choices import Augmentation
from attar.synthesis import starts
from attar.synthesis.canvas import Canvas, Grey, Plain
from attar.synthesis.method import STUDENT_RATE
from attar.synthesis.task import Experts, Recovered, Task
from attar.synthesis.trajectory_choices import Trajectories

_LEAST_RATE = 1e-6

Weights = Float[Tensor, " weight"]
Pixels = Float[Tensor, "image 3 height width"]
Labels = Float[Tensor, "image class"]


@dataclass(frozen=True)
class Step:
    """The batch of one student step."""

    index: Int[Tensor, " batch"]
    """Places of its images among the distilled ones, on the device."""
    levels: dsa.Levels
    """Their augmentation."""


@dataclass(frozen=True)
class Course:
    """What a student has to do in one iteration: where it begins, its steps, and where it should arrive."""

    experts: Experts
    begin: Weights
    goal: Weights
    steps: Sequence[Step]
    kinds: tuple[Augmentation, ...]

    def slope(self, weights: Weights, pixels: Pixels, labels: Labels, step: Step, create_graph: bool) -> Weights:
        """Return the gradient of a step's cross-entropy with respect to the student's weights.

        With ``create_graph`` it can be differentiated again; ``weights`` must require gradients.
        """
        shown = dsa.apply(pixels[step.index], step.levels, self.kinds)
        logits = self.experts.call(weights, shown)
        loss = -(labels[step.index] * F.log_softmax(logits, 1)).sum(1).mean()
        return torch.autograd.grad(loss, weights, create_graph=create_graph)[0]

    def loss(self, end: Weights) -> Float[Tensor, ""]:
        """Return the squared distance of the student's last weights from the goal, over that of the first ones."""
        return (end - self.goal).square().sum() / (self.begin - self.goal).square().sum()


@dataclass(frozen=True)
class Gradients:
    """The loss of an iteration and its gradients."""

    loss: Float[Tensor, ""]
    pixels: Pixels
    rate: Float[Tensor, ""]
    labels: Labels | None
    """With respect to label probabilities; None if the labels were not asked for."""


Differentiate = Callable[[Course, Pixels, Labels, Float[Tensor, ""], bool], Gradients]
"""Returns the gradients of a course for images, label probabilities and learning rate; the flag asks for those of the
labels. None of the inputs requires gradients."""


def match(task: Task, config: Trajectories, differentiate: Differentiate) -> Recovered:
    """Optimise the distilled images, the student's learning rate and, where they are learned, the labels.

    Pixels stay within [0, 1] after every update. The state is offered to ``task.checkpoint`` after each iteration.
    Raises AttarError when the experts have too few snapshots.
    """
    experts = _experts(task, config)
    canvas = Grey() if config.grey else Plain()
    units = canvas.units(experts.normalisation)
    state = _begun(task, config, experts, canvas)

    def images() -> Tensor:
        return units.undo(state["pixels"].expand(-1, 3, -1, -1)).clamp(0, 1)

    first, saved = task.checkpoint.load() or (0, None)
    if saved is not None:
        state = {name: value.to(task.device) for name, value in saved.items()}
    for iteration in range(first, config.iterations):
        (stream,) = task.streams("trajectory", iteration)
        course = _drawn(task, config, experts, stream)
        pixels = state["pixels"].detach().requires_grad_()
        seen = experts.normalisation.apply(units.undo(pixels.expand(-1, 3, -1, -1)))
        labels = _labels(task, config, course, seen.detach(), state)
        found = differentiate(course, seen.detach(), labels, state["rate"], config.labels == "learned")
        (slope,) = torch.autograd.grad(seen, pixels, found.pixels)
        _descend(state, config, replace(found, pixels=slope), labels)
        low, high = (edge[:, : slope.shape[1]] for edge in units.bounds(slope))
        state["pixels"] = torch.minimum(torch.maximum(state["pixels"], low), high)
        metrics = {"loss": found.loss[None], STUDENT_RATE: state["rate"][None]}
        if task.monitor.step(iteration, images, **metrics):
            break
        task.checkpoint.offer(iteration + 1, lambda: {name: value.cpu() for name, value in state.items()})
    return Recovered(images(), _final_labels(config, experts, images(), state), {STUDENT_RATE: float(state["rate"])})


def _experts(task: Task, config: Trajectories) -> Experts:
    assert task.experts is not None  # needs
    needed = config.needs().expert_epochs + 1
    if task.experts.num_snapshots < needed:
        raise AttarError(
            f"The experts have {task.experts.num_snapshots} snapshots of their weights, but {needed} are needed; "
            f"lower --recover.max-start-epoch or --recover.expert-epochs, or train experts for more epochs."
        )
    return task.experts


def _begun(task: Task, config: Trajectories, experts: Experts, canvas: Canvas) -> dict[str, Tensor]:
    """Return the state before the first iteration: what is optimised, and the velocity of each."""
    units = canvas.units(experts.normalisation)
    start = units.undo(starts.noise(task)).clamp(0, 1) if config.start == "noise" else starts.real(task)
    start = start.to(task.device)
    state = {"pixels": canvas.begin(units.apply(start))}
    state["rate"] = torch.tensor(config.student_learning_rate, device=task.device)
    if config.labels == "learned":
        state["logits"] = _probabilities(config, experts, start).clamp_min(1e-6).log()
    return state | {f"{name} velocity": torch.zeros_like(value) for name, value in state.items()}


def _drawn(task: Task, config: Trajectories, experts: Experts, stream: torch.Generator) -> Course:
    """Draw an expert, a part of its way, and the student's batches: all images in turn, in a new order each time."""
    expert = int(torch.randint(experts.num_experts, (), generator=stream))
    epoch = int(torch.randint(config.max_start_epoch, (), generator=stream))
    count, steps, waiting = len(task.labels), list[Step](), list[Tensor]()
    for _ in range(config.student_steps):
        if not waiting:
            waiting = list(torch.randperm(count, generator=stream).split(config.batch_size or count))
        index = waiting.pop(0)
        levels = dsa.sample(config.kinds(), "one", len(index), stream)
        steps.append(Step(index.to(task.device), levels.to(task.device)))
    goal = experts.weights(expert, epoch + config.expert_epochs)
    return Course(experts, experts.weights(expert, epoch), goal, steps, config.kinds())


def _labels(task: Task, config: Trajectories, course: Course, seen: Pixels, state: dict[str, Tensor]) -> Labels:
    """Return the label probabilities of this iteration."""
    if config.labels == "learned":
        return state["logits"].softmax(1)
    if config.labels == "assigned":
        with torch.no_grad():
            return course.experts.call(course.goal, seen).softmax(1)
    return F.one_hot(task.labels).float()  # the unit is the set, so every class is there


def _descend(state: dict[str, Tensor], config: Trajectories, found: Gradients, labels: Labels) -> None:
    """Take one step of SGD with momentum on everything that is learned."""
    _step(state, "pixels", found.pixels, config.image_learning_rate, config.momentum)
    _step(state, "rate", found.rate, config.rate_learning_rate, config.momentum)
    state["rate"] = state["rate"].clamp_min(_LEAST_RATE)
    if found.labels is not None:  # from probabilities back to logits
        towards = labels * (found.labels - (labels * found.labels).sum(1, keepdim=True))
        _step(state, "logits", towards, config.label_learning_rate, config.label_momentum)


def _step(state: dict[str, Tensor], name: str, slope: Tensor, rate: float, momentum: float) -> None:
    state[f"{name} velocity"] = momentum * state[f"{name} velocity"] + slope
    state[name] = state[name] - rate * state[f"{name} velocity"]


def _final_labels(config: Trajectories, experts: Experts, images: Tensor, state: dict[str, Tensor]) -> Labels | None:
    if config.labels == "hard":
        return None
    if config.labels == "learned":
        return state["logits"].softmax(1)
    return _probabilities(config, experts, images)


@torch.no_grad()
def _probabilities(config: Trajectories, experts: Experts, images: Float[Tensor, "image 3 height width"]) -> Labels:
    """Return the mean class probabilities of images in [0, 1] by all experts, at the last weights to arrive at."""
    pixels = experts.normalisation.apply(images)
    last = config.max_start_epoch - 1 + config.expert_epochs
    each = [experts.call(experts.weights(number, last), pixels).softmax(1) for number in range(experts.num_experts)]
    return torch.stack(each).mean(0)
