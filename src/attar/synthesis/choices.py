"""Groups of settings to compose a method from, as in ``class Config(Pixels, Crops, Statistics, Starts)``.

Each group adds to the method's ``needs`` and ``cost``. The code behind a group is in the file of its name:
``optimise.py``, ``views.py``, ``statistics.py``, ``diversity.py``, ``starts.py``, ``committee.py``. Groups with several
stretches are in ``stretch_choices.py``. Those of methods that choose real images are in ``coreset_choices.py``, of
methods that match distributions in ``matching_choices.py``, of methods that match trajectories in
``trajectory_choices.py``. Nothing here imports PyTorch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from attar.core.errors import AttarError
from attar.ops.votes import Votes
from attar.synthesis.curriculum import Curriculum
from attar.synthesis.method import MethodConfig, Needs, Stretch, UnitShape

Start = Literal["noise", "real", "patches", "easiest", "hardest"]
PatchRule = Literal["lowest", "medium", "highest"]
Observe = Literal["batchnorm", "convolution", "patches", "tokens"]
Target = Literal["running", "collected", "class", "mixed", "group"]
Policy = Literal["one", "round-robin", "random", "mean", "weighted"]


class Pixels(MethodConfig):
    """Optimise the pixels of a unit with Adam."""

    iterations: int = pydantic.Field(default=4000, ge=1)
    """Optimisation steps of each unit."""
    learning_rate: float = pydantic.Field(default=0.25, gt=0)
    """Adam's initial step size, in units of the teacher's normalised input; for mosaics in units of [0, 1] pixels."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """'cosine': the step size falls to 0 along half a cosine; 'constant': it stays the same."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's two decay rates."""
    start_decay: float = pydantic.Field(default=0.0, ge=0)
    """Pull pixels back to their start: each step removes this fraction of the change so far, times the step size."""
    view_sizes: tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...] = (1.0,)
    """Sizes of the views that the teacher sees, as fractions of the image's side. Each size gets an equal share of the
    iterations. The optimised images keep their full size. '0.5 1.0' goes from coarse to fine; at 224 pixels,
    '0.893 1.0 0.893 1.0' shows 200, 224, 200, 224 pixels."""
    grey: bool = False
    """Optimise grey images, for grey data: one value per pixel, copied to all three channels for the teacher."""
    keep: Literal["last", "best"] = "last"
    """'last': keep the last iterate, as published; 'best': keep the iterate with the lowest loss. With several sizes
    'best' compares only the iterations of the last size, because losses at different sizes are not comparable."""

    @pydantic.model_validator(mode="after")
    def _blocks(self) -> Self:
        if not self.view_sizes:
            raise ValueError("view_sizes is empty; give at least one size, such as 1.0 for full size")
        if len(self.view_sizes) > self.iterations:
            raise ValueError(
                f"view_sizes has {len(self.view_sizes)} sizes for {self.iterations} iterations; "
                f"each size needs at least one iteration"
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

    crop: Literal["resized", "padded", "none"] = "resized"
    """'resized': show the teacher random resized crops; 'padded': crops of the image's own size, of the image with a
    border; 'none': show the whole image."""
    padding: int = pydantic.Field(default=4, ge=0)
    """Width in pixels of the border of padded crops."""
    min_crop: float = pydantic.Field(default=0.08, gt=0, le=1)
    """Smallest area of a crop, as a fraction of the image."""
    flip: bool = True
    """Mirror half of the views left to right. Turn it off when a mirrored object means something else (digits)."""
    jitter: int = pydantic.Field(default=32, ge=0)
    """Largest circular shift of a view, in pixels of the image's full size, along each axis."""
    jitter_both_ways: bool = False
    """Shift by -jitter to jitter, not only 0 to jitter."""
    views_per_image: bool = False
    """Draw one view per image; False: one view for the whole unit, as in the published scripts."""

    def idle(self) -> dict[str, str]:
        """Settings of crops that are not drawn, and the direction of no shift."""
        found = {} if self.crop == "padded" else {"padding": "--crop padded"}
        found |= {} if self.crop == "resized" else {"min_crop": "--crop resized"}
        return super().idle() | found | ({} if self.jitter else {"jitter_both_ways": "--jitter above 0"})


class Curricula(Crops):
    """Random crops whose smallest area falls from the whole image to min_crop (CDA)."""

    curriculum: Curriculum = "cosine"
    """How the smallest crop's area falls from 1 to min_crop; 'none' is SRe2L."""
    milestone: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Fraction of the iterations after which the smallest crop has reached min_crop."""

    def idle(self) -> dict[str, str]:
        """The curriculum, unless crops are resized; its end, if there is none."""
        if self.crop != "resized":
            return super().idle() | dict.fromkeys(("curriculum", "milestone"), "--crop resized")
        return super().idle() | ({"milestone": "a --curriculum"} if self.curriculum == "none" else {})


class Statistics(MethodConfig):
    """Match the statistics of a teacher's layers (DeepInversion)."""

    bn_weight: float = pydantic.Field(default=0.01, ge=0)
    """Weight of the statistics against the cross-entropy (r_bn)."""
    first_bn_multiplier: float = pydantic.Field(default=10.0, ge=0)
    """Factor on the weight of the first observed layer."""
    observe: tuple[Observe, ...] = ()
    """Layers whose input statistics are matched; empty: BatchNorm layers, or 'tokens' (other normalisation layers) when
    the teacher has no BatchNorm. 'batchnorm', 'convolution' and 'tokens' match statistics per channel; 'patches'
    matches the inputs of convolutions per square of the feature map."""
    target: Target = "running"
    """Statistics to match. 'running': the teacher's running statistics, or collected ones for layers without them;
    'collected': measured on all real images; 'class': measured on real images of the unit's classes; 'mixed': the
    distance to 'running' plus the distance to 'class', weighted by class_share; 'group': measured on the real images of
    the slot's difficulty group (PSM). A class has one group for each image per class, from easy to hard."""
    class_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Weight of the distance to the class statistics, for the target 'mixed'."""
    class_variance: Literal["exact", "within"] = "exact"
    """Variance of a class. 'exact': over all its values; 'within': mean of each image's own variance (EDC's code)."""
    patch_side: int = pydantic.Field(default=4, ge=1)
    """Side of a patch in pixels of the feature map, for 'patches'."""
    statistics_momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Momentum of a moving average of the statistics over iterations, which is compared with the target; 0: compare the
    current statistics."""
    variance_weight: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the distance of variances against that of means (DWA)."""
    statistics_images: int = pydantic.Field(default=0, ge=0)
    """Random real images per class from which statistics are collected, for targets other than 'group'; 0: all."""
    drop_layers: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the convolutions, drawn anew in each iteration, whose statistics are left out (G-VBSM). BatchNorm layers
    always count."""
    group_passes: int = pydantic.Field(default=0, ge=0)
    """How a group's statistics are measured. 0: exactly, with the teacher in evaluation mode; otherwise as moving
    averages of BatchNorm in training mode, after so many passes through the group (PSM)."""
    group_batch: int = pydantic.Field(default=512, ge=2)
    """Real images per batch of these passes."""

    @pydantic.model_validator(mode="after")
    def _observed(self) -> Self:
        if len(set(self.observe)) < len(self.observe):
            raise ValueError("observe lists a kind of layer twice; list each once")
        return self

    def needs(self) -> Needs:
        """A teacher with the layers that are observed; real images where statistics are collected from them."""
        collected = self.target != "running" or any(kind != "batchnorm" for kind in self.observe)
        batchnorm = self.observe == ("batchnorm",) or self.uses_groups()
        return super().needs() | Needs(batchnorm=batchnorm, real_images=collected)

    def uses_groups(self) -> bool:
        """True when the target is that of difficulty groups."""
        return self.target == "group" or super().uses_groups()

    def idle(self) -> dict[str, str]:
        """Settings of targets and layers that are not used."""
        found = {} if self.target == "mixed" else {"class_share": "--target mixed"}
        found |= {} if self.target in ("class", "mixed") else {"class_variance": "--target class or mixed"}
        found |= {} if "patches" in self.observe else {"patch_side": "patches in --observe"}
        if not {"convolution", "patches"} & set(self.observe):
            found["drop_layers"] = "convolution or patches in --observe"
        if self.target == "group":
            found["statistics_images"] = "a --target other than group"
            found |= {} if self.group_passes else {"group_batch": "--group-passes above 0"}
            return super().idle() | found
        if self.target == "running" and self.observe == ("batchnorm",):
            found["statistics_images"] = "another --target, or other layers in --observe"
        return super().idle() | found | dict.fromkeys(("group_passes", "group_batch"), "--target group")

    def metrics(self) -> tuple[str, ...]:
        """The distance of the statistics, too."""
        return ("bn_distance", *super().metrics())


class Diverse(MethodConfig):
    """Keep the images of a class different from one another (data densification of G-VBSM)."""

    diversity_weight: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the term; 0: leave it out."""
    diversity_temperature: float = pydantic.Field(default=4.0, gt=0)
    """Temperature at which the eigenvalues of a class's images are the target for their softmax."""
    diversity_products: Literal["sum", "mean"] = "sum"
    """Products of two images, whose eigenvalues are compared. 'sum': over all pixels, as in the released code, where
    the largest eigenvalue is so large that the term is nearly always 0; 'mean': over pixels, which makes it count."""

    def idle(self) -> dict[str, str]:
        """Settings of the term, if it is left out."""
        settings = dict.fromkeys(("diversity_temperature", "diversity_products"), "--diversity-weight above 0")
        return super().idle() | ({} if self.diversity_weight else settings)

    def metrics(self) -> tuple[str, ...]:
        """The term, if it is not left out."""
        return (*(["diversity"] if self.diversity_weight else []), *super().metrics())


class Patches(MethodConfig):
    """Choose patches of real images by a teacher's score."""

    patch_rule: PatchRule = "medium"
    """Which patches of a class to take. 'lowest': those with the lowest cross-entropy (RDED); 'medium': those in the
    middle of the ranking by the teacher's probability of their class (DELT; SRe2L++ and FADRM, whose exact rule is
    unpublished); 'highest': those with the highest cross-entropy."""
    patch_pool: int = pydantic.Field(default=300, ge=1)
    """Random real images per class from which patches are chosen; a smaller class is used whole."""
    patch_crops: int = pydantic.Field(default=5, ge=0)
    """Random crops scored per image; the crop with the lowest cross-entropy is kept. 0: use the whole image."""
    tiles: int = pydantic.Field(default=1, ge=1)
    """Patches along each side of an image; 2 makes an image of four patches, each half as wide."""
    tile_ranks: Literal["next", "spread"] = "next"
    """Which ranked patches an image of several gets. 'next': the first image the best, the second the next best, and so
    on, so that a set can grow; 'spread': tile k of image s the rank k * ipc + s, so that all images are alike (RDED's
    script)."""

    def grows(self) -> bool:
        """Not with spread ranks, which depend on the number of images per class."""
        return super().grows() and not (self.uses_patches() and self.tiles > 1 and self.tile_ranks == "spread")

    def uses_patches(self) -> bool:
        """Whether patches are chosen at all."""
        return True

    def real_per_image(self) -> int:
        """One real image for each patch."""
        return self.tiles**2 if self.uses_patches() else super().real_per_image()

    @pydantic.model_validator(mode="after")
    def _pool(self) -> Self:
        needed = self.ipc * self.tiles**2
        if self.uses_patches() and needed > self.patch_pool:
            raise ValueError(
                f"patch_pool ({self.patch_pool}) is smaller than the number of patches per class ({needed}); raise it, "
                f"or lower ipc"
            )
        return self

    def idle(self) -> dict[str, str]:
        """Patch settings, which have no effect when no patches are used."""
        names = ("patch_rule", "patch_pool", "patch_crops", "tiles", "tile_ranks")
        tiled = {} if self.tiles > 1 else {"tile_ranks": "--tiles 2 or more"}
        return super().idle() | (tiled if self.uses_patches() else dict.fromkeys(names, "--start patches"))

    def needs(self) -> Needs:
        """Real images, where patches are taken from them."""
        real = self.uses_patches()
        return super().needs() | Needs(real_images=real, stores_real_pixels=real)


class Starts(Patches):
    """Choose the pixels before the first iteration."""

    start: Start = "noise"
    """Pixels before the first iteration: 'noise' (standard normal), 'real' (random real images), 'patches' (patches of
    real images, chosen by the teacher's score), or 'easiest' or 'hardest' (the easiest or hardest real image of the
    slot's difficulty group; a class has one group for each image per class)."""
    start_flip: bool = False
    """Mirror half of the starts left to right, as EDC's scripts do; not where 'flip' is off, and not noise."""

    def uses_patches(self) -> bool:
        """True when the start is 'patches'."""
        return self.start == "patches"

    def idle(self) -> dict[str, str]:
        """Whether starts are mirrored, which has no effect for noise."""
        return super().idle() | ({"start_flip": "--start other than noise"} if self.start == "noise" else {})

    def uses_groups(self) -> bool:
        """True when the start is an image of a difficulty group."""
        return self.start in ("easiest", "hardest") or super().uses_groups()

    def needs(self) -> Needs:
        """Real images, unless the start is noise; teachers with BatchNorm where they judge difficulty."""
        real = self.start != "noise"
        return super().needs() | Needs(real_images=real, stores_real_pixels=real, batchnorm=self.uses_groups())


class Teachers(Votes, MethodConfig, defaults={"prior_temperature": 5.0}):
    """Choose which teachers of a committee are used, in which order and with which weights."""

    members: tuple[Annotated[int, pydantic.Field(ge=0)], ...] = ()
    """Numbers of the teachers to use, in the order of squeeze.members, from 0; empty: all teachers, or only the first
    when committee is 'one'."""
    committee: Policy = "one"
    """How teachers take turns. 'one': only the first; 'round-robin': one per iteration, in order; 'random': one per
    iteration, drawn at random; 'mean': all in every iteration, with the mean of their losses; 'weighted': the same,
    with the mean weighted by weights or priors."""

    @pydantic.field_validator("members")
    @classmethod
    def _members_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((member for place, member in enumerate(value) if member in value[:place]), None)
        if twice is not None:
            raise ValueError(f"teacher {twice} is named twice; name each once")
        return value

    def idle(self) -> dict[str, str]:
        """Settings of the weights, which have no effect without the policy 'weighted'."""
        return super().idle() | self.idle_votes(self.committee, "--committee")

    def needs(self) -> Needs:
        """Several teachers, if they take turns."""
        return super().needs() | Needs(teachers="one" if self.committee == "one" else "several")

    def members_of(self, num_teachers: int) -> tuple[int, ...]:
        """The teachers that are used, by index; raises AttarError when one does not exist, or weights do not fit."""
        beyond = next((member for member in self.members if member >= num_teachers), None)
        if beyond is not None:
            raise AttarError(
                f"--recover.members names teacher {beyond}, but the run has "
                f"{'only teacher 0' if num_teachers == 1 else f'teachers 0 to {num_teachers - 1}'}; add it to "
                f"--squeeze.members."
            )
        found = self.members or tuple(range(num_teachers))
        self.refuse_unfit(self.committee, len(found), "--recover", "--recover.committee")
        return found[:1] if self.committee == "one" else found

    def passes(self, num_teachers: int) -> tuple[float, ...]:
        """Passes through each teacher in one iteration, by the order in which they take turns."""
        if self.committee == "one":
            return super().passes(num_teachers)
        return (1.0 if self.committee in ("mean", "weighted") else 1 / num_teachers,) * num_teachers


def equal_blocks(iterations: int, sides: tuple[float, ...]) -> list[tuple[float, int]]:
    """Return each side with its number of iterations; shares are equal up to rounding."""
    ends = [-(-iterations * (place + 1) // len(sides)) for place in range(len(sides))]
    return [(side, end - start) for side, start, end in zip(sides, [0, *ends], ends, strict=False)]
