"""ops/augment.py: shuffled patches against loops, RandAugment against torchvision image by image."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from attar.ops import augment
from attar.ops.augment import OPERATIONS, STRONGEST, RandAugment
from attar.ops.choices import LookChoice
from attar.ops.pixels import from_bytes, to_bytes


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=stream(9))


@pytest.mark.parametrize("factor", [2, 3])
def test_patches_move_as_a_loop_moves_them(factor: int):
    images, side = pictures(5, 12), 12 // factor
    patches = augment.draw_patches(5, factor, stream())
    shown = augment.shuffle(images, patches)
    for image in range(5):
        for place, patch in enumerate(patches[image].tolist()):
            (row, column), (top, left) = divmod(place, factor), divmod(patch, factor)
            here = shown[image, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert torch.equal(here, images[image, :, top * side : (top + 1) * side, left * side : (left + 1) * side])


def test_every_order_of_patches_is_a_permutation_and_they_differ():
    patches = augment.draw_patches(300, 2, stream())
    assert torch.equal(patches.sort(1).values, torch.arange(4, dtype=torch.uint8).expand(300, 4))
    assert len({tuple(order) for order in patches.tolist()}) == 24


def test_pixels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="16 x 16 pixels do not divide into 3 x 3 patches"):
        augment.shuffle(pictures(2), augment.draw_patches(2, 3, stream()))


def reference(name: str, image: Any, signed: float) -> Any:
    """torchvision's own RandAugment step for one image, at a strength of -1 to 1."""
    from torchvision.transforms import v2

    names = {
        **{"identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX"},
        **{"translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "colour": "Color"},
        **{"contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize"},
        **{"autocontrast": "AutoContrast", "equalize": "Equalize"},
    }
    module, transform = v2.RandAugment(), names[name]
    magnitudes, is_signed = module._AUGMENTATION_SPACE[transform]
    sides = image.shape[-2:] if isinstance(image, Tensor) else (image.height, image.width)
    values = magnitudes(STRONGEST + 1, *sides)
    value = 0.0 if values is None else float(values[round(abs(signed) * STRONGEST)])
    if is_signed and signed < 0:
        value = -value
    return module._apply_image_or_video_transform(image, transform, value, InterpolationMode.NEAREST, {})


def same(name: str, level: int, count: int) -> RandAugment:
    """One operation at one level for some images."""
    return RandAugment(torch.tensor([[[OPERATIONS.index(name), level]]], dtype=torch.int8).expand(count, 1, 2))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0, 7, 18, 30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_operation_is_torchvisions(name: str, level: int, sign: int):
    images = pictures(3)
    shown = augment.change(images, same(name, sign * level, 3))
    for image, found in zip(images, shown, strict=True):
        torch.testing.assert_close(found, reference(name, image, sign * level / STRONGEST).clamp(0, 1))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0, 9, -9, 30])
def test_of_bytes_an_operation_makes_what_torchvision_makes_of_a_pillow_image(name: str, level: int):
    images = to_bytes(pictures(3))
    shown = augment.change(images, same(name, level, 3))
    assert shown.dtype == torch.uint8
    for image, found in zip(images, shown, strict=True):
        pillow = reference(name, Image.fromarray(image.permute(1, 2, 0).numpy()), level / STRONGEST)
        away = (found.int() - torch.from_numpy(np.array(pillow)).permute(2, 0, 1).int()).abs()
        moved = name in ("shear_x", "shear_y", "rotate")  # another nearest pixel, where two are as near
        assert (away > 1).double().mean() <= (0.05 if moved else 0)


CHOICES = [
    LookChoice(randaugment_ops=2),
    LookChoice(randaugment_ops=3, randaugment_set="timm", randaugment_place="before-crop"),
]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_steps_follow_one_another_and_images_do_not_touch(choice: LookChoice, kind: torch.dtype):
    images, drawn = pictures(40), augment.draw_changes(40, choice, stream())
    images = images if kind == torch.float32 else to_bytes(images)
    together = augment.change(images, drawn)
    for place in range(40):
        alone, mine = images[place : place + 1], drawn.take(slice(place, place + 1))
        for step in range(choice.randaugment_ops):
            alone = augment.change(alone, RandAugment(mine.changes[:, step : step + 1], drawn.operations, drawn.place))
        torch.testing.assert_close(together[place : place + 1], alone)
    assert together.dtype == kind
    assert ((together >= 0) & (together <= (1 if kind == torch.float32 else 255))).all()


def test_strengths_are_about_the_magnitude():
    changes = augment.draw_changes(4000, CHOICES[0], stream()).changes
    levels = changes[..., 1].abs().double()
    assert abs(levels.mean().item() - 18) < 0.2
    assert abs(levels.std().item() - 3) < 0.2
    assert set(changes[..., 0].flatten().tolist()) == set(range(len(OPERATIONS)))
    assert 0.45 < (changes[..., 1] > 0).double().mean() < 0.55
    strong = LookChoice(randaugment_ops=1, randaugment_magnitude=10, randaugment_std=5)
    assert (augment.draw_changes(50, strong, stream()).changes[..., 1].abs() <= STRONGEST).all()


def test_earlier_draws_stay_the_same():
    """Frozen: labels that are made again draw what they drew."""
    changes = augment.draw_changes(3, CHOICES[0], stream()).changes
    assert changes.tolist() == [[[4, -22], [3, -16]], [[7, 18], [2, 16]], [[1, -16], [9, 21]]]


def test_timms_operations_round_images_to_bytes():
    images, drawn = pictures(20), augment.draw_changes(20, CHOICES[1], stream())
    expected = from_bytes(augment.change(to_bytes(images), drawn))
    assert torch.equal(augment.change(images, drawn), expected)
