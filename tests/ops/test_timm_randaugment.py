"""ops/timm_randaugment.py: its operations against timm's own, against plain formulas, and how often each is drawn."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attar.ops import timm_randaugment as own
from attar.ops.timm_randaugment import FILL, KINDS, OPERATIONS, STRONGEST

TIMM = {
    "autocontrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "posterize": "Posterize",
    "solarize": "Solarize", "solarize_add": "SolarizeAdd", "colour": "Color", "contrast": "Contrast",
    "brightness": "Brightness", "sharpness": "Sharpness", "rotate": "Rotate", "shear_x": "ShearX", "shear_y": "ShearY",
    "translate_x": "TranslateXRel", "translate_y": "TranslateYRel",
}  # fmt: skip
"""timm's names of the operations."""
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures() -> Tensor:
    """Two smooth images, two of noise, a plain one, and one with a plain channel: 20 x 28 pixels."""
    smooth = F.interpolate(torch.rand(2, 3, 6, 7, generator=stream(1)), (20, 28), mode="bicubic").clamp(0, 1)
    smooth = (30 + 180 * smooth).to(torch.uint8)
    noise = torch.randint(0, 256, (3, 3, 20, 28), generator=stream(2), dtype=torch.uint8)
    noise[2, 1] = 77
    return torch.cat([smooth, noise, torch.full((1, 3, 20, 28), 200, dtype=torch.uint8)])


def changed(images: Tensor, name: str, level: int) -> Tensor:
    step = torch.tensor([[[OPERATIONS.index(name), level]]], dtype=torch.int8)
    return own.change(images, step.expand(len(images), 1, 2))


def timms(auto_augment: Any, name: str, level: int, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What timm's operation makes of an image at the same magnitude, with this direction and interpolation."""
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: value if level > 0 else -value)
    kind, _, how = name.rpartition("_") if name.endswith(tuple(FILTERS)) else (name, "", "")
    settings = {"img_mean": FILL} | ({"interpolation": FILTERS[how]} if how else {})
    operation = auto_augment.AugmentOp(TIMM[kind], prob=1.0, magnitude=10 * abs(level) / STRONGEST, hparams=settings)
    made = operation(Image.fromarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(made)).permute(2, 0, 1)


@pytest.mark.parametrize("name", OPERATIONS[1:])
@pytest.mark.parametrize("level", [-101, -72, 31, 72, 120])
def test_an_operation_is_timms(name: str, level: int, monkeypatch: pytest.MonkeyPatch):
    auto_augment = pytest.importorskip("timm.data.auto_augment")
    images = pictures()
    for image, found in zip(images, changed(images, name, level), strict=True):
        away = (found.int() - timms(auto_augment, name, level, image, monkeypatch).int()).abs()
        assert away.max() <= 1  # a level where Pillow cuts off fractions of doubles
        assert (away > 0).double().mean() < 0.1


def test_the_operations_are_those_of_the_published_policy():
    auto_augment = pytest.importorskip("timm.data.auto_augment")
    policy = auto_augment.rand_augment_transform("rand-m6-n2-mstd1.0", {"img_mean": FILL})
    assert sorted(each.name for each in policy.ops) == sorted(TIMM[kind] for kind in KINDS)
    assert policy.num_layers == 2
    assert {(each.prob, each.magnitude, each.magnitude_std) for each in policy.ops} == {(own.PROBABILITY, 6, 1.0)}
    assert policy.ops[0].kwargs["resample"] == tuple(FILTERS.values())


def test_plain_formulas():
    images = pictures()
    values = images.int()
    assert torch.equal(changed(images, "invert", 50), 255 - images)
    assert torch.equal(changed(images, "posterize", 72), images // 64 * 64)
    assert torch.equal(changed(images, "posterize", 29), torch.zeros_like(images))
    assert torch.equal(changed(images, "solarize", -60), torch.where(values >= 128, 255 - values, values).byte())
    assert torch.equal(changed(images, "solarize_add", 60), torch.where(values < 128, values + 55, values).byte())
    assert torch.equal(changed(images, "brightness", 72), (values * 1.18).clamp_max(255).byte())
    assert torch.equal(changed(images, "brightness", -72), changed(images, "brightness", 72))
    stretched = changed(images, "autocontrast", 0)
    assert stretched[:4].flatten(2).amin(2).max() == 0
    assert stretched[:4].flatten(2).amax(2).min() == 255
    assert (stretched[4, 1] == 77).all()
    for kind in ("colour", "contrast"):
        grey = changed(images[3:], kind, 60)
        torch.testing.assert_close(grey, images[3:])  # magnitude 5 is a factor of 1
    plain = images[5:]
    assert torch.equal(changed(plain, "sharpness", 120), plain)


def test_images_move_by_whole_pixels_and_leave_the_fill_colour():
    images, fill = pictures(), torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
    for how in FILTERS:
        assert torch.equal(changed(images, f"rotate_{how}", 0), images)
        assert (changed(images, f"translate_y_{how}", 120)[..., 11:, :] == fill).all()
        assert (changed(images, f"translate_y_{how}", -120)[..., :9, :] == fill).all()
        down = changed(images, f"translate_y_{how}", 120)[..., :11, :]
        assert torch.equal(down, images[..., 9:, :])  # 0.45 of 20 pixels


def test_operations_are_drawn_alike_and_applied_half_of_the_time():
    changes = own.draw(20000, 2, 6, 1, stream()).long()
    operation, level = changes.flatten(0, 1).unbind(1)
    applied = operation > 0
    assert abs(applied.double().mean().item() - 0.5) < 0.01
    assert (level[~applied] == 0).all()
    assert set(operation.tolist()) == set(range(len(OPERATIONS)))
    shares = torch.bincount(operation[applied], minlength=len(OPERATIONS))[1:] / applied.sum()
    expected = torch.tensor([1.0] * 10 + [0.5] * 10) / len(KINDS)
    assert (shares - expected).abs().max() < 0.006
    magnitudes = level[applied].abs() * 10 / STRONGEST
    assert abs(magnitudes.mean().item() - 6) < 0.03
    assert abs(magnitudes.std().item() - 1) < 0.03
    assert 0.48 < (level[applied] > 0).double().mean() < 0.52
    assert own.draw(500, 2, 10, 5, stream())[..., 1].abs().max() == STRONGEST


def test_whole_policies_change_images_as_much_as_timms():
    """Mean change of a pixel over many draws, which no operation alone decides."""
    auto_augment = pytest.importorskip("timm.data.auto_augment")
    random.seed(0)
    np.random.seed(0)
    policy = auto_augment.rand_augment_transform("rand-m6-n2-mstd1.0", {"img_mean": FILL})
    images = pictures()[:2].repeat(1000, 1, 1, 1)
    theirs = torch.stack(
        [
            torch.from_numpy(np.array(policy(Image.fromarray(each.permute(1, 2, 0).numpy())))).permute(2, 0, 1)
            for each in images
        ]
    )
    mine = own.change(images, own.draw(len(images), 2, 6, 1, stream()))

    def away(shown: Tensor) -> Tensor:
        return (shown.float() - images.float()).abs().mean((1, 2, 3))

    both = [away(shown) for shown in (theirs, mine)]
    assert abs(both[0].mean() - both[1].mean()) < 4 * (both[0].var() / 2000 + both[1].var() / 2000).sqrt()
    unchanged = [(each == 0).double().mean().item() for each in both]
    assert abs(unchanged[0] - unchanged[1]) < 0.07
