"""models/factory.py: own networks by 'module:name', whatever their signature."""

import sys
import textwrap
from pathlib import Path

import pytest
from torch import nn

from attar.core.errors import AttarError
from attar.models.build import build, check_forward

NETS = """
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, num_classes, image_size):
        super().__init__(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))

class NoSize(nn.Sequential):
    def __init__(self, n_classes=1000, width=7):
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))

class Channels(nn.Sequential):
    def __init__(self, in_chans=1, *, num_labels):
        super().__init__(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_labels))

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))

def swapped(img_size, num_classes):
    return Plain(num_classes, img_size)

def by_keywords(**choices):
    return NoSize(n_classes=choices["num_classes"])

def by_place(*numbers):
    return Plain(*numbers)

class Unlike(nn.Module):
    def __init__(self, width, depth):
        super().__init__()

class Soft(Plain):
    def forward(self, images):
        return super().forward(images).softmax(1)

def pair(num_classes):
    net = NoSize(num_classes)
    net.forward = lambda images: (images, images)
    return net
"""


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder with own networks, which is not on the path of imports."""
    (tmp_path / "nets_of_mine.py").write_text(textwrap.dedent(NETS))
    (tmp_path / "nets_in_bits.py").write_text("x = 1\ndef net(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    yield tmp_path
    for name in ("nets_of_mine", "nets_in_bits"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Plain", "NoSize", "Channels", "Fixed", "swapped", "by_keywords", "by_place"])
def test_common_signatures_are_called_rightly(working_folder: Path, name: str):
    check_forward(build(f"nets_of_mine:{name}", 5, 8, seed=0), 8, 5)


def test_defaults_that_have_no_part_in_it_stay(working_folder: Path):
    layer = build("nets_of_mine:NoSize", 5, 8, seed=0).get_submodule("0")
    assert isinstance(layer, nn.Conv2d)
    assert layer.out_channels == 7


def test_other_arguments_are_refused_with_the_signature_that_is_wanted(working_folder: Path):
    with pytest.raises(AttarError, match=r"Unlike takes \(width, depth\).*for 'width'.*\(num_classes, image_size\)"):
        build("nets_of_mine:Unlike", 5, 8, seed=0)


def test_a_fault_in_the_file_is_told_by_its_line(working_folder: Path):
    with pytest.raises(AttarError, match=r"in nets_in_bits\.py, line 2 \(SyntaxError"):
        build("nets_in_bits:net", 5, 8, seed=0)
    with pytest.raises(AttarError, match=r"no function 'plain'.*did you mean Plain\?"):
        build("nets_of_mine:plain", 5, 8, seed=0)


def test_what_an_own_network_returns_is_checked_before_it_is_trained(working_folder: Path):
    with pytest.raises(AttarError, match=r"nets_of_mine:Soft returns probabilities"):
        check_forward(build("nets_of_mine:Soft", 5, 8, seed=0), 8, 5, name="nets_of_mine:Soft")
    with pytest.raises(AttarError, match=r"pair returns a tuple .*return only the logits, .* images x 5"):
        check_forward(build("nets_of_mine:pair", 5, 8, seed=0), 8, 5, name="pair")
    with pytest.raises(AttarError, match=r"5 outputs, but the data have 6 classes"):
        check_forward(build("nets_of_mine:Fixed", 6, 8, seed=0), 8, 6)


def test_names_of_known_networks_leave_the_path_of_imports_alone(working_folder: Path):
    build("resnet20", 5, 8, seed=0)
    assert str(working_folder) not in sys.path
    build("nets_of_mine:Plain", 5, 8, seed=0)
    assert sys.path[0] == str(working_folder)
