"""Scores: what trained students achieve, each kept in a file of its own under all that it depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.ops.metrics import Measured
from attar.stages import given
from attar.stages.distilled import DatasetInfo, LabelInfo, read_info
from attar.stages.folder import MANIFEST, manifest_of
from attar.stages.labeller import Voices
from attar.stages.protocols import Protocol
from attar.stages.rows import Row, SmallSet, images_of, labels_of
from attar.stages.squeeze import Squeeze
from attar.stages.workspace import Workspace
from attar.store import sealed

_NOT_TRAINING = {"name", "version", "views", "mix", "label_batchnorm", "label_batch_size", "learning_rates"}
"""Of a protocol: what it is called, what comes with the labels, and the rates of other students."""
_SOFT_ONLY = {"loss", "temperature", "temperature_squared", "hard_weight", "hard_classes"}
"""Of a protocol: what alters nothing where classes are learnt."""
_NOT_VIEWS = {"mode", "codec", "batch_size", "teachers", "voices"}
"""Of relabel: what alters logits and not what is shown."""


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
    """Of training, on one device."""
    protocol: str
    device: str
    """What the student was trained on."""


@dataclass(frozen=True)
class Job:
    """A student to train, or one whose score is known."""

    row: Row
    student: str
    seed: int
    identity: str
    folder: Path
    """Where its score is kept."""

    @property
    def path(self) -> Path:
        """The score's file. Rows whose students are trained in the very same way share it."""
        student = self.student.replace("/", "-").replace(":", "-")
        return self.folder / f"{student}-seed{self.seed}-{self.identity[:16]}.json"

    def save(self, found: Measured, seconds: float, device: str, losses: list[float]) -> None:
        """Write down what a student achieves."""
        spent = {"seconds": round(seconds, 3), "device": device}
        first = {"row": self.row, "student": self.student, "seed": self.seed}
        score = first | asdict(found) | spent
        sealed.write_json(self.path, {"identity": self.identity, "score": score, "losses": losses})

    def score(self, num_images: int, image_bytes: int, label_bytes: int, protocol: str) -> Score:
        """What was written down, as the score of this row."""
        try:
            written = sealed.read_json(self.path, "delete it, and its student is trained again")
            if written.get("identity", self.identity) != self.identity:
                raise AttarError(f"{self.path} is of another student; delete it, and its student is trained again.")
            kept: dict[str, Any] = written["score"]
        except (KeyError, TypeError):
            raise AttarError(f"{self.path} is damaged; delete it, and its student is trained again.") from None
        kept |= {"row": self.row, "per_class": tuple(kept["per_class"])}
        kept |= {"num_images": num_images, "image_bytes": image_bytes, "label_bytes": label_bytes}
        return Score(**kept, protocol=protocol)


def identity(space: Workspace, student: str, stem: str, seed: int, training: Any) -> str:
    """Of a score: the data that it is measured on, the student, the seed, and what it is trained on and how."""
    who = [student, stem, seed, space.device.precision]
    return digest([space.request(), space.real.fingerprint, who, training])


def full_training(squeezing: Squeeze) -> list[Any]:
    """What tells apart trainings on all real images."""
    how = squeezing.plain()
    return ["full", how["training"], how["views"], how["label_smoothing"]]


def small_training(row: Row, student: str, info: DatasetInfo, made: dict[str, Any], protocol: Protocol) -> list[Any]:
    """What tells apart trainings on small sets; ``made`` is the manifest of relabel.

    The method that made the images is known by its pixels alone, the row by its labels. Classes instead of soft labels
    need no teacher, only the normalisation and the views that come with the set.
    """
    hard = is_hard(row, protocol)
    left_out = _NOT_TRAINING | (_SOFT_ONLY if hard else set())
    how = {key: value for key, value in protocol.plain().items() if key not in left_out}
    how["training"] = protocol.training_of(student).plain()
    asked = dict(made["request"]["relabel"])
    if hard:
        shown = {key: value for key, value in asked.items() if key not in _NOT_VIEWS}
        shown["published"] = made["parents"].get("labels", "")  # whose views are in no request
        return ["hard", info.images_sha256, info.mean, info.std, made["request"] | {"relabel": shown}, how]
    return ["soft", info.images_sha256, made["parents"], made["request"], how]


def title(protocol: Protocol, infos: Sequence[DatasetInfo]) -> str:
    """The protocol in a table: its name, and what the labels brought along in place of what it says."""
    said = protocol.title()
    own = next((own for info in infos if (own := _own_ways(protocol, info.labels))), "")
    return f"{said}, but the labels' own {own}" if own else said


def _own_ways(protocol: Protocol, labels: LabelInfo) -> str:
    mixes = [(mix.kind, mix.alpha if mix.kind != "none" else None) for mix in (labels.mix, protocol.mix)]
    found = ["views"] * (labels.views != protocol.views) + ["mixing"] * (mixes[0] != mixes[1])
    if protocol.loss != "hard":
        batches = [
            (voices.batchnorm, voices.batchnorm_batch if voices.batchnorm == "train" else None)
            for voices in (
                labels.voices,
                Voices(batchnorm=protocol.label_batchnorm, batchnorm_batch=protocol.label_batch_size),
            )
        ]
        found += ["BatchNorm"] * (batches[0] != batches[1])
    found += [f"{labels.epochs} epochs"] * (labels.epochs < protocol.training.epochs)
    return ", ".join(found)


def is_hard(row: Row, protocol: Protocol) -> bool:
    """Whether the row's students learn classes instead of soft labels."""
    return labels_of(row) == "hard" or protocol.loss == "hard"


def facts(
    space: Workspace, protocol: Protocol, row: Row, small: SmallSet | None, recognised: Mapping[str, float]
) -> dict[str, Any]:
    """What a row's training set takes and what was spent on it, in device-seconds; None where that is not known."""
    if small is None:
        sizes = {"num_images": space.train.num_images, "image_bytes": space.real.train.num_bytes(), "label_bytes": 0}
        return sizes | {"teacher_seconds": 0.0, "images_seconds": 0.0, "labels_seconds": 0.0, "teacher_agreement": None}
    info, hard = read_info(small.folder), is_hard(row, protocol)
    return {
        "num_images": info.num_images,
        "image_bytes": info.image_bytes,
        "label_bytes": 0 if hard else info.label_bytes,
        "teacher_seconds": 0.0 if hard and info.method == "random" else _teacher_seconds(space, info),
        "images_seconds": _seconds(small.recovered),
        "labels_seconds": 0.0 if hard else _seconds(small.folder),
        "teacher_agreement": recognised.get(images_of(row)),
    }


def _teacher_seconds(space: Workspace, info: DatasetInfo) -> float | None:
    """None where another one labels beside the run's own: what that one took is not known here."""
    return None if info.further_teachers else _seconds(space.out / "squeeze")


def _seconds(folder: Path) -> float | None:
    """Device-seconds of a stage; None where its folder is not here, or it took along what was made elsewhere."""
    if not (folder / MANIFEST).is_file():
        return None
    made = manifest_of(folder, "run")
    asked = made["request"]
    brought = asked.get("squeeze", {}).get("weights") or asked.get("relabel", {}).get("imported")
    return None if brought or "module" in asked or asked.get("method") == given.METHOD else made["device_seconds"]
