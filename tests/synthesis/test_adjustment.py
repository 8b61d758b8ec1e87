"""synthesis/adjustment.py against steps taken one by one on a copy of the teacher."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core.compiling import Compiler
from attar.methods import dwa
from attar.synthesis import adjustment
from attar.synthesis.observed import Observed
from attar.synthesis.starts import start_of
from attar.synthesis.task import Network, Task
from formula import formula_network
from matched_digits import NORMALISATION, NUM_CLASSES, task_of


def config_of(**values: Any) -> dwa.Config:
    fixed = {"ipc": 2, "iterations": 3, "crop": "none", "flip": False, "jitter": 0, "adjust_length": 0.5}
    return dwa.Config.of(fixed | values, "the test")


def digits_task(slot: int = 0, teacher: Network | None = None) -> Task:
    """One unit of three digits."""
    task, _ = task_of([(range(NUM_CLASSES), 1)])
    teacher = teacher or Network(formula_network(NUM_CLASSES), NORMALISATION)
    return dataclasses.replace(task, teachers=(teacher,), slots=torch.full((NUM_CLASSES,), slot))


def climbed(network: nn.Module, images: Tensor, labels: Tensor, steps: int, length: float) -> nn.Module:
    """The steps by hand: backward on a copy, one norm over all weights."""
    changed = copy.deepcopy(network).requires_grad_()
    for _ in range(steps):
        changed.zero_grad()
        F.cross_entropy(changed(images), labels).backward()
        slopes = [weight.grad.clone() for weight in changed.parameters() if weight.grad is not None]
        norm = torch.cat([slope.flatten() for slope in slopes]).norm()
        with torch.no_grad():
            for weight, slope in zip(changed.parameters(), slopes, strict=True):
                weight += length / steps * slope / norm
    return changed.requires_grad_(False)


def test_steps_are_those_taken_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Also when the images are shown in parts; they lead to a higher cross-entropy, and are as long as asked."""
    network, task, config = formula_network(NUM_CLASSES), digits_task(), config_of()
    images = start_of(task, config)
    expected = climbed(network, images, task.labels, 4, 0.5)
    for most in (2**22, 2 * 64):
        monkeypatch.setattr(adjustment, "_BATCH_PIXELS", most)
        found = adjustment.ascended(network, dict(network.named_parameters()), images, task.labels, 4, 0.5)
        for name, weight in expected.named_parameters():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)
    before, after = (F.cross_entropy(each(images), task.labels) for each in (network, expected))
    assert after > before + 0.1
    one = adjustment.ascended(network, dict(network.named_parameters()), images, task.labels, 1, 0.5)
    moved = torch.cat([(one[name] - weight).flatten() for name, weight in network.named_parameters()])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_images_are_optimised_through_the_adjusted_weights():
    """The same as the loop without adjustment, by a teacher that was adjusted by hand."""
    config, task = config_of(adjust_steps=4), digits_task()
    by_hand = climbed(task.teachers[0].module, start_of(task, config), task.labels, 4, 0.5)
    plain = dwa.recover(digits_task(teacher=Network(by_hand, NORMALISATION)), config_of(adjust_steps=0)).images
    torch.testing.assert_close(dwa.recover(task, config).images, plain, rtol=0, atol=1e-4)
    unadjusted = dwa.recover(digits_task(), config_of(adjust_steps=0)).images
    assert (plain - unadjusted).abs().max() > 0.01


def test_one_copy_serves_all_units_and_is_begun_anew_for_each():
    config, teacher = config_of(), Network(formula_network(NUM_CLASSES), NORMALISATION)
    first = dwa.recover(digits_task(0, teacher), config).images
    second = dwa.recover(digits_task(1, teacher), config).images
    assert torch.equal(second, dwa.recover(digits_task(1), config).images)
    assert torch.equal(first, dwa.recover(digits_task(0, teacher), config).images)
    changed = [adjustment.adjusted(digits_task(slot, teacher), config).teachers[0] for slot in (0, 1)]
    assert changed[0] is changed[1]
    kept = [each.observed for each in changed[1]._kept.values() if hasattr(each, "observed")]
    images = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
    assert kept
    for observed in kept:
        fresh = Observed(changed[1].module, images, "fp32", tuple(observed.layouts))
        torch.testing.assert_close(observed(images)[0], fresh(images)[0])


def test_a_copy_with_other_weights_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch):
    """Compiled code serves the next unit, and computes with its weights."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda made, **_: real(made, backend="eager", dynamic=False, fullgraph=True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    teacher = Network(formula_network(NUM_CLASSES), NORMALISATION, compiler=Compiler("on"))
    dwa.recover(digits_task(0, teacher), config_of())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    again = dwa.recover(digits_task(1, teacher), config_of()).images
    assert graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(again, dwa.recover(digits_task(1), config_of()).images, rtol=0, atol=1e-4)


def test_adjustments_of_the_classes_before_add_up_on_request():
    """The published code never takes a batch's adjustment back."""
    task = dataclasses.replace(digits_task(), labels=torch.tensor([0, 1, 2]))
    other = dataclasses.replace(task, labels=torch.tensor([2, 1, 0]))
    after = dataclasses.replace(task, earlier=lambda: [other])
    config = config_of(adjust_steps=3, adjust_onwards=True)
    network = task.teachers[0].module
    expected = climbed(network, start_of(other, config), other.labels, 3, 0.5)
    expected = climbed(expected, start_of(task, config), task.labels, 3, 0.5)
    found = adjustment.adjusted(after, config).teachers[0].module
    for mine, weight in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, weight, rtol=0, atol=1e-5)
    anew = adjustment.adjusted(after, config_of(adjust_steps=3)).teachers[0].module
    alone = adjustment.adjusted(digits_task(), config_of(adjust_steps=3)).teachers[0].module
    for mine, weight in zip(anew.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, weight)


@pytest.mark.parametrize("values", [{"grey": True}, {"crop": "resized", "flip": True, "jitter": 2}, {"start": "noise"}])
def test_the_first_view_is_that_of_the_first_iteration(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """What the loop shows to the teacher at first, in [0, 1]."""
    from attar.synthesis import objective

    config, shown = config_of(**values), list[Tensor]()
    look = objective.Objective._look

    def spied(self: Any, *arguments: Any) -> Any:
        seen = look(self, *arguments)
        shown.append(seen.images.detach().clone())
        return seen

    monkeypatch.setattr(objective.Objective, "_look", spied)
    dwa.recover(digits_task(), config)
    first = NORMALISATION.apply(adjustment.first_views(digits_task(), config))
    torch.testing.assert_close(shown[0], first, rtol=0, atol=1e-5)
