"""ops/ensemble.py: answers of several teachers against plain sums, and labels by the statistics of a batch."""

import pytest
import torch
from attar.ops.ensemble import batch_normalised, combine
from torch import nn


def answers() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [scale * torch.randn(6, 4, generator=generator) for scale in (1.0, 5.0, 0.2)]


def test_means_are_plain_sums():
    first, second, third = answers()
    torch.testing.assert_close(combine([first, second, third]), (first + second + third) / 3)
    weighted = combine([first, second, third], "weighted", (1.0, 2.0, 5.0))
    torch.testing.assert_close(weighted, (first + 2 * second + 5 * third) / 8)


def test_norm_balanced_answers_are_equally_loud():
    found = answers()
    expected = []
    for row in range(6):
        norms = [float(each[row].norm()) for each in found]
        expected.append(sum(each[row] / norm * (sum(norms) / 3) for each, norm in zip(found, norms, strict=True)) / 3)
    torch.testing.assert_close(combine(found, "norm-balanced"), torch.stack(expected))
    assert combine([torch.zeros(2, 3), torch.ones(2, 3)], "norm-balanced").isfinite().all()


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
