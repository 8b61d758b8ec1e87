"""ops/combine.py: answers of several teachers against plain sums, and labels by the statistics of a batch."""

import torch

from attar.ops.combine import combine


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
