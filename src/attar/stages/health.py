"""Health checks early in a run: pure functions that find what usually ends in a useless set, and how to mend it.

Each returns a Finding or None. ``Health`` warns of each kind of finding once per stage, also when the run is continued.
The limits are set so that sound runs of the built-in recipes stay well within them.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from attar.core.config import Config
from attar.core.log import Log

DOMINANT = 20.0
"""The other terms of the loss dwarf the cross-entropy above this ratio. Sound runs have up to about 30 (digits)."""
UNCONVINCED = 0.25
"""... and it matters only while the teacher's accuracy on the views covers less than this fraction of the gap from
chance to 100 %. Where views are recognised, the cross-entropy is small because it has done its work."""
EARLY = 0.1
"""Fraction of the iterations, or of a student's epochs, after which these are examined."""
FLAT = 2 / 255
"""An image is of one colour if the standard deviation of its pixels, in each channel, is below this."""
ALIKE = 2 / 255
"""The images of a class are the same if their pixels differ from the class's mean image by less on average."""
SAMPLE = 1024
"""Pixel values of each image that are compared; a few thousand bytes for each class."""
UNSURE = 0.5
"""A teacher is unsure of images if it recognises less than this fraction of them as their class."""
SETTLED_STEPS = 200
"""Students of small sets were at chance after 50 to 100 steps and ended far above it (docs/decisions.md), so they are
examined after this many, or after half of their training if that is shorter."""
LEAST_STEPS = 50
"""Steps after which a student is examined at the earliest: its BatchNorm statistics must have settled."""
TELLING = 0.2
"""With so few validation images that these deviations are more than this, nothing is said."""
DEVIATIONS = 3.0
"""A student is at chance if it is less than this many standard deviations of pure guessing above it."""
_TUPLES = ("flat", "hashes", "labels")


@dataclass(frozen=True)
class Finding:
    """What is wrong, for one warning."""

    check: str
    """Name of the check; a stage warns of each once."""
    text: str
    """What was seen, the likely cause and the setting to change."""


def not_finite(means: Mapping[str, float], unit: str, iteration: int, config: Config) -> Finding | None:
    """Find a loss, or another number of an iteration, that is NaN or infinite."""
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if not broken:
        return None
    rate = _setting(config, "learning_rate", "image_learning_rate")
    mend = f"lower {rate}" if rate else "lower the method's learning rate"
    return Finding(
        "not-finite",
        f"{' and '.join(broken)} of {unit} {'are' if len(broken) > 1 else 'is'} not finite after {iteration} "
        f"iterations, so its images are lost; the steps are probably too long: stop the run and {mend}, or use "
        f"--execution.precision fp32",
    )


def dominant_statistics(
    means: Mapping[str, float], num_classes: int, iteration: int, bn_weight: float
) -> Finding | None:
    """Find a statistics loss that dwarfs the cross-entropy while the teacher does not yet recognise the views.

    ``means`` holds 'loss', 'cross_entropy' and 'view_accuracy' of one iteration; the loss is the sum of all terms.
    """
    entropy, chance = means["cross_entropy"], 1 / num_classes
    ratio = (means["loss"] - entropy) / max(entropy, 1e-6)
    convinced = (means["view_accuracy"] - chance) / (1 - chance)
    if not ratio > DOMINANT or convinced >= UNCONVINCED:
        return None
    return Finding(
        "dominant-statistics",
        f"after {iteration} iterations the statistics loss is {ratio:,.0f} times the cross-entropy, and the teacher "
        f"takes only {means['view_accuracy']:.0%} of the views for their class: the images get the statistics of all "
        f"classes and the content of none; lower --recover.bn-weight (now {bn_weight:g})",
    )


@dataclass(frozen=True)
class Sampled:
    """What is kept of images to compare them."""

    values: UInt8[Tensor, "image value"]
    """Evenly spaced values of each image."""
    flat: tuple[bool, ...]
    """Whether each image is of one colour."""
    hashes: tuple[int, ...]
    """Hash of all bytes of each image."""
    labels: tuple[int, ...]

    @classmethod
    def of(cls, images: UInt8[Tensor, "image 3 height width"], labels: Sequence[int]) -> "Sampled":
        """Sample images on the CPU."""
        flattened = images.flatten(1)
        places = torch.linspace(0, flattened.shape[1] - 1, min(SAMPLE, flattened.shape[1])).long()
        deviation = (images.float() / 255).flatten(2).std(dim=2, correction=0).amax(dim=1)
        hashes = tuple(hash(image.numpy().tobytes()) for image in flattened)
        return cls(flattened[:, places], tuple((deviation < FLAT).tolist()), hashes, tuple(map(int, labels)))

    @classmethod
    def together(cls, parts: Sequence["Sampled"]) -> "Sampled":
        """Join samples of several units."""
        joined = [tuple(chain.from_iterable(getattr(part, name) for part in parts)) for name in _TUPLES]
        return cls(torch.cat([part.values for part in parts]), *joined)


def collapsed(seen: Sampled, classes: Sequence[str], config: Config, photographs: bool) -> Finding | None:
    """Find images of one colour, equal images, or a class whose images are nearly the same.

    ``photographs`` says that the images are photographs as they are, which are not optimised.
    """
    count, rate = len(seen.labels), _setting(config, "learning_rate", "image_learning_rate")
    if num_flat := sum(seen.flat):
        cause = "look at these photographs" if photographs else f"change {rate or 'the settings of the method'}"
        return Finding(
            "flat-images",
            f"{num_flat} of {count} images are of one colour; nothing can be learned from them: "
            + (
                f"{cause}, and remove them from the data"
                if photographs
                else f"the steps are too long or too short, {cause}"
            ),
        )
    if num_same := count - len(set(seen.hashes)):
        mend = "change --seed, or --recover.unit-slots" if not photographs else "remove the duplicates from the data"
        cause = "the real data hold a photograph more than once" if photographs else "they begin and go on alike"
        return Finding("equal-images", f"{num_same} of {count} images are copies of others: {cause}; {mend}")
    alike = _alike(seen)
    if not alike:
        return None
    more = f" and {len(alike) - 1} more classes" if len(alike) > 1 else ""
    diversity = _setting(config, "diversity_weight")
    mend = (
        f"raise {diversity}" if diversity else f"lower {_setting(config, 'min_crop') or rate or '--recover.iterations'}"
    )
    return Finding(
        "equal-classes",
        f"the images of '{classes[alike[0]]}'{more} are nearly the same, so more images per class bring nothing; "
        f"{mend}, or use fewer (--recover.ipc)",
    )


def _alike(seen: Sampled) -> list[int]:
    """Return the classes with several images that are nearly the same."""
    labels, found = torch.tensor(seen.labels), []
    for label in labels.unique().tolist():
        own = seen.values[labels == label].float() / 255
        if len(own) > 1 and float((own - own.mean(0)).abs().mean()) < ALIKE:
            found.append(label)
    return found


def own_images(probabilities: Float[Tensor, "image class"], labels: Int[Tensor, " image"]) -> tuple[float, float]:
    """Return the fraction of images that a teacher recognises, and the mean probability that it gives their class."""
    right = (probabilities.argmax(1) == labels).float().mean()
    return float(right), float(probabilities.gather(1, labels[:, None]).mean())


def unsure_teacher(accuracy: float, confidence: float, unit: str, config: Config) -> Finding | None:
    """Find a teacher that does not recognise the finished images of a unit, which were made for it."""
    if not accuracy < UNSURE:
        return None
    iterations, weight = _setting(config, "iterations"), _setting(config, "bn_weight")
    mends = ", ".join([f"raise {iterations}"] * bool(iterations) + [f"lower {weight}"] * bool(weight))
    stronger = "train a stronger teacher (--squeeze.training.epochs)"
    return Finding(
        "unsure-teacher",
        f"the teacher recognises {accuracy:.0%} of the finished images of {unit} as their class (mean probability "
        f"{confidence:.2f}), so its soft labels will contradict the classes; "
        + " or ".join(filter(None, (mends, stronger))),
    )


def student_at_chance(
    top1: float, num_images: int, num_classes: int, student: str, row: str, epoch: int, num_epochs: int
) -> Finding | None:
    """Find a student that is no better than guessing after a tenth of its training.

    ``top1`` is its accuracy on ``num_images`` real validation images. Guessing has the standard deviation of a binomial
    distribution.
    """
    chance = 1 / num_classes
    spread = DEVIATIONS * math.sqrt(chance * (1 - chance) / num_images)
    if top1 > chance + spread or spread > TELLING:
        return None
    return Finding(
        "student-at-chance",
        f"the student {student} of the row {row} has {top1:.1%} on {num_images} validation images after {epoch} of "
        f"{num_epochs} epochs, about chance ({chance:.1%}): the protocol may be too short for so few images, or its "
        f"learning rate wrong; raise --evaluate.protocol.training.epochs, change "
        f"--evaluate.protocol.training.learning-rate, or use another --protocol",
    )


def examined_epoch(num_epochs: int, steps_per_epoch: int, warmup_epochs: float) -> int:
    """Return the epoch after which a student is examined; 0: never, because the training is too short."""
    half = num_epochs // 2
    if half * steps_per_epoch < LEAST_STEPS:
        return 0
    settled = min(math.ceil(SETTLED_STEPS / steps_per_epoch), half)
    epoch = max(math.ceil(EARLY * num_epochs), settled, math.ceil(warmup_epochs) + 1)
    return epoch if epoch <= half else 0


class Health:
    """Warns of findings in a stage, of each kind once."""

    def __init__(self, log: Log) -> None:
        """``log`` is the stage's; what it has warned of before is not repeated."""
        self._log = log
        self._known = set(recorded(log.path.parent)) if log.path else set[str]()

    def tell(self, finding: Finding | None) -> None:
        """Warn, unless there is nothing to tell, or the same check has told before."""
        if finding is not None and finding.check not in self._known:
            self._known.add(finding.check)
            self._log.warn(finding.text, check=finding.check)


def recorded(folder: Path) -> dict[str, str]:
    """Return the findings in the logs of a stage's folder: the warning's text by the name of its check."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("log*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            if '"check"' not in line:
                continue
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill
                entry = json.loads(line)
                if entry["event"] == "warning":
                    found.setdefault(str(entry["check"]), str(entry["text"]))
    return found


def _setting(config: Config, *names: str) -> str:
    """Return the first of these settings that the method has, as it is typed; '' if it has none."""
    known = [name for name in names if name in type(config).model_fields]
    return f"--recover.{known[0].replace('_', '-')}" if known else ""
