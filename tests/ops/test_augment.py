"""ops/augment.py: shuffled patches against loops, RandAugment against torchvision image by image."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from attar.ops import augment
from attar.ops.augment import OPERATIONS, STRONGEST


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


def reference(name: str, image: Tensor, signed: float) -> Tensor:
    """torchvision's own RandAugment step for one image, at a strength of -1 to 1."""
    from torchvision.transforms.v2 import RandAugment

    names = {
        **{"identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX"},
        **{"translate_y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "colour": "Color"},
        **{"contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize"},
        **{"autocontrast": "AutoContrast", "equalize": "Equalize"},
    }
    module, transform = RandAugment(), names[name]
    magnitudes, is_signed = module._AUGMENTATION_SPACE[transform]
    values = magnitudes(STRONGEST + 1, *image.shape[-2:])
    value = 0.0 if values is None else float(values[round(abs(signed) * STRONGEST)])
    if is_signed and signed < 0:
        value = -value
    return module._apply_image_or_video_transform(image, transform, value, InterpolationMode.NEAREST, {})


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("level", [0, 7, 18, 30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_operation_is_torchvisions(name: str, level: int, sign: int):
    images = pictures(3)
    changes = torch.tensor([[[OPERATIONS.index(name), sign * level]]], dtype=torch.int8).expand(3, 1, 2)
    shown = augment.change(images, changes)
    for image, found in zip(images, shown, strict=True):
        torch.testing.assert_close(found, reference(name, image, sign * level / STRONGEST).clamp(0, 1))


def test_steps_follow_one_another_and_images_do_not_touch():
    images, changes = pictures(40), augment.draw_changes(40, 2, 6, 1, stream())
    together = augment.change(images, changes)
    for place in range(40):
        alone = images[place : place + 1]
        for step in range(2):
            alone = augment.change(alone, changes[place : place + 1, step : step + 1])
        torch.testing.assert_close(together[place : place + 1], alone)
    assert ((together >= 0) & (together <= 1)).all()


def test_strengths_are_about_the_magnitude():
    changes = augment.draw_changes(4000, 2, 6, 1, stream())
    levels = changes[..., 1].abs().double()
    assert abs(levels.mean().item() - 18) < 0.2
    assert abs(levels.std().item() - 3) < 0.2
    assert set(changes[..., 0].flatten().tolist()) == set(range(len(OPERATIONS)))
    assert 0.45 < (changes[..., 1] > 0).double().mean() < 0.55
    assert (augment.draw_changes(50, 1, 10, 5, stream())[..., 1].abs() <= STRONGEST).all()
