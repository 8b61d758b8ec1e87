"""Words for the choices of ``choose.py``: what was chosen, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from attar.core.log import readable_bytes
from attar.data.balance import UNEVEN
from attar.data.survey import Survey
from attar.recipes import network_cost
from attar.recipes.chosen_set import FEWEST, MANY, NUM_SEEDS, TINY, ChosenSet

TIME = "time"
"""The row of the run's time."""
ONLY_CHOSEN = "it is reckoned for the chosen network only; 'attar plan' measures"


@dataclass(frozen=True)
class Reason:
    """One choice and why it was made."""

    what: str
    choice: str
    why: str


def pictures(found: Survey) -> Reason:
    counts = found.counts
    spread = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"
    uneven = "; uneven, so look at the class mean of accuracies" * (max(counts) >= UNEVEN * max(1, min(counts)))
    return Reason("pictures", f"{sum(counts):,}, {len(counts)} classes", f"{spread} in a class{uneven}")


def unreadable(found: Survey, skips: bool) -> tuple[Reason, ...]:
    if found.damage is None or not (faults := found.damage.faults):
        return ()
    of = f"{found.damage.num_opened:,}" + " opened" * (found.damage.num_opened < found.damage.num_pictures)
    does = (
        "they are left out" if skips else "the run stops at them: repair or delete them, or add --data.on-corrupt skip"
    )
    where = f"{faults[0].where} ({faults[0].reason})"
    return (Reason("unreadable", f"{len(faults):,} of {of}", f"first {where}; {does}, and no number here counts them"),)


def left_out(found: Survey, kept: Sequence[bool]) -> tuple[Reason, ...]:
    names = [
        f"{name} ({count})" for name, count, keep in zip(found.classes, found.counts, kept, strict=True) if not keep
    ]
    if not names:
        return ()
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    why = f"fewer than {FEWEST} pictures cannot be learned and measured; add some, or change data.classes"
    return (Reason("left out", shown, why),)


def validation(found: Survey, holdout: float, num_pictures: int, num_train: int) -> Reason:
    if found.num_val is not None:
        return Reason("validation", f"{found.num_val:,} pictures", "the dataset has a validation split")
    return Reason(
        "validation",
        f"{holdout:.0%} of each class",
        f"there is no split; {num_train:,} remain for training, {num_pictures - num_train:,} are held out",
    )


def why_size(found: Survey, side: int, refused: str) -> str:
    widths, heights = zip(*found.sizes, strict=True)
    wide, high = int(median(widths)), int(median(heights))
    if len(set(found.sizes)) == 1 and wide == high == side:
        return "the size of all pictures"
    pictures = f"all are {wide} x {high}" if len(set(found.sizes)) == 1 else f"the median is {wide} x {high}"
    cut = sorted(1 - min(size) / max(size) for size in found.sizes)[len(found.sizes) // 2]
    square = f"; the central square is used, which cuts off {cut:.0%} of the median picture" if cut >= 0.01 else ""
    return pictures + (f"; {refused}" if refused else "") + square


def why_grey(grey: bool) -> str:
    return (
        "every picture that was decoded has equal red, green and blue"
        if grey
        else "at least one picture that was decoded has colours"
    )


def network(made: ChosenSet) -> Reason:
    if made.network.depth:
        words = f"{made.network.depth} blocks of width 64 suit {made.size} pixels; small, so it is fast and its bytes are few"
        return Reason("network", made.network.name, words)
    return Reason("network", made.network.name, "standard stem (7x7, stride 2), which suits images of 224 pixels")


def labellers(made: ChosenSet) -> str:
    """The teachers that label, or would."""
    if not made.own_teachers:
        return "three teachers" if made.named_bytes else "three small teachers"
    own = len(made.own_teachers)
    return "your own teacher" if own == 1 else f"your own {own} teachers"


def teachers(made: ChosenSet) -> Reason:
    epochs = made.teacher_epochs
    moves = "moves the images and " * (made.method == "attar")
    if own := len(made.own_teachers):
        does = f"{moves}labels" if made.labels == "soft" else f"{moves}shows what all real pictures are worth"
        return Reason(
            "teachers" if own > 1 else "teacher", f"{own} of your own", does if own == 1 else f"the first {does}"
        )
    steps = f"{epochs * math.ceil(made.num_train / made.batch_size):,} steps for {made.num_train:,} pictures"
    if made.labels == "soft":
        first, second, weak = made.teachers_epochs
        return Reason("teachers", f"3, of {first}, {second} and {weak} epochs", f"{steps}; all three label")
    return Reason("teacher", f"1, {epochs} epochs", f"{steps}; it {moves}shows what all real pictures are worth")


def why_method(made: ChosenSet) -> str:
    if made.real:
        return (
            "real pictures as they are: above half of them, none did worse here than distilled images of as many bytes"
        )
    moved = f"real images, moved for {made.iterations:,} steps"
    if made.labels == "soft":
        return f"{moved} by the first teacher: best measured with labels by small teachers"
    if made.method == "attar":
        return f"{moved} by a teacher: with hard labels 6 points above random images on CIFAR-10"
    few = "for one image per class" if made.ipc == 1 else f"with fewer than {MANY:,} pictures to teach a teacher"
    return f"{moved} towards the mean features of their class: best measured with hard labels {few}"


def stored(made: ChosenSet) -> Reason:
    kind = network_cost.format_for(made.size)
    what = "WebP, quality 90" if kind == "webp" else "PNG"
    real = made.num_images * made.picture_bytes
    return Reason(
        "bytes",
        f"{what}, {f'about {readable_bytes(real)}' if made.real else f'at most {readable_bytes(made.num_bytes)}'}",
        f"images and labels; all real pictures at this size take about {readable_bytes(made.all_bytes)}",
    )


def students(made: ChosenSet) -> Reason:
    batch = made.student_batch
    steps = f"{made.student_epochs * math.ceil(made.num_images / batch):,} steps of {batch} images"
    more = "the protocol of the recipe digits" if made.size <= TINY else "more epochs bring more accuracy"
    return Reason("students", f"{NUM_SEEDS} of {made.network.name}, {made.student_epochs} epochs", f"{steps}; {more}")


def time(made: ChosenSet, speed: float) -> Reason:
    """``speed`` is in operations a second. The time of another network than the chosen one is not known."""
    if any(made.own_teachers) and (made.labels == "soft" or made.method == "attar"):
        return Reason(TIME, "not known", ONLY_CHOSEN)
    minutes, device = made.operations() / speed / 60, "GPU" if made.gpu else "CPU"
    return Reason(
        TIME, f"about {hours(minutes)}", f"reckoned for this {device} from the arithmetic; 'attar plan' measures"
    )


def warnings(
    made: ChosenSet, smallest: int, ipc: int | None, budget: int | None, *, asked_real: bool = False
) -> tuple[str, ...]:
    """What the user should know; ``ipc`` and ``budget`` are what was asked for, None if nothing was.

    ``smallest`` is the number of training pictures of the smallest class; ``asked_real`` says that real pictures were
    asked for.
    """
    return (*_not_as_asked(made, smallest, ipc, budget), *(() if asked_real else _no_smaller(made, budget)))


def _not_as_asked(made: ChosenSet, smallest: int, ipc: int | None, budget: int | None) -> tuple[str, ...]:
    """Say where the number of images, the budget and the pictures do not agree."""
    if ipc is None:
        return ()
    size = readable_bytes(budget or 0)
    if made.ipc < min(ipc, smallest):
        return (
            f"--ipc {ipc} exceeds --budget: {size} hold {made.ipc} images per class, and so many are made; raise "
            f"--budget, or leave one of the two out",
        )
    if made.ipc < ipc:
        return (
            f"you asked for {ipc} images per class, and {made.ipc} are made, because the smallest class has no more "
            f"training pictures; choose the classes with --data.classes, or add pictures",
        )
    if budget is not None and (more := made.most_ipc(budget, smallest)) > ipc:
        return (f"--ipc {ipc} leaves a part of --budget unused: {size} would hold {more} images per class",)
    return ()


def _no_smaller(made: ChosenSet, budget: int | None) -> tuple[str, ...]:
    """Say that real pictures are kept, or that all of them would take no more bytes."""
    of = f"{made.num_train:,} training pictures at {made.size} pixels (about {readable_bytes(made.all_bytes)})"
    if budget and made.real:
        which, kept = f"{made.num_images:,} of the", "these"
        if budget > made.all_bytes:
            which, kept = "all", f"{made.ipc} of each class"
        return (
            f"{readable_bytes(budget)} hold {which} {of}: {kept} are kept as they are, and nothing is distilled; to "
            f"distil all the same, lower --budget, or add --ipc with the number of images per class, or --method dm",
        )
    if budget and budget > made.all_bytes:
        return (f"{readable_bytes(budget)} hold all {of}: keep those, or lower --budget",)
    if made.num_bytes > made.all_bytes:
        if made.teacher_bytes > made.all_bytes:
            other = f"use a smaller teacher: {labellers(made)} take{'s' * (len(made.own_teachers) == 1)} most of it"
        else:
            other = f"lower --{'budget' if budget else 'ipc'}"
        return (f"all {of} take no more than this set: keep those, or {other}",)
    return ()


def hours(minutes: float) -> str:
    whole = max(1, round(minutes))
    return f"{minutes / 60:.0f} hours" if minutes >= 90 else f"{whole} minute{'s' if whole > 1 else ''}"
