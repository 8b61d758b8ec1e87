"""Train a network on a distilled set with Accelerate: the same loop on a CPU, a GPU or several.

    python examples/accelerate_student.py runs/digits --epochs 60
    accelerate launch examples/accelerate_student.py org/name --model resnet18

The first argument is what attar.load takes: a run, a distilled folder, or a set of the Hugging Face Hub.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator  # pyright: ignore[reportMissingImports]
from torch import nn
from torch.utils.data import DataLoader

import attar
from attar.models.build import build


def train(place: str, model: str, epochs: int, batch_size: int = 50, workers: int = 0) -> tuple[nn.Module, float]:
    """Return a student trained on the distilled set at ``place``, and its last loss."""
    accelerator = Accelerator()
    data = attar.load(place).soft_dataset()
    network = build(model, len(data.classes), data.distilled.info.size, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    network.train()
    loss = torch.tensor(0.0)
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for images, soft in loader:
            loss = F.cross_entropy(network(images), soft)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
    return accelerator.unwrap_model(network), loss.item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a student and print its last loss."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("place", help="a run, a distilled folder, or ORG/NAME on the Hub")
    parser.add_argument("--model", default="convnet3", help="a name from 'attar list models'")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)
    _, loss = train(options.place, options.model, options.epochs)
    print(f"loss {loss:.3f} after {options.epochs} epochs")


if __name__ == "__main__":
    try:
        main()
    except attar.AttarError as error:
        sys.exit(f"accelerate_student.py: {error}")
