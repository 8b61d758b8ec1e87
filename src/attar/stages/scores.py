"""Scores of trained students; each is a file named by a hash of everything that it depends on."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from attar.core import plugin
from attar.core.config import Config, digest
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.legacy import legacy_identity
from attar.models import build
from attar.models.choices import FORMER_COMMITTEE, CommitteeChoice
from attar.ops.choices import MixChoice
from attar.ops.metrics import Measured
from attar.stages.choices import Relabel
from attar.stages.dataset_info import DatasetInfo, LabelInfo, read_info
from attar.stages.evaluation import PER_CLASS, Fraction, Seconds, first_fault
from attar.stages.folder import FEED, MANIFEST, total
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOL_LABELS, protocol_title
from attar.stages.rows import EQUAL_BYTES, Row, SmallSet
from attar.stages.run import EXPERTS, LabelsMade, images_in, made_in, teacher_folders
from attar.stages.squeeze import Squeeze, ancestors
from attar.stages.workspace import Workspace
from attar.store import atomic, sealed
from attar.store.checkpoint import Checkpoint

Say = Callable[[Config], dict[str, Any]]
"""How a configuration becomes part of an identity: ``Config.identity``, or ``legacy_identity`` for older versions."""
_NOT_TRAINING = {"name", "version", "learning_rates", "cosine_stretches", "learned_rate"}
"""Protocol settings that do not change this student's training."""
_SOFT_ONLY = {"loss", "temperature", "temperature_squared", "hard_weight", "hard_classes"}
"""Protocol settings that have no effect with hard labels."""
_NOT_VIEWS = {"mode", "codec", "batch_size", "teachers", FORMER_COMMITTEE, "committee"}
"""Relabel settings that change logits but not views."""


@dataclass(frozen=True)
class Score:
    """One student's last epoch. Accuracies are fractions of the real validation images."""

    row: Row
    student: str
    seed: int
    top1: float
    top5: float
    per_class: tuple[float | None, ...]
    """Top-1 of each class; None for a class without validation images."""
    ece: float
    """Expected calibration error, a fraction."""
    confidence: float
    """Mean probability of the student's first choice."""
    num_images: int
    image_bytes: int
    label_bytes: int
    seconds: float
    """Wall seconds of training."""
    protocol: str
    device: str
    """Device that the student was trained on."""
    processor_seconds: float | None = None
    """Processor seconds of training, over all cores; None when not measured."""
    diverged: bool = False
    """Training ended in NaN or infinity; the accuracies are meaningless and are excluded from means."""

    @property
    def class_top1(self) -> float:
        """Unweighted mean of the accuracies of all classes that have validation images."""
        return statistics.fmean(share for share in self.per_class if share is not None)


class _Kept(pydantic.BaseModel):
    """Content of a score's file, of any version."""

    student: str
    seed: int = pydantic.Field(ge=0)
    top1: Fraction
    top5: Fraction
    per_class: tuple[Fraction | None, ...]
    ece: Fraction
    confidence: Fraction
    seconds: Seconds
    processor_seconds: Seconds | None = None
    device: str
    diverged: bool = False


@dataclass(frozen=True)
class ScoreFile:
    """The file of one student's score, which may not exist yet."""

    row: Row
    student: str
    seed: int
    identity: str
    folder: Path
    """Folder of the file."""
    former_identity: str = ""
    """Identity that older versions used; a score under this name is found, too."""

    @property
    def path(self) -> Path:
        """The score's file; rows that train identical students share it."""
        now, former = self._path(self.identity), self._path(self.former_identity)
        return former if self.former_identity and former.exists() and not now.exists() else now

    def _path(self, identity: str) -> Path:
        student = self.student.replace("/", "-").replace(":", "-")
        return self.folder / f"{student}-seed{self.seed}-{identity[:16]}.json"

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint of an unfinished training."""
        return Checkpoint(self.folder.parent / "checkpoints" / f"{self.path.stem}.safetensors", self.identity)

    def save(self, found: Measured, elapsed: Elapsed, device: str, losses: list[float], diverged: bool = False) -> None:
        """Write the student's score."""
        known = {key: value for key, value in vars(found).items() if key != "num_broken"}
        known |= {"student": self.student, "seed": self.seed, "device": device, **elapsed.plain()}
        known["diverged"] = diverged or found.num_broken > 0
        plain = [loss if math.isfinite(loss) else None for loss in losses]
        content = {"identity": self.identity, "score": {"row": str(self.row), **known}, "losses": plain}
        sealed.write_json(self.path, content)

    def read(self, num_classes: int) -> dict[str, Any]:
        """Read the file; raises AttarError when it is damaged, impossible, or of another student."""
        fix = "delete it and run the same command again to train its student again"
        try:
            content = sealed.read_json(self.path, fix)
            kept = _Kept.model_validate(content.get("score"))
        except FileNotFoundError:
            raise AttarError(f"{self.path} is missing; run the same command again to train its student.") from None
        except pydantic.ValidationError as error:
            raise AttarError(f"{self.path} is damaged ({first_fault(error)}); {fix}.") from None
        if fault := self._fault(kept, content.get("identity", self.identity), num_classes):
            raise AttarError(f"{self.path} is damaged ({fault}); {fix}.")
        # Written before divergence was marked: a loss is no number, and a student that is sure of nothing answers none.
        losses = content.get("losses") or ()
        broken = any(isinstance(loss, float) and not math.isfinite(loss) for loss in losses)
        return kept.model_dump() | {"diverged": kept.diverged or broken or kept.confidence == 0}

    def score(self, num_classes: int, num_images: int, image_bytes: int, label_bytes: int, protocol: str) -> Score:
        """Read the file as the score of this row; raises AttarError as ``read`` does."""
        return Score(
            **self.read(num_classes),
            row=self.row,
            num_images=num_images,
            image_bytes=image_bytes,
            label_bytes=label_bytes,
            protocol=protocol,
        )

    def _fault(self, kept: _Kept, identity: Any, num_classes: int) -> str:
        known = (kept.student, kept.seed) == (self.student, self.seed)
        if not known or identity not in (self.identity, self.former_identity):
            return f"it belongs to another training, of {kept.student} with seed {kept.seed}"
        shares = [share for share in kept.per_class if share is not None]
        if len(kept.per_class) != num_classes or not shares:
            return f"it has accuracies of {len(kept.per_class)} classes, but the data have {num_classes}"
        if not min(shares) - 1e-9 <= kept.top1 <= max(shares) + 1e-9:
            return f"top1 is {kept.top1:g}, which lies outside the range of the class accuracies"
        return "top5 is below top1" if kept.top5 < kept.top1 else ""


def identities(
    space: Workspace, student: str, stem: str, seed: int, training: Callable[[Say], list[Any]]
) -> tuple[str, str]:
    """Return a score's identity and its former identity: hashes of data, student, seed, training set and training.

    ``training`` returns the last two; it receives the function that turns configurations into plain values. Older
    versions used the former identity, which contains every default.
    """
    who = [student, stem, seed, space.device.precision]
    if build.is_outside(student):
        plugin.reach_working_folder()
        who.append(plugin.source_sha256(student))
    return (
        digest([data_of(space, Config.identity), space.real.fingerprint, who, training(Config.identity)]),
        digest([data_of(space, legacy_identity), space.real.fingerprint, who, training(legacy_identity)]),
    )


def data_of(space: Workspace, say: Say) -> dict[str, Any]:
    """Return the data and the seed of a run as plain values."""
    if say is legacy_identity:
        return {"data": legacy_identity(space.choice), "seed": space.seed}
    return {key: say(part) if isinstance(part, Config) else part for key, part in space.request().items()}


def full_training(space: Workspace, squeezing: Squeeze, say: Say) -> list[Any]:
    """Return what identifies a training on all real images."""
    how = ["full", say(squeezing.training), say(squeezing.views), squeezing.label_smoothing]
    if squeezing.semantic_tree:
        how.append({"tree": digest(ancestors(space, squeezing))})
    return how if say is legacy_identity else [*how, {FEED: space.feed}]


def small_training(
    row: Row, student: str, info: DatasetInfo, made: LabelsMade, protocol: Protocol, say: Say
) -> list[Any]:
    """Return what identifies a training on a small set.

    Images are identified by their pixels, not by their method; a row by its labels. With hard labels the teacher does
    not count, only the set's normalisation and views.
    """
    request = _first_request(made, protocol.training.epochs, say)
    hard = is_hard(row, protocol)
    left_out = _NOT_TRAINING | (_SOFT_ONLY if hard else set())
    how = {key: value for key, value in say(protocol).items() if key not in left_out}
    how["training"] = say(protocol.training_of(student, info.learned))
    if hard:
        shown = {key: value for key, value in request["relabel"].items() if key not in _NOT_VIEWS}
        shown["published"] = made.imported_sha256  # whose views are in no request
        return ["hard", info.images_sha256, info.mean, info.std, request | {"relabel": shown}, how]
    return ["soft", info.images_sha256, made.parents, request, how]


def _first_request(made: LabelsMade, epochs: int, say: Say) -> dict[str, Any]:
    """Return the settings of the labels before epochs were added that these students do not see."""
    request = made.request if say is legacy_identity else made.identity
    enough = [one["epochs"] for one in made.grown if one["epochs"] >= epochs]
    if not enough:
        return request
    labelling = request["relabel"] | {"epochs": min(enough)}
    if say is not legacy_identity and min(enough) == Relabel().epochs:  # an identity leaves defaults out
        del labelling["epochs"]
    return request | {"relabel": labelling}


def title(protocol: Protocol, infos: Sequence[DatasetInfo]) -> str:
    """Return the protocol's name for a table, with the label options in which the stored labels differ from it."""
    said = protocol_title(protocol)
    own = next((own for info in infos if (own := _own_ways(protocol, info.labels))), "")
    return f"{said}, but the labels' own {own}" if own else said


def _own_ways(protocol: Protocol, labels: LabelInfo) -> str:
    found, asked = list[str](), PROTOCOL_LABELS.get(protocol.name)
    if asked is not None:
        found += ["views"] * (labels.views != asked.views) + ["mixing"] * (_mix(labels.mix) != _mix(asked.mix))
        wanted = CommitteeChoice(batchnorm=asked.batchnorm, batchnorm_batch=asked.batchnorm_batch)
        found += ["BatchNorm"] * (protocol.loss != "hard" and _batchnorm(labels.committee) != _batchnorm(wanted))
    found += [f"{labels.epochs} epochs"] * (labels.epochs < protocol.training.epochs and labels.scored != "hard")
    return ", ".join(found)


def _mix(mix: MixChoice) -> tuple[str, float | None]:
    return mix.kind, mix.alpha if mix.kind != "none" else None


def _batchnorm(choice: CommitteeChoice) -> tuple[str, int | None]:
    return choice.batchnorm, choice.batchnorm_batch if choice.batchnorm == "train" else None


def is_hard(row: Row, protocol: Protocol) -> bool:
    """Return whether the row's students train on hard labels."""
    return row.labels == "hard" or protocol.loss == "hard"


def facts(
    space: Workspace, protocol: Protocol, row: Row, small: SmallSet | None, recognised: Mapping[str, float]
) -> dict[str, Any]:
    """Return the bytes of a row's training set and the seconds spent on it; None where unknown."""
    nothing = Elapsed(0.0, 0.0)
    if small is None:
        count, listed = space.train.num_images, len(space.real.train)
        num_bytes = space.real.train.num_bytes() * count // listed  # without those of unreadable images, about
        sizes = {"num_images": count, "image_bytes": num_bytes, "label_bytes": 0}
        costs = _costs(teacher=nothing, images=nothing, labels=nothing)
        return sizes | costs | {"teacher_agreement": None, "all_real": True}
    info, hard = read_info(small.folder), is_hard(row, protocol)
    return {
        "num_images": info.num_images,
        "image_bytes": info.image_bytes,
        "label_bytes": 0 if hard else info.label_bytes,
        **_costs(
            teacher=nothing if hard and not _chosen_by_teacher(small) else _teacher_cost(space),
            images=_images_cost(space, small.recovered),
            labels=nothing if hard else _cost(small.folder),
        ),
        "teacher_agreement": recognised.get(row.images),
        "all_real": row == EQUAL_BYTES and info.num_images == len(space.train_labels),
    }


def _costs(**elapsed: Elapsed | None) -> dict[str, float | None]:
    """Return wall seconds and processor seconds per stage."""
    seconds = {f"{name}_seconds": one and one.seconds for name, one in elapsed.items()}
    return seconds | {f"{name}_processor_seconds": one and one.processor_seconds for name, one in elapsed.items()}


def _chosen_by_teacher(small: SmallSet) -> bool:
    """Return whether a teacher took part in making a set's images; real ones of earlier versions record one in vain."""
    made = images_in(small.recovered)
    return "teacher" in made.parents and made.method != "random"


def _teacher_cost(space: Workspace) -> Elapsed | None:
    """Return the time of all teachers; None when one was imported, because then it is unknown."""
    parts = [_cost(folder) for folder in teacher_folders(space.out / "squeeze")]
    known = [part for part in parts if part is not None]
    return total(known) if known and len(known) == len(parts) else None


def _images_cost(space: Workspace, recovered: Path) -> Elapsed | None:
    """Return the time of making images, with that of the experts that their method matched."""
    own = _cost(recovered)
    if own is None or not images_in(recovered).used_experts:
        return own
    experts = _cost(space.out / "squeeze" / EXPERTS)
    return experts and total([own, experts])


def _cost(folder: Path) -> Elapsed | None:
    """Return the time of a stage; None when its folder is missing or its result was imported."""
    if not (folder / MANIFEST).is_file():
        return None
    made = made_in(folder)
    return None if made.made_elsewhere else made.elapsed


def write_per_class(folder: Path, classes: Sequence[str], titles: Mapping[str, str], scores: Sequence[Score]) -> str:
    """Write every student's accuracy by class to a separate file; returns the file's SHA-256."""
    every = [
        {
            "row": str(score.row),
            "student": score.student,
            "seed": score.seed,
            "diverged": score.diverged,
            "top1": list(score.per_class),
        }
        for score in scores
    ]
    content = {"classes": list(classes), "titles": dict(titles), "scores": every}
    known_by = digest(content)
    atomic.write_text(folder / PER_CLASS, json.dumps(content | {sealed.KEY: known_by}, ensure_ascii=False) + "\n")
    return known_by
