"""Settings of squeeze, relabel and evaluate, as recipes name them. Nothing here imports PyTorch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic

from attar.core.config import BY_CONTENT, NO_EFFECT, Config, worded
from attar.models.choices import CommitteeChoice, Stem, StoredPrecision, with_committee
from attar.ops.choices import AUGMENTATIONS, Augmentation, Codec, LookChoice, MixChoice, RealAugmentation, ViewChoice
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOLS, protocol_named
from attar.stages.rows import ROWS, Row
from attar.training.choices import Optimisation


class Member(Config):
    """One teacher of a committee: the settings in which it differs from squeeze's own."""

    architecture: str | None = None
    """Architecture of this teacher; None: squeeze.architecture."""
    stem: Stem | None = None
    """First layers of torchvision ResNets; None: squeeze.stem."""
    weights: str | None = None
    """Source of the weights, as for squeeze.weights; '': train this teacher here; None: squeeze.weights."""
    training: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Settings of squeeze.training that differ for this teacher, as in {epochs: 1}."""
    views: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Settings of squeeze.views that differ for this teacher, as in {flip: false}."""
    label_smoothing: float | None = None
    """Share of the target that is spread over all classes; None: squeeze.label_smoothing."""


class Experts(Config):
    """Networks trained on the real data with snapshots of their weights, for methods that match trajectories."""

    number: int = pydantic.Field(default=100, ge=1)
    """Experts to train, each with its own initial weights and order of images."""
    architecture: str = "convnet3_in"
    """Network of all experts: a name from 'attar list models' without running statistics (no BatchNorm)."""
    training: Optimisation = Optimisation(
        epochs=50, batch_size=256, learning_rate=0.01, schedule="constant", momentum=0.0, weight_decay=0.0
    )
    """How experts are trained. The weights after each epoch are kept, or the first and last if the method needs only
    those."""
    dsa: tuple[Augmentation, ...] = AUGMENTATIONS
    """Kinds of differentiable Siamese augmentation (arXiv 2102.08259) of the training images: one at random for each
    image."""
    flip: bool = True
    """Let the augmentation mirror images. Turn it off when a mirrored object means something else (digits)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the experts' training. In fp32, as published, trajectories do not depend on what the device is fast
    at; bf16 (autocast: weights and their updates stay in fp32) takes a fraction of the time where processors have
    instructions for it."""

    def kinds(self) -> tuple[Augmentation, ...]:
        """Kinds of augmentation that are drawn."""
        return tuple(kind for kind in self.dsa if kind != "flip" or self.flip)


class Squeeze(Config):
    """Train teachers on the real data, or import them."""

    architecture: str = "resnet18"
    """Teacher network: a name from 'attar list models', or package.module:factory for a class or function of yours."""
    stem: Stem = "auto"
    """First layers of torchvision ResNets: 'small' is 3x3, stride 1, no pooling; 'auto': small up to 112 pixels."""
    weights: str = ""
    """Empty: train the teacher. Otherwise import it: library weights (IMAGENET1K_V1, pretrained), a checkpoint file, or
    a squeeze folder."""
    training: Optimisation = Optimisation(
        epochs=50, batch_size=256, learning_rate=0.2, warmup_epochs=5, weight_decay=1e-4
    )
    """How teachers are trained."""
    views: ViewChoice = ViewChoice()
    """Crops and flips of the training images."""
    augmentation: RealAugmentation = RealAugmentation()
    """What hides and changes these views: Cutout and RandAugment."""
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    semantic_tree: Annotated[str, NO_EFFECT] = ""
    """File with the hierarchy of the classes, lines 'CLASS PARENT': the teacher is trained with the semantic softmax, a
    softmax for each level. Empty: one softmax over all classes."""
    checkpoint_epochs: Annotated[int, NO_EFFECT] = pydantic.Field(default=1, ge=1)
    """Epochs between checkpoints; a killed training continues from the last one."""
    checkpoint_minutes: Annotated[float, NO_EFFECT] = pydantic.Field(default=10.0, gt=0)
    """Minutes between checkpoints inside an epoch."""
    members: tuple[Member, ...] = ()
    """Several teachers: one mapping per teacher with the settings that differ from those above, such as '{architecture:
    convnet3, training: {epochs: 1}}' '{}'. Empty: one teacher. Teachers with equal settings get different seeds."""
    experts: Annotated[Experts, NO_EFFECT] = Experts()
    """Networks that are trained besides the teachers when the method matches trajectories or interpolates weights (mtt,
    tesla, ncfm); other methods ignore these settings."""

    @pydantic.model_validator(mode="after")
    def _members_are_complete(self) -> Self:
        for place, member in enumerate(self.members):
            try:
                self._of(member)
            except pydantic.ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in ("members", place, *first["loc"]))
                raise ValueError(worded(first, key)) from None
            except ValueError as error:
                raise ValueError(f"members.{place}.{error}") from None
        networks = [(one.architecture, one.weights) for one in self.each]
        for place, network in enumerate(networks):
            if network[1] and network in networks[:place]:
                raise ValueError(
                    f"members {networks.index(network)} and {place} are the same network with the same weights "
                    f"({network[1]}); name each once, or give one of them weights: ''"
                )
        return self

    @property
    def each(self) -> tuple[Self, ...]:
        """Return one complete Squeeze per teacher, with the member's settings merged in."""
        return tuple(map(self._of, self.members)) if self.members else (self,)

    def _of(self, member: Member) -> Self:
        own = {
            name: value
            for name in ("architecture", "stem", "weights", "label_smoothing")
            if (value := getattr(member, name)) is not None
        }
        if member.training:
            own["training"] = _laid_over(self.training, member.training, "training")
        if member.views:
            own["views"] = _laid_over(self.views, member.views, "views")
        return self.changed(**own, members=())

    def idle(self) -> dict[str, str]:
        """Training settings, which have no effect when weights are imported."""
        training = ("training", "views", "augmentation", "label_smoothing")
        return dict.fromkeys(training, "teachers that are trained here (--weights '')") if self.weights else {}


def _laid_over(config: Config, values: dict[str, Any], name: str) -> dict[str, Any]:
    unknown = next((key for key in values if key not in type(config).model_fields), None)
    if unknown is not None:
        raise ValueError(f"{name} has no setting '{unknown}'")
    return config.plain() | values


class Relabel(Config):
    """Label views of the images with the teachers' logits."""

    mode: Literal["stored", "online", "given", "none"] = "stored"
    """'stored': compute all labels now and write them to disk; 'online': store the teacher and run it while students
    train; 'given': use the soft labels that the method made with the images, for every view of an image (tesla with
    recover.labels). With 'given' the teachers label sets of real images online. 'none': no soft labels, so students
    learn the classes alone; a run that asks its teachers nothing else trains none."""
    epochs: int = pydantic.Field(default=300, ge=1)
    """Epochs of labels, each with its own views. A student that trains longer reuses them from the first epoch on."""
    pool_epochs: int = pydantic.Field(default=0, ge=0)
    """Label only this many epochs and reuse them in a new order for the other epochs (label pruning, LPLD, arXiv
    2410.15919, which keeps a tenth to a fortieth of the epochs); 0: label all epochs."""
    codec: Codec = Codec()
    """Encoding of stored logits."""
    views: LookChoice = LookChoice()
    """Crops, flips and other augmentation that the teacher labels and the student sees."""
    mix: MixChoice = MixChoice(kind="cutmix")
    """Mixing of images: CutMix, Mixup or none."""
    committee: CommitteeChoice = CommitteeChoice()
    """Which teachers label, and how their logits are combined into one label."""
    teacher_precision: StoredPrecision = "fp32"
    """How the teachers of online labels are stored: 'fp16' halves their bytes, and 'int8' quarters them (integers with
    a scale for each output channel). Students learn from the teachers as they are stored."""
    imported: Annotated[str, BY_CONTENT] = ""
    """Folder of published soft labels in the FKD layout (epoch_E/batch_B.tar), to use instead of the teachers'. Their
    views and mixing replace relabel.views and relabel.mix. Empty: the teachers label."""
    batch_size: Annotated[int, NO_EFFECT] = pydantic.Field(default=256, ge=1)
    """Views per forward pass of the teacher; does not change the labels."""

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.pool_epochs > self.epochs:
            raise ValueError(
                f"pool_epochs ({self.pool_epochs}) is more than epochs ({self.epochs}); lower it, or use 0"
            )
        if self.pool_epochs and self.mode != "stored":
            raise ValueError(f"pool_epochs applies to stored labels only; set it to 0 for mode {self.mode}")
        if self.imported and self.mode != "stored":
            raise ValueError("imported labels are always stored; use mode stored")
        return self

    def idle(self) -> dict[str, str]:
        """The codec, unless labels are stored; what concerns teachers, where they do not label."""
        codec, precision = {"codec": "--mode stored"}, {"teacher_precision": "--mode online"}
        if self.mode == "none":
            return codec | precision | {"committee": "--mode stored or online"}
        return precision if self.mode == "stored" else codec

    @classmethod
    def upgraded(cls, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings of an earlier manifest under their names of today.

        Those that name the committee otherwise give the number of teachers after the first under 'teachers'.
        """
        found = with_committee(made)
        if found is made:
            return made
        members = {"members": list(range(1 + further))} if (further := made.get("teachers")) else {}
        kept = {key: value for key, value in found.items() if key != "teachers"}
        return kept | {"committee": found["committee"] | members}

    @property
    def stored_epochs(self) -> int:
        """Number of epochs of labels that are written to disk."""
        return self.pool_epochs or self.epochs


class Evaluate(Config):
    """Train students and measure them on real validation images."""

    protocol: Protocol = PROTOCOLS["cda"]
    """How students are trained. Files and Python also accept a protocol's name. A name also sets the label options,
    except those that the recipe's relabel section sets itself."""
    students: tuple[str, ...] = ("resnet18",)
    """Student networks to train, from 'attar list models'."""
    student_stem: Stem = "auto"
    """First layers of torchvision ResNets, as for squeeze.stem."""
    num_seeds: int = pydantic.Field(default=3, ge=1)
    """Students trained per row, each with its own initial weights and order of images."""
    rows: tuple[Row, ...] = ROWS
    """Rows of the result table: the distilled set; baselines of real images chosen at random, by herding or by
    k-centre, each with soft or hard labels; as many real images as fit into the distilled set's bytes; and all real
    images. '-noaug' rows use soft labels without augmentation."""
    full_data: Literal["train", "teacher"] = "train"
    """What the row 'full' shows: students trained on all real images as the teacher is, or the teacher itself."""
    baselines: str = ""
    """Folder in which several runs share baselines: sets of real images, and scores that do not depend on the method.
    Empty: keep them in the run's own folder."""

    @pydantic.field_validator("students", "rows")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for place, name in enumerate(value) if name in value[:place]), None)
        if not value or twice:
            raise ValueError(f"'{twice}' is listed twice; list each once" if twice else "list at least one")
        return value

    @pydantic.field_validator("protocol", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return protocol_named(value) if isinstance(value, str) else value
