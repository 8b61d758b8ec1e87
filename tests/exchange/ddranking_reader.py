"""What the installed ddranking makes of an export; run by the interpreter that has it, with the export's folder.

Writes ``read.pt`` (tensors), and ``failures.json``: what goes wrong in the package by itself.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets.cifar
from ddranking import aug, loss, metrics
from ddranking.config import Config
from ddranking.utils import (
    TensorDataset,
    build_model,
    get_dataset,
    get_pretrained_model_path,
    get_random_data_path_from_cifar,
)
from torchvision import datasets, transforms

torchvision.datasets.cifar.check_integrity = lambda *_, **__: True  # the stand-in has other bytes than CIFAR


def read(config):
    plain = datasets.ImageFolder("images", transform=transforms.ToTensor())
    shown = datasets.ImageFolder("images", transform=config.get("custom_val_trans"))
    normalised = torch.stack([image for image, _ in shown])
    name, dataset = config.get("teacher_model_names")[0], config.get("dataset")
    found = get_dataset(dataset, config.get("real_data_path"), config.get("im_size"), False, None, "cpu")
    num_classes, train, class_map = found[4], found[5], found[8]
    (path,) = get_pretrained_model_path(config.get("teacher_dir"), [name], dataset)
    model = build_model(
        name, num_classes, config.get("im_size"), True, path, use_torchvision=config.get("tea_use_torchvision"),
        device="cpu",
    ).eval()  # fmt: skip
    hard = torch.tensor(np.array([np.ones(config.get("ipc")) * i for i in range(num_classes)]), dtype=torch.long)
    whole = torch.stack([image for image, _ in plain])
    pairs = [TensorDataset(whole, hard.view(-1))[i] for i in range(len(whole))]
    torch.manual_seed(0)
    students, teachers = torch.randn(4, num_classes), 5 * torch.randn(4, num_classes)
    criterion = loss.KLDivergenceLoss(**config.get("loss_fn_kwargs"))
    mixed = {"mixup": aug.Mixup, "cutmix": aug.Cutmix}[config.get("data_aug_func")](config.get("aug_params"))(whole)
    to_indices = [[i for i, label in enumerate(train.targets) if class_map[label] == c] for c in range(num_classes)]
    drawn = get_random_data_path_from_cifar(dataset, train, to_indices, 1, 0, "drawn")
    with torch.no_grad():
        logits = model(normalised)
    return {
        "pixels": torch.stack([image for image, _ in plain]),
        "labels": torch.tensor([label for _, label in plain]),
        "tensor_labels": torch.stack([label for _, label in pairs]),
        "tensor_pixels": torch.stack([image for image, _ in pairs]),
        "normalised": normalised,
        "trained_on": torch.stack([config.get("custom_train_trans")(plain.loader(p)) for p, _ in plain.samples]),
        "logits": logits,
        "students": students,
        "teachers": teachers,
        "loss": criterion(students, teachers),
        "mixed": mixed,
        "drawn": torch.tensor([label for _, label in datasets.ImageFolder(drawn).samples]),
    }


def attempt(make, **others):
    config = Config.from_file("config.yaml")
    config.update({"device": "cpu", "num_workers": 0, "num_epochs": 1, "num_eval": 1, **others})
    try:
        make(config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def failures():
    """The package alone, without what score.py does about it."""
    stored = {"soft_label_mode": "S"}
    labels = torch.zeros(len(datasets.ImageFolder("images")), 10)
    whole = torch.zeros(len(labels), 3, 32, 32)

    def soft(config):
        metrics.LabelRobustScoreSoft(config).compute_metrics(image_path="images", syn_lr=0.001)

    return {
        "full data": attempt(soft),
        "hard": attempt(
            lambda config: metrics.LabelRobustScoreHard(config).compute_metrics(image_path="images", syn_lr=0.001),
            eval_full_data=True, data_aug_func=None,
        ),
        "hard augmentation": attempt(
            lambda config: metrics.AugmentationRobustScore(config).compute_metrics(image_path="images", syn_lr=0.001),
            label_type="hard", num_epochs=20,
        ),
        "general": attempt(metrics.GeneralEvaluator),
        "stored, folder": attempt(
            lambda config: metrics.LabelRobustScoreSoft(config)._compute_soft_label_metrics_helper(
                None, "images", labels, 0.001
            ),
            **stored,
        ),
        "stored, random": attempt(
            lambda config: metrics.LabelRobustScoreSoft(config)._generate_soft_labels(whole), **stored
        ),
        "tensor": attempt(
            lambda config: metrics.LabelRobustScoreSoft(config)._get_random_data_helper(0),
            random_data_format="tensor",
        ),
    }  # fmt: skip


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    torch.save(read(Config.from_file("config.yaml")), "read.pt")
    Path("failures.json").write_text(json.dumps(failures(), indent=2))
    import runpy

    for mode in sys.argv[2:]:
        sys.argv = ["score.py", mode]
        runpy.run_path("score.py", run_name="__main__")
