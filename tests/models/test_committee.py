"""models/committee.py: teachers that answer together, are kept in numbered folders, and use a batch's statistics."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from attar.core.errors import AttarError
from attar.models import committee
from attar.models.build import build
from attar.models.choices import CommitteeChoice
from attar.models.committee import Committee, batch_normalised
from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def teacher(seed: int, mean: float = 0.5) -> Teacher:
    """A small network with random weights and a normalisation of its own."""
    module = build("convnet3", 4, 8, seed=seed)
    return Teacher(module, "convnet3", "standard", tuple("abcd"), Normalisation((mean,) * 3, (0.5,) * 3), 8)


def test_each_teacher_answers_in_its_own_normalisation():
    members = [teacher(0), teacher(1, mean=0.1)]
    first, second = (one.logits(IMAGES) for one in members)
    weighted = Committee(members, CommitteeChoice(policy="weighted", weights=(3.0, 1.0)))
    torch.testing.assert_close(weighted.logits(IMAGES), (3 * first + second) / 4)
    assert weighted.architecture == "convnet3+convnet3"
    assert torch.equal(Committee(members[:1]).logits(IMAGES), first)
    assert not torch.allclose(first, second, atol=0.01)


def test_weights_follow_from_accuracy_or_priors():
    """As CV-DD labels: softmax of percents over a temperature."""
    members = [dataclasses.replace(teacher(seed), accuracy=rated) for seed, rated in ((0, 0.9), (1, 0.8))]
    first, second = (one.logits(IMAGES) for one in members)
    share = 1 / (1 + math.exp(-10 / 4))
    measured = Committee(members, CommitteeChoice(policy="weighted", prior_temperature=4.0))
    torch.testing.assert_close(measured.logits(IMAGES), share * first + (1 - share) * second)
    told = Committee(members, CommitteeChoice(policy="weighted", priors=(40.0, 50.0), prior_temperature=4.0))
    torch.testing.assert_close(told.logits(IMAGES), (1 - share) * first + share * second)
    with pytest.raises(AttarError, match=r"teacher 0 is not known.*--relabel\.committee\.priors"):
        Committee([teacher(0), teacher(1)], CommitteeChoice(policy="weighted"))


def test_it_comes_back_from_numbered_folders(tmp_path: Path):
    made = Committee([teacher(0), teacher(1, mean=0.1)], CommitteeChoice(batchnorm="train", batchnorm_batch=2))
    made.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    found = committee.load(tmp_path, made.choice, 2)
    assert torch.equal(found.logits(IMAGES), made.logits(IMAGES))
    with pytest.raises(AttarError, match="The teacher's folder .*2 is missing"):
        committee.load(tmp_path, made.choice, 3)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (CommitteeChoice(policy="weighted", weights=(1.0,)), "has 1 weights for 2 teachers"),
        (CommitteeChoice(weights=(1.0, 2.0)), "only used with --relabel.committee.policy weighted"),
    ],
)
def test_weights_must_fit(choice: CommitteeChoice, words: str):
    with pytest.raises(AttarError, match=words):
        Committee([teacher(0), teacher(1)], choice)


def test_a_teacher_is_named_once():
    with pytest.raises(ValueError, match="teacher 1 is named twice"):
        CommitteeChoice(members=(1, 0, 1))


@pytest.mark.parametrize("kind", ["plain", "timm"])
def test_batch_statistics_are_those_of_the_batch_and_change_nothing(kind: str):
    if kind == "plain":
        norm: nn.Module = nn.BatchNorm2d(3)
    else:
        from timm.layers.norm_act import BatchNormAct2d

        norm = BatchNormAct2d(3, apply_act=False)
    norm.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    norm.running_mean = torch.tensor([1.0, 2.0, 3.0])
    network = nn.Sequential(norm, nn.Dropout(0.9)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    by_batch = batch_normalised(network)
    mean, var = images.mean((0, 2, 3), keepdim=True), images.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = (part.detach().view(1, 3, 1, 1) for part in (norm.weight, norm.bias))
    expected = (images - mean) / (var + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(by_batch(images).detach(), expected)
    assert not torch.allclose(network(images), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
