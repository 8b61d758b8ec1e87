"""Whether a teacher sees the classes that images stand for."""

import torch
from torch import Tensor, nn

from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation
from attar.stages.agreement import Agreement, teacher_agreement, warning

CLASSES = ("n1", "n2", "n3")


class Brightest(nn.Module):
    """Takes the brightest channel for the class."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_the_fraction_is_that_of_first_choices():
    teacher = Teacher(Brightest(), "brightest", "standard", CLASSES, Normalisation(), 4)
    shown = torch.tensor([0, 1, 2, 0, 0])
    images = (255 * nn.functional.one_hot(shown, 3)).to(torch.uint8)[:, :, None, None].repeat(1, 1, 4, 4)
    found = teacher_agreement(images, torch.tensor([0, 1, 0, 0, 1]), teacher, "cpu", batch_size=2)
    assert found.fraction == 3 / 5
    assert found.per_class == (2 / 3, 1 / 2, None)


def test_a_warning_names_the_worst_classes_by_their_titles():
    titles = {"n2": "tench"}
    text = warning(Agreement(0.4, (0.5, 0.1, None)), CLASSES, titles)
    assert text.startswith("the teacher recognises 40% of the distilled images")
    assert "(worst: 'tench' 10%, 'n1' 50%)" in text
    assert "--recover.iterations" in text
    assert warning(Agreement(0.5, (0.9, 0.1, None)), CLASSES, titles) == ""
