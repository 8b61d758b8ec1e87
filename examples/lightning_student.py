"""Train a network on a distilled set with Lightning.

    python examples/lightning_student.py runs/digits --epochs 60
    python examples/lightning_student.py org/name --model resnet18

The first argument is what attar.load takes: a run, a distilled folder, or a set of the Hugging Face Hub. Soft labels
come through a plain DataLoader: each item is a view of an image with the teacher's probabilities for it.
"""

import argparse
import sys
from collections.abc import Sequence

import lightning  # pyright: ignore[reportMissingImports]
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import attar
from attar.models.build import build
from attar.stages.torch_datasets import SoftDataset


class Student(lightning.LightningModule):
    """A network that learns the teacher's probabilities."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network, self.learning_rate = network, learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the cross-entropy with the teacher's probabilities."""
        images, soft = batch
        loss = F.cross_entropy(self.network(images), soft)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW, as the evaluation of the digits recipe uses it."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=0.01)


class NextViews(lightning.Callback):
    """Shows other views of the images in every epoch."""

    def __init__(self, data: SoftDataset) -> None:
        self.data = data

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose the epoch's views and labels."""
        self.data.set_epoch(trainer.current_epoch)


def train(place: str, model: str, epochs: int, batch_size: int = 50, workers: int = 0) -> Student:
    """Return a student trained on the distilled set at ``place``."""
    data = attar.load(place).soft_dataset()
    network = build(model, len(data.classes), data.distilled.info.size, seed=0)
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    student = Student(network, learning_rate=1e-3)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[NextViews(data)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(student, loader)
    return student


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a student and print its last loss."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("place", help="a run, a distilled folder, or ORG/NAME on the Hub")
    parser.add_argument("--model", default="convnet3", help="a name from 'attar list models'")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)
    student = train(options.place, options.model, options.epochs)
    print(f"loss {student.trainer.callback_metrics['loss']:.3f} after {options.epochs} epochs")


if __name__ == "__main__":
    try:
        main()
    except attar.AttarError as error:
        sys.exit(f"lightning_student.py: {error}")
