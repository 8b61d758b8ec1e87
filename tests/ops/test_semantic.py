import pytest
import torch
from torch import Tensor

from attar.ops.semantic import levels, semantic_loss

# 0 animal, 1 dog (animal), 2 cat (animal), 3 puppy (dog), 4 plant, 5 kitten (cat), 6 tree (plant), 7 rock
TREE = ((), (0,), (0,), (1, 0), (), (2, 0), (4,), ())


def slow(logits: Tensor, labels: list[int], smoothing: float) -> Tensor:
    """The formula as the paper writes it, class by class."""
    depths = [len(above) for above in TREE]
    total = torch.zeros(())
    for depth in sorted(set(depths)):
        members = [one for one in range(len(TREE)) if depths[one] == depth]
        deeper = sum(1 for other in depths if other >= depth)
        weight = min(20.0, len(TREE) / deeper)
        for row, label in zip(logits, labels, strict=True):
            chain = [label, *TREE[label]]
            target = next((one for one in chain if depths[one] == depth), None)
            if target is None:
                continue
            denominator = sum(float(row[one].exp()) for one in members)
            for one in members:
                share = smoothing / len(members) + (1 - smoothing) * (one == target)
                total = total - weight * share * (row[one].exp() / denominator).log() / len(labels)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_formula(smoothing: float) -> None:
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 2, 3, 4, 5, 6, 7]
    found = semantic_loss(logits, torch.tensor(labels), levels(TREE), smoothing)
    assert found.item() == pytest.approx(slow(logits, labels, smoothing).item(), rel=1e-5)
    part = semantic_loss(logits[:2], torch.tensor([7, 3]), levels(TREE), smoothing)
    assert part.item() == pytest.approx(slow(logits[:2], [7, 3], smoothing).item(), rel=1e-5)


def test_a_level_teaches_its_own_classes_only() -> None:
    logits = torch.zeros(1, 8, requires_grad=True)
    semantic_loss(logits, torch.tensor([0]), levels(TREE)).backward()  # an animal, nothing more is known
    assert logits.grad is not None
    assert logits.grad[0].nonzero().flatten().tolist() == [0, 4, 7]


def test_levels_and_weights() -> None:
    found = levels(TREE)
    assert [one.tolist() for one in found.classes] == [[0, 4, 7], [1, 2, 6], [3, 5]]
    assert found.weights == (1.0, 8 / 5, 4.0)
    assert found.targets[5].tolist() == [0, 1, 1]
    assert found.targets[7].tolist() == [2, -1, -1]
    many = (*(() for _ in range(98)), (0,), (1,))
    assert levels(many).weights == (1.0, 20.0)  # not 50
    assert len(levels((*(() for _ in range(9)), (0,))).classes) == 1  # a level of one class teaches nothing


def test_without_a_hierarchy_it_is_cross_entropy() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1, 1, 2])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(semantic_loss(logits, labels, levels([()] * 4), 0.1), expected)
