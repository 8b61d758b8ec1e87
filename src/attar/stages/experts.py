"""Experts: networks trained on the real data with snapshots of their weights; a product of squeeze.

They are in ``<out>/squeeze/experts``, one file each, and are trained only for methods whose ``needs()`` ask for
snapshots of weights.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.core import memory, ranks, work
from attar.core.config import digest
from attar.core.elapsed import Clock, Elapsed
from attar.core.errors import AttarError
from attar.core.log import Advance
from attar.core.randomness import seed_of
from attar.models import build
from attar.ops import dsa
from attar.ops.choices import ViewChoice
from attar.ops.metrics import measure
from attar.ops.pixels import Normalisation
from attar.ops.targets import Targets, hard_loss
from attar.stages.choices import Experts
from attar.stages.folder import StageFolder, logged, manifest_of
from attar.stages.run import EXPERTS
from attar.stages.workspace import Workspace
from attar.store import trajectories
from attar.store.atomic import sha256_of
from attar.store.checkpoint import Checkpoint
from attar.synthesis.method import Needs, SnapshotNeed
from attar.synthesis.networks import Bare
from attar.training.loop import FinishedEpoch, TrainingBatch, all_finite, fit

_WHOLE = ViewChoice(crop="none", flip=False)
_BATCH = 256


def folder_of(out: Path) -> Path:
    """Return the folder of the experts of a run."""
    return out / "squeeze" / EXPERTS


def check(space: Workspace, config: Experts, needs: Needs) -> None:
    """Raise AttarError, before the run starts, for experts that cannot be trained or are too short for the method."""
    if needs.snapshots == "none":
        return
    num_classes, size = len(space.real.classes), space.choice.size
    network = build.build(config.architecture, num_classes, size, seed=space.seed)
    build.check_forward(network, size, num_classes, name=config.architecture)
    if next(network.buffers(), None) is not None:
        raise AttarError(
            f"{config.architecture} keeps running statistics (BatchNorm), which no trajectory of weights contains; "
            f"use a network with InstanceNorm, such as --squeeze.experts.architecture convnet3_in."
        )
    if config.training.epochs < needs.expert_epochs:
        raise AttarError(
            f"The method reads the weights of experts after {needs.expert_epochs} epochs, but they train for "
            f"{config.training.epochs}; raise --squeeze.experts.training.epochs, or lower "
            f"--recover.max-start-epoch or --recover.expert-epochs."
        )


def run(space: Workspace, config: Experts, snapshots: SnapshotNeed) -> None:
    """Make ``<out>/squeeze/experts`` if the method needs ``snapshots``; keeps finished experts.

    Processes divide the trainings among themselves, and each continues from a checkpoint. Raises AttarError when the
    folder holds other experts, or a training diverges.
    """
    if snapshots == "none":
        return
    stage = _stage(space, config, snapshots)
    if stage.finished() is not None:
        return
    stage.begin()
    log = space.log.beside(stage.path)
    warn = work.once(log.warn)
    jobs = [
        work.Job(
            name=f"expert {number}",
            run=functools.partial(_make, space, config, snapshots, stage, number),
            done=functools.partial(_is_whole, stage, number, warn),
            steps=config.training.epochs,
        )
        for number in range(config.number)
    ]
    with memory.kept():
        work.do(jobs, log, "experts", unit="epochs", results="experts", event="expert")
    if ranks.is_first():
        files = [trajectories.path_of(stage.path, number) for number in range(config.number)]
        known = digest([sha256_of(file) for file in files])
        stage.finish({"experts_sha256": known}, logged(stage.path, "expert"), space.device.describe(), files)
    ranks.wait()


def parents(space: Workspace, snapshots: SnapshotNeed) -> dict[str, str]:
    """Return the parent of images made with the experts; raises AttarError when these are not finished."""
    if snapshots == "none":
        return {}
    return {EXPERTS: manifest_of(folder_of(space.out), "squeeze")["result"]["experts_sha256"]}


class TrainedExperts:
    """The experts of a run, as methods get them; their weights are mapped into memory."""

    def __init__(self, space: Workspace, config: Experts, snapshots: SnapshotNeed) -> None:
        """Open and check all files. Raises AttarError when experts are unfinished, damaged or of other settings."""
        stage = _stage(space, config, snapshots)
        manifest_of(stage.path, "squeeze")
        self._weights = [trajectories.load(stage.path, number, stage.identity) for number in range(config.number)]
        self._device = space.device.device
        self._network = Bare(lambda: _network(space, config, 0))
        self.normalisation: Normalisation = space.normalisation

    @property
    def num_experts(self) -> int:
        """Number of experts."""
        return len(self._weights)

    @property
    def num_snapshots(self) -> int:
        """Snapshots per expert, starting with the initial weights."""
        return len(self._weights[0])

    def weights(self, expert: int, snapshot: int) -> Float[Tensor, " weight"]:
        """Return an expert's weights as one vector, on the device."""
        return self._weights[expert][snapshot].to(self._device)

    def call(
        self, weights: Float[Tensor, " weight"], images: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image class"]:
        """Return the logits of the experts' network with these weights, differentiable in weights and images."""
        return self._network(weights, images)


def _stage(space: Workspace, config: Experts, snapshots: SnapshotNeed) -> StageFolder:
    request = space.request(experts=config, snapshots=snapshots, feed=space.feed)
    parents = {"data": space.real.fingerprint}
    return StageFolder(folder_of(space.out), "squeeze", request, parents, space.log.warn)


def _network(space: Workspace, config: Experts, number: int) -> nn.Module:
    seed = seed_of(space.seed, "experts", number)
    return build.build(config.architecture, len(space.real.classes), space.choice.size, seed=seed)


def _weights(network: nn.Module) -> Float[Tensor, " weight"]:
    """Return the parameters as one vector on the CPU, in the order in which ``Bare`` takes them."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).cpu()


def _is_whole(stage: StageFolder, number: int, warn: Callable[[str], None]) -> bool:
    """Return whether an expert's file is complete; warns why an existing one must be made again."""
    if not trajectories.path_of(stage.path, number).exists():
        return False
    fault = trajectories.fault(stage.path, number, stage.identity)
    if fault:
        warn(f"{fault.partition('; ')[0]}; it is made again")
    return not fault


def _make(
    space: Workspace, config: Experts, snapshots: SnapshotNeed, stage: StageFolder, number: int, advance: Advance
) -> dict[str, float | None]:
    """Train an expert and write its snapshots; returns its accuracy and the time of all processes that trained it."""
    network = _network(space, config, number).to(space.device.device)
    checkpoint = Checkpoint(stage.path / "checkpoints" / f"{number:04d}.safetensors", stage.identity)
    earlier = checkpoint.load()
    kept: list[Tensor] = list(earlier["kept"].unbind()) if earlier else [_weights(network)]
    clock = Clock(Elapsed(earlier["seconds"], earlier["processor_seconds"]) if earlier else None)
    if earlier:
        advance(earlier["fit"]["epoch"], earlier=True)

    def after(epoch: FinishedEpoch) -> None:
        advance(0, note=f"expert {number} loss {epoch.loss:.3f}")
        if not all_finite(network):
            raise AttarError(
                f"Expert {number} diverged in epoch {epoch.number} (its weights are not finite); lower "
                f"--squeeze.experts.training.learning-rate and run the same command again."
            )
        if snapshots == "epochs" or epoch.number == config.training.epochs:
            kept.append(_weights(network))
        checkpoint.offer(lambda: {"fit": epoch.state(), "kept": torch.stack(kept), **clock.elapsed().plain()})

    def batches(epoch: int) -> Iterator[TrainingBatch]:
        order, draws = (space.stream("experts", number, name, epoch) for name in ("epoch", "dsa"))
        units, kinds = space.normalisation, config.kinds()
        for images, labels in space.train.epoch(config.training.batch_size, _WHOLE, order, space.device.device):
            if len(images) < 2:  # the others of the batch cannot be read
                continue
            levels = dsa.sample(kinds, "one", len(images), draws)
            yield units.undo(dsa.apply(units.apply(images), levels, kinds)), Targets(labels)

    fit(
        network,
        space.normalisation,
        batches,
        hard_loss,
        config.training,
        space.train.num_images,
        replace(space.device, precision=config.precision).autocast,
        after,
        resume=earlier and earlier["fit"],
        seed=seed_of(space.seed, "experts", number),
        after_batch=lambda num_images: advance(num_images / space.train.num_images),
    )
    found = measure(
        lambda images: network(space.normalisation.apply(images)), space.val.plain(_BATCH, space.device.device)
    )
    trajectories.save(stage.path, number, torch.stack(kept), stage.identity)
    checkpoint.remove()
    return {"top1": found.top1, **clock.elapsed().plain()}
