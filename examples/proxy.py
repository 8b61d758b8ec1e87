"""Does a distilled set rank architectures as full data does? Rank correlation of students, trained on either.

    python examples/proxy.py digits --out runs/proxy
    python examples/proxy.py runs/tiny --architectures resnet18 resnet50 timm/resnet10t mypackage.nets:factory ... \
        --epochs 100 --seeds 3 --out runs/tiny-proxy --data.root FOLDER
    torchrun --nproc-per-node 2 examples/proxy.py ...      trainings shared among processes

The first argument is a recipe (a name or a YAML file), whose run is made in OUT/run, or the folder of a finished run.
Settings of the recipe may follow, as for 'attar run'; beside a finished run only those that make none of it anew:
--evaluate.*, --execution.*, --data.root, --data.source.

Every architecture is trained on all real images, as the recipe trains its teacher; on the distilled images, with soft
and with hard labels; and on as many random real images, with both: a proxy that does not rank better than those is not
worth its making. Trainings on the small sets last --epochs epochs. Each training's score is a small file of its own in
OUT/evaluate/scores, so an interrupted comparison goes on where it stopped, and more architectures or seeds add to it.

What to keep in mind when reading the figures:

- Soft labels carry the teacher's bias: students are ranked by how well they imitate one network, and those of its kind
  imitate it best. The hard-label rows are free of that.
- With about ten architectures a rank correlation is known badly: see its interval, from resampling the architectures.
- Architectures that differ by less than the seeds do cannot be ranked by anything. The line "full data, another seed"
  says how well full data agree with themselves: no proxy can be expected to do better.
"""

import argparse
import contextlib
import csv
import io
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

import attar
from attar.core import ranks
from attar.core.log import Log
from attar.core.randomness import seed_of
from attar.recipes.arguments import with_settings
from attar.stages import evaluate, rows
from attar.stages.rows import Row, SmallSet
from attar.stages.run import is_finished
from attar.stages.scores import Score
from attar.stages.workspace import Workspace
from attar.store import atomic

PROXIES = {
    "distilled-soft": "distilled, soft labels",
    "distilled-hard": "distilled, hard labels",
    "random-soft": "random real, soft labels",
    "random-hard": "random real, hard labels",
}
FULL, AGAIN = "full", "full data, another seed"
NUM_RESAMPLES = 2000


def linear(num_classes: int, image_size: int) -> nn.Module:
    """Softmax regression on the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


def perceptron(num_classes: int, image_size: int) -> nn.Module:
    """One hidden layer, no convolution."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, 64), nn.ReLU(), nn.Linear(64, num_classes))


def pooled(num_classes: int, image_size: int) -> nn.Module:
    """One convolution, then the mean over all places: where something is gets lost."""
    return nn.Sequential(*_block(3, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))


def thin(num_classes: int, image_size: int) -> nn.Module:
    """Two convolutions of eight channels."""
    side = image_size // 4
    layers = [*_block(3, 8), nn.AvgPool2d(2), *_block(8, 8), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * side**2, num_classes))


def wide(num_classes: int, image_size: int) -> nn.Module:
    """Two convolutions of 64 channels."""
    side = image_size // 4
    layers = [*_block(3, 64), nn.AvgPool2d(2), *_block(64, 64), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * side**2, num_classes))


def without_norm(num_classes: int, image_size: int) -> nn.Module:
    """Two convolutions of 32 channels, and no BatchNorm."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * (image_size // 4) ** 2, num_classes))


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]


SMALL = (
    *("proxy:linear", "proxy:perceptron", "proxy:pooled", "proxy:thin", "proxy:wide", "proxy:without_norm"),
    *("convnet3", "timm/test_resnet", "timm/test_byobnet"),
)
"""The default: quick networks that take 8-pixel images, weak ones among them so that there is something to rank."""


@dataclass(frozen=True)
class Line:
    """How one small set's ranking of the architectures agrees with full data's."""

    proxy: str
    spearman: float | None
    spearman_low: float | None
    """2.5 and 97.5 per cent of the resampled values, as for Kendall's."""
    spearman_high: float | None
    kendall: float | None
    kendall_low: float | None
    kendall_high: float | None
    num_architectures: int
    num_seeds: int
    epochs: int
    train_seconds: float
    """Of all architectures' trainings, one seed."""


Scores = dict[str, dict[str, list[Score]]]
"""Row to architecture to scores, one a seed."""


def train(recipe: attar.Recipe[Any], run: Path, baseline: Path, out: Path, quiet: bool) -> Scores:
    """All trainings that OUT/evaluate does not know yet, by attar's own evaluate stage."""
    space = Workspace(out, recipe.seed, recipe.data, recipe.execution, Log(quiet=quiet))
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (out / "distilled").symlink_to((run / "distilled").resolve(), target_is_directory=True)
    if not (out / "distilled").samefile(run / "distilled"):
        raise attar.AttarError(f"{out} compares another distilled set than that of {run}; choose another --out.")
    small = (rows.DISTILLED, rows.DISTILLED_HARD, rows.RANDOM, rows.RANDOM_HARD)
    config = recipe.evaluate.changed(rows=(*small, rows.FULL), full_data="train")
    distilled = SmallSet(out / "distilled", run / "recover")
    random = SmallSet(baseline, baseline.parent / "recover")
    sets: dict[Row, SmallSet] = {row: random if row.images == "random" else distilled for row in small}
    found: Scores = {name: {} for name in (*PROXIES, FULL)}
    for score in evaluate.run(space, config, recipe.squeeze, sets):
        if score.diverged:
            raise attar.AttarError(
                f"The training of {score.student} on the row {score.row} diverged, and a ranking needs all of them; "
                f"leave it out, or lower the learning rate of the protocol."
            )
        name = FULL if score.row == rows.FULL else f"{score.row.images}-{score.row.labels}"
        found[name].setdefault(score.student, []).append(score)
    return found


def compare(found: Scores, epochs: int, full_epochs: int, seed: int) -> list[Line]:
    """The table: one line a small set, and one of full data against themselves where there are several seeds."""
    full = means(found[FULL])
    table = [line(name, means(found[name]), full, found[name], epochs, seed) for name in PROXIES]
    if len(next(iter(found[FULL].values()))) > 1:
        first, others = (
            {name: seeds[part] for name, seeds in found[FULL].items()} for part in (slice(1), slice(1, None))
        )
        table.append(line(AGAIN, means(first), means(others), first, full_epochs, seed))
    return table


def means(scores: dict[str, list[Score]]) -> dict[str, float]:
    """Each architecture's accuracy, mean over seeds, as a fraction."""
    return {name: statistics.fmean(score.top1 for score in seeds) for name, seeds in scores.items()}


def line(
    name: str, proxy: dict[str, float], target: dict[str, float], scores: dict[str, list[Score]], epochs: int, seed: int
) -> Line:
    """The agreement of two rankings of the same architectures, with its interval."""
    x, y = (np.array([values[architecture] for architecture in target]) for values in (proxy, target))
    rho, tau = interval(x, y, spearman, seed), interval(x, y, kendall, seed)
    seconds = sum(statistics.fmean(score.seconds for score in seeds) for seeds in scores.values())
    num_seeds = len(next(iter(scores.values())))
    return Line(name, *rho, *tau, len(target), num_seeds, epochs, round(seconds, 1))


def interval(
    x: np.ndarray, y: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int
) -> tuple[float | None, float | None, float | None]:
    """A rank correlation, and the 2.5 and 97.5 per cent points of it when architectures are drawn with replacement.

    None where all values of a side are equal, and nothing is ranked; draws of that kind are left out of the points.
    """
    draws = np.random.default_rng(seed_of(seed, "proxy", "resample")).integers(len(x), size=(NUM_RESAMPLES, len(x)))
    draws = draws[(np.ptp(x[draws], axis=1) > 0) & (np.ptp(y[draws], axis=1) > 0)]
    if not len(draws):
        return None, None, None
    low, high = np.percentile(statistic(x[draws], y[draws]), [2.5, 97.5])
    return round(float(statistic(x, y)), 3), round(float(low), 3), round(float(high), 3)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis, equal values sharing their mean rank; scipy.stats.spearmanr, many at once."""
    x, y = (stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (x, y))
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis; scipy.stats.kendalltau, many at once."""
    x, y = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    return (x * y).sum((-2, -1)) / np.sqrt((x**2).sum((-2, -1)) * (y**2).sum((-2, -1)))


def figure(found: Scores, table: list[Line]) -> Figure:
    """One panel a small set: an architecture's accuracy on it over its accuracy on full data."""
    drawn = Figure(figsize=(3.6 * len(PROXIES), 4.2), layout="constrained")
    panels = drawn.subplots(1, len(PROXIES))
    full = means(found[FULL])
    for panel, shown in zip(panels, table, strict=False):  # the line of full data against themselves is not drawn
        proxy = means(found[shown.proxy])
        for place, name in enumerate(full):
            panel.plot(
                100 * full[name], 100 * proxy[name], "oXsDv^P"[place // 10 % 7], color=f"C{place % 10}", label=name
            )
        panel.set_title(f"{PROXIES[shown.proxy]}\nSpearman {_range(*_spearman(shown))}", fontsize=9)
        panel.set_xlabel("top-1 on full data, %")
    panels[0].set_ylabel("top-1 on the small set, %")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return drawn


def as_csv(table: list[Line] | list[dict[str, Any]]) -> str:
    """A table as CSV, every column."""
    found = [row if isinstance(row, dict) else asdict(row) for row in table]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return buffer.getvalue()


def accuracies(found: Scores) -> list[dict[str, Any]]:
    """One row an architecture: its accuracy on every set, per cent, mean and sample standard deviation over seeds."""
    table = []
    for name in found[FULL]:
        row: dict[str, Any] = {"architecture": name}
        for kind in (FULL, *PROXIES):
            values = [100 * score.top1 for score in found[kind][name]]
            row[f"{kind}_mean"] = round(statistics.fmean(values), 2)
            row[f"{kind}_std"] = round(statistics.stdev(values), 2) if len(values) > 1 else None
        table.append(row)
    return table


def as_markdown(table: list[Line]) -> str:
    """The correlations for a page."""
    header = "ranked by|Spearman's rho|Kendall's tau|architectures|n|training seconds"
    cells = [header.split("|"), ["---", *["---:"] * 5]]
    for line in table:
        counts = [str(line.num_architectures), str(line.num_seeds), f"{line.train_seconds:.0f}"]
        tau = (line.kendall, line.kendall_low, line.kendall_high)
        cells.append([PROXIES.get(line.proxy, line.proxy), _range(*_spearman(line)), _range(*tau), *counts])
    return "".join("| " + " | ".join(row) + " |\n" for row in cells)


def _spearman(line: Line) -> tuple[float | None, float | None, float | None]:
    return line.spearman, line.spearman_low, line.spearman_high


def _range(value: float | None, low: float | None, high: float | None) -> str:
    return "nothing to rank" if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def open_run(source: str, settings: list[str], out: Path, quiet: bool) -> tuple[attar.Recipe[Any], Path]:
    """The recipe, and the folder of its run up to the labels: made in OUT/run, or the finished one that is named."""
    kept = Path(source) / "recipe.yaml"
    named = str(kept) if kept.is_file() else source
    before = attar.recipe(named)
    recipe = with_settings(before, settings, f"attar run {named}")
    if kept.is_file():
        data = recipe.data.changed(root=before.data.root, source=before.data.source)
        if recipe.changed(evaluate=before.evaluate, execution=before.execution, data=data) != before:
            raise attar.AttarError(f"{source} is finished, and these settings alter it; name the recipe in its place.")
        if recipe.relabel.mode == "none":
            raise attar.AttarError(f"{source} has no soft labels to compare with; name the recipe in its place.")
        return recipe, Path(source)
    if recipe.relabel.mode == "none":  # half of the rows compared have soft labels
        recipe = recipe.changed(relabel=recipe.relabel.changed(mode="online"))
    _make(recipe, out / "run", quiet)
    return recipe, out / "run"


def random_real(recipe: attar.Recipe[Any], run: Path, out: Path, quiet: bool) -> Path:
    """As many random real images, labelled by the same teacher: the run's own baseline, or one made in OUT/random."""
    known = run / "baselines" / "random" / "distilled"
    if is_finished(known):
        return known
    with_teacher = recipe.squeeze.changed(weights=str((run / "squeeze").resolve()))
    _make(recipe.with_method("random").changed(squeeze=with_teacher), out / "random", quiet)
    return out / "random" / "distilled"


def _make(recipe: attar.Recipe[Any], folder: Path, quiet: bool) -> None:
    for stage in ("squeeze", "recover", "relabel"):
        attar.run(recipe, folder, stage=stage, quiet=quiet)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main(arguments: list[str] | None = None) -> None:
    """Compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", metavar="RECIPE_OR_RUN")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; scores that it has are kept")
    parser.add_argument(
        "--architectures", nargs="+", default=SMALL, help="names from 'attar list models', or factories"
    )
    parser.add_argument("--seeds", type=positive, default=1, help="trainings of each architecture and set; default 1")
    parser.add_argument("--epochs", type=positive, default=50, help="of a training on a small set; default 50")
    parser.add_argument("--quiet", action="store_true")
    asked, settings = parser.parse_known_args(arguments)
    if len(set(asked.architectures)) < 3:
        raise attar.AttarError("Fewer than three architectures are no ranking; name more after --architectures.")
    with ranks.group():
        recipe, run = open_run(asked.source, settings, asked.out, asked.quiet)
        baseline = random_real(recipe, run, asked.out, asked.quiet)
        protocol = recipe.evaluate.protocol
        protocol = protocol.changed(training=protocol.training.changed(epochs=asked.epochs))
        students = tuple(dict.fromkeys(asked.architectures))
        evaluating = recipe.evaluate.changed(students=students, num_seeds=asked.seeds, protocol=protocol)
        found = train(recipe.changed(evaluate=evaluating), run, baseline, asked.out, asked.quiet)
        if not ranks.is_first():
            return
    table = compare(found, asked.epochs, recipe.squeeze.training.epochs, recipe.seed)
    atomic.write_text(asked.out / "proxy.csv", as_csv(table))
    atomic.write_text(asked.out / "architectures.csv", as_csv(accuracies(found)))
    with atomic.replace(asked.out / "proxy.png") as temporary:
        figure(found, table).savefig(temporary, format="png", dpi=100)
    print(as_markdown(table), end="")


if __name__ == "__main__":
    try:
        main()
    except attar.AttarError as error:
        sys.exit(f"proxy.py: {error}")
