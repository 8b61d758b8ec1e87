"""Train a network on a distilled set with the parts of timm's trainer: its model, optimiser, schedule and loss.

    python examples/timm_student.py runs/digits --model resnet10t --epochs 60

timm's ``train.py`` reads folders of images with hard labels. For those, write the images of a set to a folder with
``attar export``, or use this loop, which has soft labels: timm's SoftTargetCrossEntropy takes the teacher's
probabilities in place of Mixup's targets. The first argument is what attar.load takes.
"""

# pyright: reportPrivateImportUsage=false
import argparse
import sys
from collections.abc import Sequence

import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

import attar


def train(place: str, model: str, epochs: int, batch_size: int = 50, workers: int = 0) -> tuple[nn.Module, float]:
    """Return a student trained on the distilled set at ``place`` (its moving average), and its last loss."""
    data = attar.load(place).soft_dataset()
    network = timm.create_model(model, num_classes=len(data.classes))
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.01)
    schedule, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    loss_of, average, seen = SoftTargetCrossEntropy(), ModelEmaV3(network, decay=0.99), AverageMeter()
    for epoch in range(epochs):
        data.set_epoch(epoch)
        network.train()
        seen.reset()
        for images, soft in loader:
            loss = loss_of(network(images), soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network)
            seen.update(loss.item(), len(images))
        if schedule is not None:
            schedule.step(epoch + 1)
    return average.module, float(seen.avg)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a student and print its last loss."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("place", help="a run, a distilled folder, or ORG/NAME on the Hub")
    parser.add_argument("--model", default="resnet10t", help="a name that timm.list_models() gives")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    _, loss = train(options.place, options.model, options.epochs)
    print(f"loss {loss:.3f} after {options.epochs} epochs")


if __name__ == "__main__":
    try:
        main()
    except attar.AttarError as error:
        sys.exit(f"timm_student.py: {error}")
