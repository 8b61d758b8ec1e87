"""models/network_output.py: what teachers return is understood, or refused with the true reason."""

import types
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attar.core.errors import AttarError
from attar.models.network_output import Logits, logits_only

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", ["features", "scores"])


class Net(nn.Module):
    def __init__(self, answer: Callable[[Any, Any], Any] = lambda x, y: y, channels: int = 3) -> None:
        super().__init__()
        self.answer = answer
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> Any:
        features = self.body(images).flatten(1)
        return self.answer(features, self.head(features))


def logits_of(net: Net) -> torch.Tensor:
    return net.head(net.body(IMAGES).flatten(1))


ANSWERS: dict[str, Callable[[Any, Any], Any]] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [y],
    "named tuple": lambda x, y: Pair(x, y),
    "mapping": lambda x, y: {"features": x, "out": y},
    "logits among alike": lambda x, y: OrderedDict(probs=y.softmax(1), logits=y),
    "object": lambda x, y: types.SimpleNamespace(logits=y, loss=None),
    "maps of one pixel": lambda x, y: y[:, :, None, None],
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_logits_are_taken_out_of_what_holds_them(kind: str):
    net = Net(ANSWERS[kind]).eval()
    found = logits_only(net, 4, 8)
    assert isinstance(found, Logits)
    assert torch.equal(found(IMAGES), logits_of(net))
    assert logits_only(found, 4, 8) is found


def test_a_network_that_returns_logits_is_taken_as_it_is():
    net = Net()
    assert logits_only(net, 4, 8) is net


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_becomes_float32_on_a_copy(dtype: torch.dtype):
    net = Net().to(dtype).eval()
    found = logits_only(net, 4, 8)
    assert found(IMAGES).dtype == torch.float32
    assert net.head.weight.dtype == dtype
    assert torch.equal(found.get_parameter("head.weight"), net.head.weight.float())


REFUSED: list[tuple[nn.Module, str]] = [
    (Net(lambda x, y: (y, y.relu())), r"Net returns a tuple \(0: \[2, 4\], 1: \[2, 4\]\), and 2 of them may be"),
    (Net(lambda x, y: {"features": x}), r"a dict \(features: \[2, 6\]\), and none of them has 4 outputs"),
    (Net(lambda x, y: None), "returns a NoneType"),
    (Net(lambda x, y: x), r"6 outputs, but the data have 4 classes \(2 images give \[2, 6\], not \[2, 4\]\)"),
    (Net(lambda x, y: y[:, :, None]), r"the wrong shape for logits \(2 images give \[2, 4, 1\]"),
    (Net(channels=1), "images of 1 channel, but attar's have 3 .RGB."),
    (Net(channels=4), "images of 4 channels, but attar's have 3 .RGB."),
    (Net(channels=7), r"fails on images of 8 and of 28, .* pixels \(.*channels"),
    (Net(lambda x, y: y.softmax(1)), r"returns probabilities.*softmax.*return the logits"),
    (Net(lambda x, y: (x, y.softmax(1))), r"returns probabilities"),
    (Net(lambda x, y: undefined), "fails on images of 8 and of .* .name 'undefined'"),  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
    (
        nn.Sequential(nn.Conv2d(3, 4, 20), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        r"8 x 8 .*--data.size \(for example 28\)",
    ),
]


@pytest.mark.parametrize(("net", "reason"), REFUSED, ids=[reason[:20] for _, reason in REFUSED])
def test_others_are_refused_with_the_true_reason(net: nn.Module, reason: str):
    with pytest.raises(AttarError, match=reason) as caught:
        logits_only(net, 4, 8)
    assert ("--data.size" in str(caught.value)) == ("--data.size" in reason)


def test_a_network_that_cannot_be_copied_is_a_sentence():
    net = Net()
    net.kept = net.head.weight * 2  # no leaf: deepcopy refuses it
    with pytest.raises(AttarError, match="Net cannot be copied"):
        logits_only(net, 4, 8)
