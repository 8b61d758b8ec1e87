"""Attar's own recipes for scikit-learn's digits: the whole pipeline on real images in a minute or two on a CPU."""

from typing import Any

from attar.data.choice import DataChoice
from attar.methods import cda, dm
from attar.ops.choices import ViewChoice
from attar.recipes.published import note
from attar.recipes.recipe import BuiltInRecipe, Recipe, recipe
from attar.recipes.settings import lasting
from attar.stages import rows
from attar.stages.choices import Experts, Squeeze
from attar.synthesis.method import MethodConfig
from attar.training.choices import Optimisation


def _digits(name: str, method: str, config: MethodConfig) -> Recipe[Any]:
    """Views are small shifts: a mirrored digit is another sign, and a tenth of an 8x8 image shows nothing."""
    return recipe(
        name=name,
        method=method,
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
        recover=config,
        evaluate={
            "protocol": "digits",
            "students": ("convnet3",),
            # Herding and k-centre are optional: the demo measures the gain from distillation and from soft labels.
            "rows": (
                *(rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, rows.RANDOM_HARD),
                *(rows.EQUAL_BYTES, rows.FULL),
            ),
        },
    )


def digits() -> Recipe[Any]:
    """CDA on 8x8 digits, 10 images per class."""
    config = cda.Config(
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
    )
    of_data = ("iterations", "learning_rate", "bn_weight", "min_crop", "flip", "grey", "jitter", "jitter_both_ways")
    return _digits("digits", "cda", lasting(config, *of_data))


def matched(ipc: int) -> Recipe[Any]:
    """DM on 8x8 digits; its students need no soft labels."""
    config = dm.Config(
        ipc=ipc,
        unit_slots=ipc,
        unit_classes=5,  # two units, for two processes
        iterations=1000,
        real_batch=64,
        network_width=64,
        flip=False,
        grey=True,
        snapshots=(10, 50, 100, 250),
    )
    of_data = ("iterations", "real_batch", "network_width", "flip", "grey")
    return _digits(f"dm/digits-ipc{ipc}", "dm", lasting(config, *of_data))


RECIPES = {
    **{
        f"dm/digits-ipc{ipc}": BuiltInRecipe(
            published=note(f"no published row; with hard labels {ours} % (random real images: {random} %)"),
            cost="57 s (one image) to about 80 s (ten) on 2 CPU cores with a process for each, with eighteen students",
            build=lambda ipc=ipc: matched(ipc),
        )
        for ipc, ours, random in ((1, "84 to 90", "56 to 63"), (10, "98", "96"))
    },
    "digits": BuiltInRecipe(
        published=note("no published row; the distilled images must clearly beat random real images with hard labels"),
        cost="about 80 s on 2 CPU cores with a process for each, all four stages and eighteen students",
        build=digits,
    ),
}
