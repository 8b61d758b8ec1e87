"""Choose a whole recipe for someone's own pictures from counts and sizes; every choice has a reason.

The rules follow the measurements in docs/methods.md. Nothing here reads a picture or imports PyTorch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from attar.core.errors import AttarError
from attar.core.log import readable_bytes
from attar.data.choice import DataChoice
from attar.data.survey import Survey
from attar.methods import attar as own
from attar.methods import dm, random
from attar.ops.choices import ViewChoice
from attar.recipes import network_cost, reasons
from attar.recipes.chosen_set import FEWEST, NUM_SEEDS, TINY, ChosenSet, Labels
from attar.recipes.network_cost import Network
from attar.recipes.reasons import Reason
from attar.recipes.recipe import Recipe, recipe, relabel_section
from attar.stages import rows
from attar.stages.choices import Evaluate, Member, Squeeze
from attar.stages.protocols import PROTOCOLS
from attar.synthesis.method import MethodConfig
from attar.training.choices import Optimisation

SIDES = (32, 48, 64, 96, 128, 224)
"""Sides in pixels to choose from, for pictures that have at least as many."""
FEW = 5000
"""With fewer pictures a fifth of each class is held out for validation, else a tenth."""
IPC = 10
"""Images per class without a budget."""
WORTHWHILE, WORTHWHILE_BYTES = 0.75, 0.5
"""Images and stored teachers take no more of the bytes of all real pictures, without and with a budget. A budget that
holds as many real pictures is given to these."""
SHARE = 5
"""Without a budget the set has no more than one in so many training pictures."""
MINUTES = 45
"""Minutes that a run may take, about; a smaller size is chosen where it would take longer."""
_SIDED = {"left", "right", "clockwise", "anticlockwise", "counterclockwise", "digit", "digits", "letter", "letters"}
"""Words in class names that say that a mirrored picture means something else."""


_UNMIRRORED = "--recover.flip false --squeeze.views.flip false --relabel.views.flip false"
"""The settings that keep pictures from being mirrored."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for, and the device that is to do it."""

    budget: int | None = None
    """Bytes that images and labels may take together."""
    ipc: int | None = None
    """Images per class."""
    size: int | None = None
    """Side of the images in pixels."""
    holdout: float | None = None
    """Fraction of each class to hold out for validation."""
    skips: bool = False
    """Leave out pictures that cannot be read, where a run would stop at them."""
    every_class: bool = False
    """Keep classes with few pictures, too."""
    own_teachers: tuple[int, ...] = ()
    """Bytes of each teacher that the user brings, as it is stored; 0 if it is of the chosen network."""
    teacher_bytes: int = 0
    """Bytes of each teacher that is trained, as it is stored, if the user named its network."""
    real: bool | None = None
    """Whether the budget is for real pictures as they are: True with --method random, False with settings of a method
    that distils; None: if it holds most of them."""
    gpu: bool = False
    speed: float = 4e10
    """Multiplications and additions a second, about."""


@dataclass(frozen=True)
class Chosen:
    """A recipe for a dataset, with the reasons of its choices and what the user should know."""

    recipe: Recipe[Any]
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    made: ChosenSet
    speed: float
    """Operations a second of this device, about."""
    stops: str = ""
    """Why a run would stop at once: which pictures cannot be read, if they are not to be left out."""

    def header(self) -> str:
        """The reasons as a comment for the recipe's file."""
        return "\n".join(f"{one.what}: {one.choice} ({one.why})" for one in self.reasons)


def choose(source: str, found: Survey, wishes: Wishes) -> Chosen:
    """Choose the recipe for the dataset ``source``.

    Raises AttarError when fewer than two classes have enough pictures, or the budget holds no image of each class.
    """
    kept = [True] * len(found.classes) if wishes.every_class else _kept(found)
    counts = [count for count, keep in zip(found.counts, kept, strict=True) if keep]
    classes = tuple(name for name, keep in zip(found.classes, kept, strict=True) if keep)
    holdout = wishes.holdout or (0.2 if sum(counts) < FEW else 0.1)
    train = [count for count, keep in zip(found.training(holdout), kept, strict=True) if keep]
    made, why_size, why_labels, why_ipc = _set(found, classes, train, wishes)
    asked_real = made.real and wishes.real is True
    mirrored, why_mirrored = _mirrored(found.classes)
    views = _teacher_views(made.size, mirrored)
    whole = _recipe(source, made, mirrored, found, views, holdout, () if all(kept) else classes)
    whole = whole.changed(budget_bytes=wishes.budget or 0)
    told = (
        reasons.pictures(found),
        *reasons.unreadable(found, wishes.skips),
        *reasons.left_out(found, kept),
        reasons.validation(found, holdout, sum(counts), sum(train)),
        Reason("input size", f"{made.size} x {made.size} pixels", why_size),
        Reason("colour", "grey" if found.grey else "colour", reasons.why_grey(found.grey)),
        Reason("mirrored", "yes" if mirrored else "no", why_mirrored),
        reasons.network(made),
        reasons.teachers(made),
        Reason("method", whole.method, "as you asked" if asked_real else reasons.why_method(made)),
        Reason("labels", made.labels, why_labels),
        Reason("images per class", f"{made.ipc} ({made.num_images} images)", why_ipc),
        reasons.stored(made),
        reasons.students(made),
        reasons.time(made, wishes.speed),
    )
    told_of = reasons.warnings(made, min(train), wishes.ipc, wishes.budget, asked_real=asked_real)
    stops = "" if found.damage is None or wishes.skips else found.damage.stopped()
    return Chosen(whole, told, told_of, made, wishes.speed, stops)


def _kept(found: Survey) -> list[bool]:
    """Whether each class is kept."""
    kept = [count >= FEWEST for count in found.counts]
    if sum(kept) < 2:
        raise AttarError(
            f"Only {sum(kept)} of {len(found.classes)} classes have {FEWEST} training pictures or more; add pictures, "
            f"or name a recipe and the classes: attar run digits --data.source FOLDER --data.classes A B."
        )
    return kept


def _set(
    found: Survey, classes: tuple[str, ...], train: Sequence[int], wishes: Wishes
) -> tuple[ChosenSet, str, str, str]:
    """Return the set to make, and the reasons of its size, its labels and its images per class.

    Sizes are tried from the largest; the first that fits the budget and the time is taken.
    """
    sides = [wishes.size] if wishes.size else _sides(found)
    refused = ""
    for side in sides:
        made, why_labels, why_ipc = _at(found, network_cost.network_for(side), classes, train, wishes)
        minutes = made.operations() / wishes.speed / 60 if made.ipc else 0.0
        if made.ipc and (minutes <= MINUTES or side == sides[-1]):
            return made, "as you asked" if wishes.size else reasons.why_size(found, side, refused), why_labels, why_ipc
        if not made.ipc:
            refused = f"at {side} the budget holds not one image per class"
        else:
            refused = f"{side} would take about {reasons.hours(minutes)} here, reckoned; {MINUTES} are the limit"
    least = ChosenSet(network_cost.network_for(sides[-1]), "hard", 1, classes, sum(train), wishes.gpu, 0).num_bytes
    raise AttarError(
        f"{readable_bytes(wishes.budget or 0)} hold no image of each of {len(classes)} classes; the least is about "
        f"{readable_bytes(least)}. Raise --budget, or choose fewer classes with --data.classes."
    )


def _sides(found: Survey) -> list[int]:
    """The sides to try, the largest first: none is larger than half of the pictures' shorter sides."""
    short = int(median(min(size) for size in found.sizes))
    if short < SIDES[0]:
        return [max(8, short if len(set(found.sizes)) == 1 else short // 4 * 4)]
    return [side for side in reversed(SIDES) if side <= short]


def _at(
    found: Survey, network: Network, classes: tuple[str, ...], train: Sequence[int], wishes: Wishes
) -> tuple[ChosenSet, str, str]:
    """Return the set with images of this size, 0 per class if none fits; and why its labels and its number."""
    picture_bytes = network_cost.picture_bytes(network.size)
    if found.stored_bytes is not None:
        kind = network_cost.format_for(network.size)
        picture_bytes = network_cost.row_bytes(found.stored_bytes(network.size, kind, network_cost.QUALITY))
    base = ChosenSet(network, "hard", 0, classes, sum(train), wishes.gpu, picture_bytes)
    base = replace(base, own_teachers=wishes.own_teachers, named_bytes=wishes.teacher_bytes)
    if wishes.budget is not None:
        return _within(base, min(train), wishes, wishes.budget)
    ipc, why_ipc = _usual(base, min(train), wishes.ipc)
    labels, why = _labels(replace(base, ipc=ipc, labels="soft"), None)
    return replace(base, ipc=ipc, labels=labels), why, why_ipc


def _within(base: ChosenSet, smallest: int, wishes: Wishes, budget: int) -> tuple[ChosenSet, str, str]:
    """Return the set that a budget holds, with 0 images per class if it holds none; and why its labels and its number.

    Unless a number of images or a method was asked for, a budget for half of the real pictures is given to these, and a
    set that is distilled takes no more than half of their bytes.
    """
    asked, limit = wishes.ipc, budget
    most = min(smallest, asked or smallest)
    real = replace(base, real=True)
    real = replace(real, ipc=real.most_ipc(budget, most))
    holds_most = asked is None and real.num_images >= WORTHWHILE_BYTES * base.num_train
    if wishes.real or (holds_most and wishes.real is None):
        why = "real pictures with their classes; teachers would take bytes from them"
        return real, why, "as you asked" if real.ipc == asked else _why(real, most, budget)
    if asked is None:
        limit = min(budget, round(WORTHWHILE_BYTES * base.all_bytes))
    soft = replace(base, labels="soft")
    labels, why = _labels(replace(soft, ipc=soft.most_ipc(limit, most)), limit)
    made, half = replace(base, labels=labels), readable_bytes(limit)
    ipc = made.most_ipc(limit, most) or made.most_ipc(budget, 1)
    if ipc < most and limit < budget:
        return replace(made, ipc=ipc), why, f"{ipc + 1} could take more than {half}, half of all real pictures' bytes"
    return replace(made, ipc=ipc), why, "as you asked" if ipc == asked else _why(replace(made, ipc=ipc), most, budget)


def _why(made: ChosenSet, most: int, budget: int) -> str:
    """What keeps the set from being larger."""
    if made.ipc == most:
        return f"the smallest class has {most} training pictures"
    more = replace(made, ipc=made.ipc + 1).num_bytes
    over, size = readable_bytes(more), readable_bytes(budget)
    return f"{made.ipc + 1} could take {over if over != size else f'{more:,} bytes'}, with a budget of {size}"


def _labels(soft: ChosenSet, budget: int | None) -> tuple[Labels, str]:
    """Soft labels where the teachers, whose bytes count, leave room, and where real pictures would not do better.

    ``soft`` is the set that would be made with them.
    """
    size, teachers = readable_bytes(soft.all_bytes), readable_bytes(soft.teacher_bytes)
    who = reasons.labellers(soft)
    if soft.size <= TINY:
        return "hard", "for tiny pictures soft labels lost at every budget (docs/methods.md)"
    if budget is not None and (not soft.ipc or soft.teacher_bytes > 0.8 * budget):
        return "hard", f"labels by {who} would take {teachers}, and a set may take {readable_bytes(budget)}"
    made = f"made by {who} while students train; stored with the images they take {teachers}"
    if budget is None and soft.own_teachers:
        return "soft", made
    most = soft.all_bytes * (WORTHWHILE if budget is None else WORTHWHILE_BYTES)
    if soft.num_bytes > most or (budget is not None and soft.teacher_bytes > most / 2):
        return "hard", f"labels by {who} would take {teachers}, and all real pictures only about {size}"
    return "soft", made


def _usual(made: ChosenSet, smallest: int, asked: int | None) -> tuple[int, str]:
    """Images per class without a budget, and the reason; no more than the smallest class has training pictures."""
    if asked is not None:
        if asked <= smallest:
            return asked, "as you asked"
        return smallest, f"you asked for {asked}, but the smallest class has {smallest} training pictures"
    mean = made.num_train // len(made.classes)
    usual = "the usual number; --ipc or --budget changes it"
    reason = {
        IPC: usual,
        smallest: f"the smallest class has {smallest} training pictures",
        max(1, mean // SHARE): f"a class has {mean} training pictures in the mean; --ipc or --budget changes it",
    }
    ipc = min(reason)
    return ipc, usual if ipc == IPC else reason[ipc]


def _mirrored(classes: Sequence[str]) -> tuple[bool, str]:
    """Whether a mirrored picture shows the same class, as far as the class names tell."""
    words = {word for name in classes for word in re.findall(r"[a-z]+", name.lower())}
    if sided := sorted(words & _SIDED):
        return False, f"a class name says '{sided[0]}'"
    if all(len(name) == 1 for name in classes):
        return False, "classes of one character may be digits or letters"
    return True, "no class name speaks of sides, digits or letters. If it matters: " + _UNMIRRORED


def _teacher_views(size: int, mirrored: bool) -> ViewChoice:
    return ViewChoice(crop="padded", padding=max(1, size // 8), flip=mirrored)


def _recipe(
    source: str,
    made: ChosenSet,
    mirrored: bool,
    found: Survey,
    views: ViewChoice,
    holdout: float,
    classes: tuple[str, ...],
) -> Recipe[Any]:
    protocol = PROTOCOLS["digits" if made.size <= TINY else "attar-small"]
    protocol = protocol.changed(training=protocol.training.changed(epochs=made.student_epochs))
    training = Optimisation(
        epochs=made.teacher_epochs,
        batch_size=made.batch_size,
        learning_rate=0.1 if made.size > TINY else 0.05,
        weight_decay=5e-4,
        warmup_epochs=min(2.0, made.teacher_epochs / 12),
    )
    weak = {"epochs": max(1, round(made.teacher_epochs / 6)), "warmup_epochs": 0.0}
    soft = made.labels == "soft"
    shown = (rows.DISTILLED_HARD, rows.RANDOM_HARD, rows.EQUAL_BYTES)
    if soft:
        shown = (rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, *shown[1:])
    elif made.real:
        shown = (rows.DISTILLED_HARD,)
    return recipe(
        name=_name(source),
        method=made.method,
        data=DataChoice(source=source, size=made.size, holdout=holdout, classes=classes),
        squeeze=Squeeze(
            architecture=made.network.name,
            training=training,
            views=views,
            members=(Member(), Member(), Member(training=weak)) if soft and not made.own_teachers else (),
        ),
        recover=_method(made, mirrored, found.grey),
        relabel=relabel_section(
            protocol.name,
            {
                "mode": "online" if soft else "none",
                "epochs": made.student_epochs,
                "views": _student_views(protocol.name, mirrored),
                "teacher_precision": "int8",
            },
        ),
        evaluate=Evaluate(
            protocol=protocol,
            students=(made.network.name,),
            num_seeds=NUM_SEEDS,
            full_data="teacher",
            rows=(*shown, rows.FULL),
        ),
    )


def _student_views(protocol: str, mirrored: bool) -> dict[str, Any]:
    return {} if mirrored else {"flip": False}


def _method(made: ChosenSet, mirrored: bool, grey: bool) -> MethodConfig:
    stored: dict[str, Any] = {"image_format": network_cost.format_for(made.size)}
    shared = {"ipc": made.ipc, "iterations": made.iterations, "flip": mirrored, "grey": grey, **stored}
    most = 100 if made.gpu else 10
    if made.real:
        return random.Config(**stored, ipc=made.ipc, unit_classes=min(len(made.classes), most), unit_slots=made.ipc)
    if made.method == "attar":
        return own.Config(
            **shared, unit_classes=min(len(made.classes), most), unit_slots=min(made.ipc, 10), committee="one"
        )
    return dm.Config(
        **shared,
        unit_classes=min(len(made.classes), most),
        unit_slots=made.ipc,
        real_batch=made.real_batch,
        network_width=128 if made.gpu else 64,
    )


def _name(source: str) -> str:
    if source.startswith("hf:"):
        return source.rpartition("/")[2].removeprefix("hf:").replace(":", "-")
    parts = re.split(r"[/\\:]", source.rstrip("/\\"))
    of_files = parts[-1].endswith((".tar", ".parquet", "}"))  # shards, named after their folder
    return parts[-2 if of_files and len(parts) > 1 else -1] or "pictures"
