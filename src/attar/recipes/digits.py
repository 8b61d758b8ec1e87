"""Attar's own recipe for scikit-learn's digits: the whole pipeline on real images in a minute or two on a CPU."""

from typing import Any

from attar.data.choice import DataChoice
from attar.methods import cda
from attar.ops.choices import ViewChoice
from attar.recipes.recipe import Entry, Recipe, recipe
from attar.recipes.settings import lasting
from attar.stages import rows
from attar.stages.choices import Experts, Squeeze
from attar.training.choices import Optimisation


def digits() -> Recipe[Any]:
    """CDA on 8x8 digits, 10 images per class.

    Views are small shifts, because a mirrored digit is no digit and a small crop of an 8x8 image shows nothing.
    """
    return recipe(
        name="digits",
        method="cda",
        data=DataChoice(source="digits", size=8),
        squeeze=Squeeze(
            architecture="convnet3",
            training=Optimisation(epochs=20, batch_size=64, learning_rate=0.05, warmup_epochs=1, weight_decay=5e-4),
            views=ViewChoice(crop="padded", padding=1, flip=False),
            # Two blocks for 8 pixels: a third one normalises maps of 2 x 2, and its experts come to 83 instead of 99 %.
            experts=Experts(
                number=8,
                architecture="convnet2_in",
                training=Optimisation(
                    epochs=16, batch_size=256, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0
                ),
                flip=False,
            ),
        ),
        recover=lasting(
            cda.Config(
                ipc=10,
                unit_slots=10,  # one slot of ten classes is too few images for BatchNorm statistics
                iterations=500,
                learning_rate=0.1,
                bn_weight=1.0,
                min_crop=0.5,
                flip=False,
                grey=True,
                jitter=1,
                jitter_both_ways=True,
                snapshots=(25, 50, 100, 250),
            ),
            *("iterations", "learning_rate", "bn_weight", "min_crop", "flip", "grey", "jitter", "jitter_both_ways"),
        ),
        evaluate={
            "protocol": "digits",
            "students": ("convnet3",),
            # Herding and k-centre are optional: the demo measures the gain from distillation and from soft labels.
            "rows": (rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, rows.RANDOM_HARD, rows.FULL),
        },
    )


RECIPES = {
    "digits": Entry(
        aim="no published row; the distilled images must clearly beat random real images with hard labels",
        cost="74 to 92 s on 2 CPU cores for all four stages and fifteen students, measured with 'make demo'",
        build=digits,
    )
}
