"""The settings that methods are composed of, without PyTorch: ``class Config(Pixels, Crops, Statistics, Starts)``.

Each part adds to what its method needs and costs. What a part does is in the file of its name: ``optimise.py``,
``views.py``, ``statistics.py``, ``starts.py``, ``committee.py``, ``stretches.py``, ``coreset.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from attar.core.errors import AttarError
from attar.synthesis.curriculum import Curriculum
from attar.synthesis.method import MethodConfig, Needs, Stretch, UnitShape

Start = Literal["noise", "real", "patches"]
PatchRule = Literal["lowest", "medium"]
Observe = Literal["batchnorm", "convolution", "patches", "tokens"]
Target = Literal["running", "collected", "class", "mixed"]
Policy = Literal["one", "round-robin", "random", "mean"]


class Pixels(MethodConfig):
    """Optimise the pixels of a unit by Adam until a loss is low."""

    iterations: int = pydantic.Field(default=4000, ge=1)
    """Optimisation steps of each unit."""
    learning_rate: float = pydantic.Field(default=0.25, gt=0)
    """Adam's step size at the start, in units of the pixels: those of the normalised input, or for mosaics [0, 1]."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The step size falls to 0 along half a cosine, or stays."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's two decay rates."""
    start_decay: float = pydantic.Field(default=0.0, ge=0)
    """AdamW's weight decay of what was added to the start: each step takes back this part, times the step size."""
    view_sizes: tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...] = (1.0,)
    """Sizes at which the teacher is shown the views, as fractions of the image's side, each for an equal block of the
    iterations; the pixels that are optimised stay whole. '0.5 1.0' is coarse to fine; with 224 pixels
    '0.893 1.0 0.893 1.0' shows 200, 224, 200, 224 pixels."""
    grey: bool = False
    """Optimise grey images, for grey data: one value a pixel, shown to the teacher in all three channels."""
    keep: Literal["last", "best"] = "last"
    """Keep the last iterate, as published, or the one of lowest loss within the last stretch of iterations at one
    size: losses at different sizes do not compare."""

    @pydantic.model_validator(mode="after")
    def _blocks(self) -> Self:
        if not self.view_sizes:
            raise ValueError("view_sizes is empty; give one size at least, 1.0 for the whole")
        if len(self.view_sizes) > self.iterations:
            raise ValueError(
                f"view_sizes has {len(self.view_sizes)} sizes for {self.iterations} iterations; "
                f"each needs an iteration of its own"
            )
        return self

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """A stretch for each block of ``view_sizes``; neighbours of one size are one stretch."""
        found: list[Stretch] = []
        for side, count in equal_blocks(self.iterations, self.view_sizes):
            if found and found[-1].side == side:
                count += found.pop().iterations
            found.append(Stretch(count, side, teachers=self.passes(unit.num_teachers)))
        return tuple(found)

    def metrics(self) -> tuple[str, ...]:
        """The loss, the cross-entropy in it, and the fraction of views that the teacher takes for their class."""
        return ("loss", "cross_entropy", *super().metrics(), "view_accuracy")


class Crops(MethodConfig):
    """Show the images to the teacher through random crops, flips and shifts."""

    crop: Literal["resized", "none"] = "resized"
    """Look at the images through random resized crops, or always at the whole image."""
    min_crop: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a crop, as a fraction of the image."""
    flip: bool = True
    """Mirror half of the views left to right; off where a mirrored object is another one (digits)."""
    jitter: int = pydantic.Field(default=32, ge=0)
    """Largest circular shift of a view, in pixels of the image's full size, along each axis."""
    jitter_both_ways: bool = False
    """Shift by -jitter to jitter, not only 0 to jitter."""
    views_per_image: bool = False
    """Draw a view for each image, not one for the whole unit as the published scripts do."""


class Curricula(Crops):
    """Crops that begin with the whole image and come to be as small as the others' (CDA)."""

    curriculum: Curriculum = "cosine"
    """How the smallest crop's area falls from 1 to min_crop; 'none' is SRe2L."""
    milestone: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Fraction of the iterations after which the smallest crop has reached min_crop."""


class Statistics(MethodConfig):
    """Match the statistics of a teacher's layers (DeepInversion)."""

    bn_weight: float = pydantic.Field(default=0.01, ge=0)
    """Weight of the statistics against the cross-entropy (r_bn)."""
    first_bn_multiplier: float = pydantic.Field(default=10.0, ge=0)
    """Extra weight of the first layer that is observed."""
    observe: tuple[Observe, ...] = ()
    """Layers whose statistics are matched; empty: BatchNorm layers, or in a teacher without them the other layers that
    normalise ('tokens'). 'batchnorm', 'convolution' and 'tokens' compare what these layers are fed, by channel, and
    'patches' what convolutions are fed, by square of the feature map."""
    target: Target = "running"
    """Statistics to be met: 'running' are the teacher's running statistics, or collected ones for layers without them;
    'collected' are those of the real images; 'class' those of the real images of the unit's classes; 'mixed' is the
    distance from 'running' and from 'class', weighted by class_share."""
    class_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Weight of the distance from the class statistics, for the target 'mixed'."""
    class_variance: Literal["exact", "within"] = "exact"
    """Variance of a class: of all its values, or the mean over its images of each one's own, as EDC publishes it."""
    patch_side: int = pydantic.Field(default=4, ge=1)
    """Side of a patch in pixels of the feature map, for 'patches'."""
    statistics_momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Compare a moving average of the statistics over the iterations, with this momentum; 0 compares the current
    ones."""
    statistics_images: int = pydantic.Field(default=0, ge=0)
    """Real images of each class, drawn at random, from which statistics are collected; 0: all."""

    @pydantic.model_validator(mode="after")
    def _observed(self) -> Self:
        if len(set(self.observe)) < len(self.observe):
            raise ValueError("observe names a kind of layer twice; name each once")
        return self

    def needs(self) -> Needs:
        """A teacher with the layers that are observed; real images where statistics are collected from them."""
        collected = self.target != "running" or any(kind != "batchnorm" for kind in self.observe)
        return super().needs() | Needs(batchnorm=self.observe == ("batchnorm",), real_images=collected)

    def metrics(self) -> tuple[str, ...]:
        """The distance of the statistics, too."""
        return ("bn_distance", *super().metrics())


class Patches(MethodConfig):
    """Choose patches of real images that a teacher has scored."""

    patch_rule: PatchRule = "medium"
    """Which patches of a class are taken: those of lowest cross-entropy (RDED), or those in the middle when they are
    ranked by the teacher's probability of their class (SRe2L++, FADRM; their exact cut is unpublished, this one is
    attar's)."""
    patch_pool: int = pydantic.Field(default=300, ge=1)
    """Real images of each class, drawn at random, out of which patches are chosen; a smaller class is used whole."""
    patch_crops: int = pydantic.Field(default=5, ge=0)
    """Random crops of each image that are scored, of which the one of lowest cross-entropy is kept; 0: the whole
    image, no crop."""
    tiles: int = pydantic.Field(default=1, ge=1)
    """Patches along each side of an image; 2 makes it of four patches at half the side."""

    def uses_patches(self) -> bool:
        """Whether patches are chosen at all."""
        return True

    def idle(self) -> set[str]:
        """How patches are chosen, where there are none."""
        names = {"patch_rule", "patch_pool", "patch_crops", "tiles"}
        return super().idle() | (set() if self.uses_patches() else names)

    def needs(self) -> Needs:
        """Real images, where patches are taken from them."""
        real = self.uses_patches()
        return super().needs() | Needs(real_images=real, stores_real_pixels=real)


class Starts(Patches):
    """Choose what the pixels are before the first iteration."""

    start: Start = "noise"
    """What the pixels begin as: standard normal noise, random real images, or patches of real images that the teacher
    has scored."""

    def uses_patches(self) -> bool:
        """If that is what the pixels begin as."""
        return self.start == "patches"

    def needs(self) -> Needs:
        """Real images, unless the start is noise."""
        real = self.start != "noise"
        return super().needs() | Needs(real_images=real, stores_real_pixels=real)


class Teachers(MethodConfig):
    """Choose which teachers of a committee are asked, and in which order."""

    members: tuple[Annotated[int, pydantic.Field(ge=0)], ...] = ()
    """Teachers that are used, by their place in squeeze (0, 1, ...); empty: all where 'committee' uses several, else
    the first."""
    committee: Policy = "one"
    """How several teachers take turns: 'one' uses the first alone; 'round-robin' one an iteration, in order;
    'random' one an iteration, drawn; 'mean' all in every iteration, with the mean of their losses."""

    @pydantic.field_validator("members")
    @classmethod
    def _members_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((member for place, member in enumerate(value) if member in value[:place]), None)
        if twice is not None:
            raise ValueError(f"teacher {twice} is named twice; name each once")
        return value

    def needs(self) -> Needs:
        """Several teachers, if they take turns."""
        return super().needs() | Needs(teachers="one" if self.committee == "one" else "several")

    def members_of(self, num_teachers: int) -> tuple[int, ...]:
        """The teachers that are used, by index; raises AttarError when one does not exist."""
        beyond = next((member for member in self.members if member >= num_teachers), None)
        if beyond is not None:
            raise AttarError(
                f"--recover.members names teacher {beyond}, and squeeze has {num_teachers} (0 to {num_teachers - 1}); "
                f"name those there are, or add members to squeeze."
            )
        if self.committee == "one":
            return self.members[:1] or (0,)
        return self.members or tuple(range(num_teachers))

    def passes(self, num_teachers: int) -> tuple[float, ...]:
        """Passes through each teacher in one iteration, by the order in which they take turns."""
        if self.committee == "one":
            return super().passes(num_teachers)
        return (1.0 if self.committee == "mean" else 1 / num_teachers,) * num_teachers


class Blocks(Pixels):
    """Optimise in blocks at sizes of their own, with part of the start put back in between (FADRM)."""

    block_sizes: tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...] = (1.0, 1.0, 1.0, 1.0)
    """Sides of the images in each block, as fractions of the stored side; the images themselves are resized. Blocks
    share the iterations equally; the last one is at full size. '0.893 1.0 0.893 1.0' of 224 pixels is 200, 224, 200,
    224."""
    residual: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Share of the start that is mixed into the images after each block but the last (alpha)."""

    @pydantic.model_validator(mode="after")
    def _sizes(self) -> Self:
        if not self.block_sizes or self.block_sizes[-1] != 1.0:
            raise ValueError("the last of block_sizes must be 1.0, the size at which images are stored")
        if len(self.block_sizes) > self.iterations:
            raise ValueError(f"block_sizes has {len(self.block_sizes)} blocks for {self.iterations} iterations")
        if self.view_sizes != (1.0,):
            raise ValueError("view_sizes and block_sizes are two ways to show smaller images; leave view_sizes at 1.0")
        return self

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """A stretch for each block, equal neighbours too: between them the optimiser begins anew."""
        passes = self.passes(unit.num_teachers)
        return tuple(
            Stretch(count, side, teachers=passes) for side, count in equal_blocks(self.iterations, self.block_sizes)
        )


class EarlyLate(Pixels):
    """Let slots join the optimisation one group after the other, so that some are optimised longer (DELT)."""

    rounds: int = pydantic.Field(default=8, ge=1)
    """Groups into which a unit's slots are cut; with fewer slots there are as many groups as slots."""
    round_iterations: int = pydantic.Field(default=500, ge=1)
    """Iterations after which the next group joins."""

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """A stretch for each group: all that have joined take part."""
        rounds = min(self.rounds, unit.num_slots)
        passes, last = self.passes(unit.num_teachers), self.iterations - (rounds - 1) * self.round_iterations
        joined = [-(-unit.num_slots * (place + 1) // rounds) for place in range(rounds)]
        counts = [self.round_iterations] * (rounds - 1) + [last]
        return tuple(Stretch(count, slots=slots, teachers=passes) for count, slots in zip(counts, joined, strict=True))

    @pydantic.model_validator(mode="after")
    def _rounds(self) -> Self:
        if (self.rounds - 1) * self.round_iterations >= self.iterations:
            raise ValueError(
                f"{self.rounds} rounds that start {self.round_iterations} iterations apart do not fit into "
                f"{self.iterations} iterations"
            )
        return self


class Coreset(MethodConfig):
    """Choose real images by a teacher's features."""

    normalise_features: bool = False
    """Scale every image's features to length one before they are compared."""

    def needs(self) -> Needs:
        """Real images, which are stored as they are."""
        return super().needs() | Needs(real_images=True, stores_real_pixels=True)


def equal_blocks(iterations: int, sides: tuple[float, ...]) -> list[tuple[float, int]]:
    """Each side with its number of iterations: equal shares, the whole numbers nearest below and above."""
    ends = [-(-iterations * (place + 1) // len(sides)) for place in range(len(sides))]
    return [(side, end - start) for side, start, end in zip(sides, [0, *ends], ends, strict=False)]
