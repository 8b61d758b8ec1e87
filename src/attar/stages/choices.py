"""The settings of the stages, as a recipe names them, without PyTorch: what they do is in the files of their names."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic

from attar.core.config import BY_CONTENT, NO_EFFECT, Config
from attar.models.choices import CommitteeChoice, Stem, committee_of_voices
from attar.ops.choices import Codec, LookChoice, MixChoice, ViewChoice
from attar.stages.protocols import PROTOCOLS, Protocol, protocol_named
from attar.stages.rows import ROWS, Row
from attar.training.choices import Optimisation


class Member(Config):
    """A teacher of a committee: its settings where they differ from squeeze's own."""

    architecture: str | None = None
    """Its architecture; None: squeeze.architecture."""
    stem: Stem | None = None
    """First layers of torchvision ResNets; None: squeeze.stem."""
    weights: str | None = None
    """Where its weights are from, '' to train it here; None: squeeze.weights."""
    training: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Settings of squeeze.training that differ for this teacher, as in {epochs: 1}."""
    views: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Settings of squeeze.views that differ for this teacher, as in {flip: false}."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes; None: squeeze.label_smoothing."""


class Squeeze(Config):
    """Train teachers on the real data, or import them."""

    architecture: str = "resnet18"
    """The teacher: a name from 'attar list models', or package.module:factory (a class or function of yours)."""
    stem: Stem = "auto"
    """First layers of torchvision ResNets: 'small' is 3x3, stride 1, no pooling; auto: small up to 112 pixels."""
    weights: str = ""
    """Empty: train here. Else a library's own (IMAGENET1K_V1, pretrained), a checkpoint file, a squeeze folder."""
    training: Optimisation = Optimisation(
        epochs=50, batch_size=256, learning_rate=0.2, warmup_epochs=5, weight_decay=1e-4
    )
    """How a teacher is trained here."""
    views: ViewChoice = ViewChoice()
    """Augmentation of the training images."""
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target spread over all classes."""
    checkpoint_epochs: Annotated[int, NO_EFFECT] = pydantic.Field(default=1, ge=1)
    """Epochs between checkpoints; a killed training continues from the last one."""
    members: tuple[Member, ...] = ()
    """Several teachers, a mapping for each that holds what differs from the settings above, as in '{architecture:
    convnet3, training: {epochs: 1}}' '{}'; empty: one teacher. Teachers of equal settings differ by their seeds."""

    @pydantic.model_validator(mode="after")
    def _members_are_complete(self) -> Self:
        for place, member in enumerate(self.members):
            try:
                self._of(member)
            except pydantic.ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in ("members", place, *first["loc"]))
                raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
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
        """The settings of every teacher, each as those of a squeeze with this teacher alone."""
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

    def idle(self) -> set[str]:
        """How a teacher would be trained, where it is given by its weights."""
        return {"training", "views", "label_smoothing"} if self.weights else set()


def _laid_over(config: Config, values: dict[str, Any], name: str) -> dict[str, Any]:
    unknown = next((key for key in values if key not in type(config).model_fields), None)
    if unknown is not None:
        raise ValueError(f"{name} has no setting '{unknown}'")
    return config.plain() | values


class Relabel(Config):
    """Label views of the images with the teachers' logits."""

    mode: Literal["stored", "online"] = "stored"
    """'stored': write every label down; 'online': keep the teacher with the images and ask it during training."""
    epochs: int = pydantic.Field(default=300, ge=1)
    """Epochs of different views; a student that trains longer starts over with the first."""
    pool_epochs: int = pydantic.Field(default=0, ge=0)
    """Label only so many epochs and deal them out anew through all others (label pruning, LPLD, arXiv 2410.15919: a
    tenth to a fortieth of the epochs); 0: label all."""
    codec: Codec = Codec()
    """How stored logits are encoded."""
    views: LookChoice = LookChoice()
    """Crops, flips and further augmentation that the student will see."""
    mix: MixChoice = MixChoice(kind="cutmix")
    """How images are mixed."""
    committee: CommitteeChoice = CommitteeChoice()
    """Which teachers label, and how their answers become one label."""
    imported: Annotated[str, BY_CONTENT] = ""
    """A folder of soft labels in the published FKD layout (epoch_E/batch_B.tar) that are taken in place of a teacher's,
    with the views and mixing that stand in them; empty: ask the teacher."""
    batch_size: Annotated[int, NO_EFFECT] = pydantic.Field(default=256, ge=1)
    """Views that the teacher labels at a time; no part of the result."""

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.pool_epochs > self.epochs:
            raise ValueError(
                f"pool_epochs ({self.pool_epochs}) is more than epochs ({self.epochs}); lower it, or use 0"
            )
        if self.pool_epochs and self.mode == "online":
            raise ValueError("pool_epochs is for stored labels; online ones take no room, so leave it at 0")
        if self.imported and self.mode == "online":
            raise ValueError("imported labels are stored labels; leave out mode online")
        return self

    def idle(self) -> set[str]:
        """How labels would be stored, where none are."""
        return {"codec"} if self.mode == "online" else set()

    @classmethod
    def upgraded(cls, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """The committee, from the settings 'voices' and 'teachers' of manifests until 26 November 2026."""
        if "voices" not in made:
            return made
        committee = committee_of_voices(made["voices"])
        if further := made.get("teachers"):  # their number
            committee["members"] = list(range(1 + further))
        return {key: value for key, value in made.items() if key not in ("voices", "teachers")} | {
            "committee": committee
        }

    @property
    def stored_epochs(self) -> int:
        """Epochs of labels that are written."""
        return self.pool_epochs or self.epochs


class Evaluate(Config):
    """Train students and measure them on real validation images."""

    protocol: Protocol = PROTOCOLS["cda"]
    """How students are trained; in a file or in Python a name will do. A name also sets those label options that the
    recipe's relabel section does not set."""
    students: tuple[str, ...] = ("resnet18",)
    """Networks to train, from 'attar list models'."""
    student_stem: Stem = "auto"
    """First layers of torchvision ResNets, as for the teacher."""
    num_seeds: int = pydantic.Field(default=3, ge=1)
    """Trainings of each row, from different initial weights and orders."""
    rows: tuple[Row, ...] = ROWS
    """Rows of the table: the distilled set, real images chosen at random, by herding and by k-centre, each with soft
    and with hard labels, and all real images; '-noaug' rows have soft labels of the images as they are."""
    full_data: Literal["train", "teacher"] = "train"
    """The row of all real images: train students as the teacher is trained, or show the teacher itself."""
    baselines: str = ""
    """A folder that several runs share: sets of real images, and scores that don't depend on the method; '' keeps them
    in the run's own folder."""

    @pydantic.field_validator("students", "rows")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for place, name in enumerate(value) if name in value[:place]), None)
        if not value or twice:
            raise ValueError(f"'{twice}' is named twice; name each once" if twice else "name one at least")
        return value

    @pydantic.field_validator("protocol", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return protocol_named(value) if isinstance(value, str) else value
