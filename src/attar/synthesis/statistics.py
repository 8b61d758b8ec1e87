"""Loss term: the distance between a unit's layer statistics in the teacher and those of real images.

Two settings are independent: which layers are observed (``synthesis/taps.py``) and which statistics are the target. The
target is either the teacher's running statistics, or statistics that ``preparations`` collect from the real images
before the first unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.ops.pixels import from_bytes
from attar.synthesis import difficulty
from attar.synthesis.choices import Pixels, Statistics
from attar.synthesis.method import Preparation
from attar.synthesis.observed import Observed
from attar.synthesis.taps import NAMES, Kind, Layout, Tap, is_observable, taps_of
from attar.synthesis.task import Context, Task
from attar.synthesis.terms import PerUnit, Seen, State, Stateless, UnitBatch

STEP = "statistics"
"""Name of the preparation; its tables are statistics.KIND.mean, .variance, .within and statistics.count."""
_BATCH_PIXELS, _LARGEST_BATCH = 2**22, 256
Target = Literal["running", "collected", "class", "group"]


@dataclass(frozen=True)
class Distance(Stateless):
    """Weighted sum over layers of |mean - target mean|_2 + |variance - target variance|_2 (SRe2L, equation 6)."""

    first_multiplier: float = 1.0
    """Extra weight of the first observed layer, in order of registration."""
    observe: tuple[Tap, ...] = (Tap("batchnorm"),)
    """Taps whose statistics are compared."""
    targets: tuple[tuple[Target, float], ...] = (("running", 1.0),)
    """Targets of the comparison, and the weight of each distance."""
    momentum: float = 0.0
    """Momentum of a moving average that is compared with the target; 0: compare the current statistics.

    The gradient is that of the current statistics, evaluated at the distance of the average (G-VBSM; EDC, arXiv
    2404.13733).
    """
    within: bool = False
    """For the target 'class', use the mean of the variances within each image as the variance."""
    drop: float = 0.0
    """Probability with which the statistics of a convolution are left out of an iteration (G-VBSM)."""
    turns: int = 0
    """Iterations for which that is drawn."""
    variance_weight: float = 1.0
    """Weight of the distance of variances against that of means (DWA, arXiv 2409.17612)."""
    name = "bn_distance"

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps whose statistics are compared."""
        return self.observe

    def constants(self, task: Task, teacher: int, observed: Observed) -> State:
        """Return targets (unit or 1, channel) about the layout's centre, each channel's layer, and the layers'
        weights."""
        found = self._constants(observed, lambda target, tap, layout: self._target(target, tap, layout, task, teacher))
        return found | self._kept(task, teacher, observed)

    def constants_of(self, observed: Observed) -> State:
        """Return the constants of the target 'running', which are the same for all tasks."""
        return self._constants(observed, _running)

    def _constants(
        self, observed: Observed, target_of: Callable[[Target, Tap, Layout], tuple[Tensor | None, Tensor]]
    ) -> State:
        layouts = [observed.layouts[tap] for tap in self.taps]
        found: State = {}
        for tap, layout, weights in zip(self.taps, layouts, layer_weights(layouts, self.first_multiplier), strict=True):
            found |= {f"{tap.kind}.layer_of": layout.layer_of(), f"{tap.kind}.weights": weights}
            for target, _ in self.targets:
                mean, variance = target_of(target, tap, layout)
                if mean is not None:
                    found[f"{tap.kind}.{target}.mean"] = mean
                found[f"{tap.kind}.{target}.variance"] = variance
        return found

    def begin(self, task: Task, teacher: int, observed: Observed) -> State:
        """Return the start of the moving averages: zero sums of means and variances (unit, channel), and their
        weight."""
        state: State = {"turn": torch.zeros(1, dtype=torch.int64, device=task.device)} if self.drop else {}
        if not self.momentum:
            return state
        state["weight"] = torch.zeros((), device=task.device)
        for tap in self.taps:
            shape = (len(task.unit_sizes), observed.layouts[tap].num_channels)
            parts = ("mean", "variance", "weight") if self._drops(tap) else ("mean", "variance")
            state |= {f"{tap.kind}.{part}": torch.zeros(shape, device=task.device) for part in parts}
        return state

    def __call__(self, seen: Seen, batch: UnitBatch, constants: State, state: State) -> tuple[PerUnit, State]:
        """Return each unit's distance; moments are averaged over its images, and the variance is the biased one."""
        after, total = dict(state), None
        if self.momentum:
            after["weight"] = self.momentum * state["weight"] + (1 - self.momentum)
        if self.drop:
            after["turn"] = state["turn"] + 1
        for tap in self.taps:
            kept = constants[f"{tap.kind}.kept"].index_select(1, state["turn"])[:, 0] if self._drops(tap) else None
            moments = seen.moments[tap]
            mean, square = batch.average @ moments.first, batch.average @ moments.second
            variance = square - mean.square()
            if self.momentum:
                weight, takes_part = after["weight"], None
                if kept is not None:
                    takes_part = kept @ constants[f"{tap.kind}.layer_of"].T  # (unit, channel)
                    weight = self._moved(f"{tap.kind}.weight", torch.ones_like(mean), after, takes_part)
                mean = self._averaged(f"{tap.kind}.mean", mean, after, weight, takes_part)
                variance = self._averaged(f"{tap.kind}.variance", variance, after, weight, takes_part)
            for target, share in self.targets:
                away = distance(
                    mean,
                    variance,
                    constants.get(f"{tap.kind}.{target}.mean"),
                    constants[f"{tap.kind}.{target}.variance"],
                    constants[f"{tap.kind}.layer_of"],
                    constants[f"{tap.kind}.weights"] if kept is None else kept * constants[f"{tap.kind}.weights"],
                    self.variance_weight,
                )
                away = away if share == 1.0 else share * away
                total = away if total is None else total + away
        assert total is not None  # one tap and one target at least
        return total, after

    def _averaged(self, key: str, now: Tensor, after: State, weight: Tensor, takes_part: Tensor | None) -> Tensor:
        """Return the moving average, which starts at the first value, with the gradient of the current value."""
        moved = self._moved(key, now.detach(), after, takes_part)
        return moved / (weight if takes_part is None else weight.clamp_min(1e-30)) + now - now.detach()

    def _moved(self, key: str, now: Tensor, after: State, takes_part: Tensor | None) -> Tensor:
        """Move a sum of the state towards the current value, where it takes part; returns it."""
        moved = self.momentum * after[key] + (1 - self.momentum) * now
        after[key] = moved if takes_part is None else torch.where(takes_part > 0, moved, after[key])
        return after[key]

    def _drops(self, tap: Tap) -> bool:
        return bool(self.drop) and tap.kind in ("convolution", "patches")

    def _kept(self, task: Task, teacher: int, observed: Observed) -> State:
        """Return 'KIND.kept' (unit, turn, layer): 1 where a layer takes part, the same for both kinds of statistics."""
        layouts = {tap: observed.layouts[tap] for tap in self.taps if self._drops(tap)}
        places = sorted({place for layout in layouts.values() for place in layout.places})
        if not places:
            return {}
        drawn = [torch.rand(self.turns, len(places), generator=each) for each in task.streams("drop", teacher)]
        kept = (torch.stack(drawn) >= self.drop).float().to(task.device)
        return {
            f"{tap.kind}.kept": kept[..., [places.index(place) for place in layout.places]]
            for tap, layout in layouts.items()
        }

    def _target(
        self, target: Target, tap: Tap, layout: Layout, task: Task, teacher: int
    ) -> tuple[Tensor | None, Float[Tensor, "target channel"]]:
        """Return the mean about the centre (None if the mean is the centre) and the variance."""
        if target == "running" and layout.running is not None:
            return _running(target, tap, layout)
        if target == "group":
            mean, variance = difficulty.of_groups(task, teacher, tap)
        elif target == "class":
            mean, variance = _of_classes(task, teacher, tap, self.within)
        else:
            network = task.teachers[teacher]
            mean, variance = network.kept(("collected", tap), lambda: _of_all_classes(task, teacher, tap))
        if mean.shape[-1] != layout.num_channels:
            raise AttarError(
                f"Statistics were collected at {task.size[0]} x {task.size[1]} pixels, where '{tap.kind}' has "
                f"{mean.shape[-1]} numbers, and the teacher is shown a size at which it has {layout.num_channels}; "
                f"leave --recover.view-sizes at 1.0, or observe no patches."
            )
        return (mean.to(task.device) - layout.centre).float(), variance.to(task.device).float()


def distance(
    mean: Float[Tensor, "unit channel"],
    variance: Float[Tensor, "unit channel"],
    target_mean: Float[Tensor, "target channel"] | None,
    target_variance: Float[Tensor, "*target channel"],
    layer_of: Float[Tensor, "channel layer"],
    weights: Float[Tensor, "*unit layer"],
    variance_weight: float = 1.0,
) -> PerUnit:
    """Return each unit's weighted sum over layers of |mean - target mean|_2 + |variance - target variance|_2.

    ``weights`` are the same for all units, or each unit's own; ``variance_weight`` is a factor on the second norm.
    Means are relative to the layout's centre; without a target mean, the centre is the target. Source: SRe2L (arXiv
    2306.13092), equation 6.
    """
    parts = (mean if target_mean is None else mean - target_mean, variance - target_variance)
    norms = [(part.square() @ layer_of).clamp_min(1e-30).sqrt() for part in parts]
    spread = norms[1] if variance_weight == 1.0 else variance_weight * norms[1]
    both = norms[0] + spread
    return both @ weights if weights.ndim == 1 else (both * weights).sum(1)


def layer_weights(layouts: Sequence[Layout], first_multiplier: float) -> list[Float[Tensor, " layer"]]:
    """Return weights per layout: ``first_multiplier`` for the first observed layer in order of registration, else 1."""
    first = min(layout.first for layout in layouts)
    return [
        torch.tensor([first_multiplier if place == first else 1.0 for place in layout.places]).to(layout.centre)
        for layout in layouts
    ]


def statistics_of(task: Task, config: Statistics) -> Distance:
    """Return the configured term. Raises AttarError when a teacher does not have the observed layers."""
    taps = [taps_of(config, teacher.module) for teacher in task.teachers]
    if len(set(taps)) > 1:
        raise AttarError(
            "Some teachers have BatchNorm layers and others have none, so they are observed at different layers; "
            "name what to observe in all of them with --recover.observe, for example convolution."
        )
    targets: tuple[tuple[Target, float], ...]
    if config.target == "mixed":
        targets = (("running", 1 - config.class_share), ("class", config.class_share))
    else:
        targets = ((config.target, 1.0),)
    return Distance(
        weight=config.bn_weight,
        observe=taps[0],
        targets=targets,
        first_multiplier=config.first_bn_multiplier,
        momentum=config.statistics_momentum,
        within=config.class_variance == "within",
        drop=config.drop_layers,
        turns=config.iterations if config.drop_layers and isinstance(config, Pixels) else 0,
        variance_weight=config.variance_weight,
    )


def refuse_unobservable(network: nn.Module, architecture: str, config: Statistics) -> None:
    """Raise AttarError when the network has none of the layers whose statistics are matched."""
    kinds: list[Kind] = [tap.kind for tap in taps_of(config, network)]
    if not any(is_observable(network, kind) for kind in kinds):
        names = " or ".join(dict.fromkeys(NAMES[kind] for kind in kinds))
        asked = " ".join(config.observe)
        said = f", which --recover.observe {asked} matches" if asked else " and no BatchNorm layers to match"
        raise AttarError(
            f"The teacher '{architecture}' has no {names}{said}; use --recover.observe convolution, or choose another "
            f"network (resnet18)."
        )


def preparations(config: Statistics) -> tuple[Preparation, ...]:
    """Return the step that collects class statistics, for targets other than a teacher's running statistics."""
    return (
        Preparation(
            STEP,
            collect,
            reads=("observe", "patch_side", "statistics_images"),
            num_shown=lambda config, count: min(count, config.statistics_images or count),
            applies=needs_collecting,
        ),
    )


def needs_collecting(config: Statistics, network: nn.Module) -> bool:
    """Return whether the target needs statistics of classes, and not only the network's own or those of groups."""
    if config.target == "group":
        return False
    return config.target != "running" or any(tap.kind != "batchnorm" for tap in taps_of(config, network))


@torch.no_grad()
def collect(context: Context, config: Any) -> dict[str, Tensor]:
    """Compute exact statistics of each class's whole real images, with the teacher in evaluation mode.

    For each observed kind: 'KIND.mean' and 'KIND.variance' over all images and positions of the class, and
    'KIND.within', the mean of the images' own variances; (row, channel), float32. 'count': number of images in the
    class.
    """
    network, (height, width) = context.teacher, context.size
    taps = taps_of(config, network.module)
    example = torch.zeros(2, 3, height, width, device=context.device)
    observed = network.kept(("collecting", taps), lambda: Observed(network.module, example, network.precision, taps))
    batch = min(_LARGEST_BATCH, max(1, _BATCH_PIXELS // (height * width)))
    rows: dict[str, list[Tensor]] = {
        f"{tap.kind}.{part}": [] for tap in taps for part in ("mean", "variance", "within")
    }
    counts = []
    for label in context.rows:
        count = context.real.count(label)
        if not count:
            raise AttarError(
                f"Class '{context.real.class_name(label)}' has no training images to collect statistics of."
            )
        counts.append(count)
        chosen = list(range(count))
        if 0 < config.statistics_images < count:
            order = torch.randperm(count, generator=context.stream(STEP, context.real.class_name(label)))
            chosen = sorted(order[: config.statistics_images].tolist())
        sums: dict[Tap, Tensor] = {}
        for start in range(0, len(chosen), batch):
            images = context.real.take(label, chosen[start : start + batch]).to(context.device)
            _, moments, _ = observed(network.normalisation.apply(from_bytes(images)))
            for tap, (first, second) in moments.items():
                first, second = first.double(), second.double()
                part = torch.stack([first.sum(0), second.sum(0), (second - first.square()).sum(0)])
                sums[tap] = sums[tap] + part if tap in sums else part
            context.advance(len(images) / len(chosen))
        for tap, total in sums.items():
            mean, square, within = total / len(chosen)
            rows[f"{tap.kind}.mean"].append(mean + observed.layouts[tap].centre)
            rows[f"{tap.kind}.variance"].append(square - mean.square())
            rows[f"{tap.kind}.within"].append(within)
    tables = {name: torch.stack(values).float().cpu() for name, values in rows.items()}
    return tables | {"count": torch.tensor(counts)}


def _running(target: Target, tap: Tap, layout: Layout) -> tuple[None, Float[Tensor, " channel"]]:
    """Return the running statistics; the mean is None because it is the centre."""
    assert target == "running"
    assert layout.running is not None
    return None, layout.running[1]


def _of_classes(task: Task, teacher: int, tap: Tap, within: bool) -> tuple[Tensor, Tensor]:
    """Return mean and variance per unit, averaged over its images' classes; (unit, channel), on the CPU."""
    found = []
    for key in ("mean", "within" if within else "variance"):
        rows = task.table(f"{STEP}.{tap.kind}.{key}", teacher)[task.labels.cpu()].double()
        found.append(torch.stack([part.mean(0) for part in rows.split(task.unit_sizes)]))
    return found[0], found[1]


def _of_all_classes(task: Task, teacher: int, tap: Tap) -> tuple[Tensor, Tensor]:
    """Return mean and variance over all classes, weighted by their numbers of images; (1, channel), on the CPU."""
    counts = task.table(f"{STEP}.count", teacher).double()
    means, variances = (task.table(f"{STEP}.{tap.kind}.{key}", teacher) for key in ("mean", "variance"))
    mean, square = torch.zeros(means.shape[1]).double(), torch.zeros(means.shape[1]).double()
    for share, own, variance in zip(
        counts / counts.sum(), means, variances, strict=True
    ):  # row by row: tables are large
        mean += share * own.double()
        square += share * (variance.double() + own.double().square())
    return mean[None], (square - mean.square())[None]
