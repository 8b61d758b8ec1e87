"""Choosing real images by k-centre, by the number of classes: class by class against attar, in one run.

    python benchmarks/coresets.py
    python benchmarks/coresets.py --classes 1000 10450 --network resnet20

Made-up images of 8 pixels, 13 a class, and two centres of each. The plain way sends the images of one class at a time
through the whole network. Each row is printed as soon as it is measured; both sides take the same blocks of classes in
turns, so that other work meets both. `same` is the share of classes in which both choose the same images.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from attar.core.device import Execution, resolve
from attar.methods.kcentre import Config, centres
from attar.models.build import build
from attar.ops.features import penultimate
from attar.ops.pixels import Normalisation, from_bytes
from attar.stages.folder import versions
from attar.synthesis.coreset import coreset
from attar.synthesis.task import Network, Task

SIDE, NUM_IMAGES, IPC, UNIT_CLASSES = 8, 13, 2, 10
CLASSES = (100, 1000, 10_450)
NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class MadeUp:
    """Random real images, the same ones whenever they are asked for."""

    def __init__(self, num_classes: int) -> None:
        draws = torch.Generator().manual_seed(0)
        shape = (num_classes, NUM_IMAGES, 3, SIDE, SIDE)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self._images)

    def count(self, label: int) -> int:
        """How many images the class has."""
        return NUM_IMAGES

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        """These images of the class."""
        return self._images[label, list(indices)]

    def class_name(self, label: int) -> str:
        """The class's name."""
        return str(label)


def plain(network: Network, real: MadeUp, labels: Sequence[int], device: torch.device) -> Tensor:
    """Class by class through the whole network."""
    found = []
    for label in labels:
        images = from_bytes(real.take(label, range(NUM_IMAGES)).to(device))
        features = penultimate(network.module, network.normalisation.apply(images)).values.double()
        found.append(images[centres(features, IPC)])
    return torch.stack(found, dim=1).flatten(0, 1)


def attar(network: Network, real: MadeUp, labels: Sequence[int], device: torch.device) -> Tensor:
    """As recover asks for a unit of a baseline."""
    task = Task(
        labels=torch.tensor(list(labels) * IPC, device=device),
        slots=torch.arange(IPC).repeat_interleave(len(labels)),
        size=(SIDE, SIDE),
        teachers=(network,),
        device=device,
        streams=lambda *_: (),
        shared_stream=lambda *_: torch.Generator(),
        monitor=_Unwatched(),
        unit_sizes=(IPC * len(labels),),
        real=real,
    )
    return coreset(task, Config(ipc=IPC), centres)


class _Unwatched:
    def step(self, iteration: int, images: object, **metrics: Tensor) -> None:
        """Nothing is optimised."""


def measure(name: str, num_classes: int, num_blocks: int, device: torch.device) -> str:
    """One line of the table; at most so many blocks of ten classes are timed, evenly spaced."""
    module = build(name, num_classes, SIDE, seed=0).to(device).eval()
    network, real = Network(module, NORMALISATION), MadeUp(num_classes)
    starts = range(0, num_classes, UNIT_CLASSES)
    timed = starts[:-1][:: max(1, len(starts) // num_blocks)][:num_blocks]
    pairs, same = [], []
    for start in (starts[-1], *timed):  # the last block is to warm up
        labels = range(start, min(start + UNIT_CLASSES, num_classes))
        seconds, chosen = [], []
        for side in (plain, attar):
            began = time.perf_counter()
            found = side(network, real, labels, device).cpu()
            seconds.append((time.perf_counter() - began) / len(labels))
            chosen.append(found.unflatten(0, (IPC, len(labels))))
        pairs.append(seconds)
        same += (chosen[0] == chosen[1]).flatten(2).all(2).all(0).tolist()
    before, after = (statistics.median(side) for side in zip(*pairs[1:], strict=True))
    ratios = sorted(slow / fast for slow, fast in pairs[1:])
    spread = f"{statistics.median(ratios):4.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    return (
        f"{num_classes:>7}  {1000 * before:8.2f}  {1000 * after:8.2f}  {before * num_classes:7.0f}  "
        f"{after * num_classes:7.0f}  {spread:<20}  {100 * statistics.fmean(same):5.1f} %"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers of classes, a row each")
    parser.add_argument("--network", default="convnet3", help="whose features are compared")
    parser.add_argument("--blocks", type=int, default=20, help="blocks of ten classes that are timed")
    parser.add_argument("--quick", action="store_true", help="hardly any work: to try it out")
    options = parser.parse_args(arguments)
    device = resolve(Execution())
    print(f"{device.describe()}, torch {versions()['torch']}, {options.network}, {NUM_IMAGES} images a class")
    print("classes  plain ms  attar ms  plain s  attar s  faster                 same", flush=True)
    for num_classes in [25] if options.quick else options.classes:
        print(measure(options.network, num_classes, 2 if options.quick else options.blocks, device.device), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
