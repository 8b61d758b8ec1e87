"""What the campaign's steps share: the images that were carried, the strong teacher, and what comes back of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import attar
import carrying
from attar.models import teacher as teachers
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe
from attar.report.table import Line
from attar.stages.run import Run
from attar.store import images as image_files
from campaign import Campaign
from sides import NORMALISATION, crops, photographs

TINY = "tiny-imagenet"
ACCEPTED = 1.5
"""Points of top-1 accuracy around a published figure."""


def real_images(campaign: Campaign, name: str) -> Path:
    """The folder of a dataset's Parquet files; made of two photographs in a rehearsal."""
    folder = campaign.work / "data" / name
    if not campaign.dry:
        return folder if folder.is_dir() else carrying.gathered(campaign.data, name, folder)
    if not folder.is_dir():
        beside = folder.with_name(f"{name}-whole")
        write_small(beside)
        carrying.portions(beside, campaign.work / "portions", name, portion_bytes=40_000)
        carrying.gathered(campaign.work / "portions", name, folder)
    return folder


def write_small(folder: Path) -> None:
    """Parquet files of crops of photographs, four classes: the parts of the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"_type": "ClassLabel", "names": ["a", "b", "c", "d"]}
    features = {"image": {"_type": "Image"}, "label": kind}
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, count in (("train", 96), ("val", 32)):
        pixels, sources = crops(photographs(), count, 16, split)
        coded = (NORMALISATION.undo(pixels) * 255).round().clamp(0, 255).to(torch.uint8)
        rows = [{"bytes": image_files.encode(image, "jpeg", 90), "path": None} for image in coded]
        table = pa.table({"image": pa.array(rows, image_type), "label": pa.array((sources % 4).tolist())})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{split}-00000.parquet")


def shortened(recipe: Recipe[Any]) -> Recipe[Any]:
    """A recipe with hardly any work, for a rehearsal."""
    once = recipe.squeeze.training.changed(epochs=1, batch_size=16, warmup_epochs=0.0)
    protocol = recipe.evaluate.protocol
    protocol = protocol.changed(training=protocol.training.changed(epochs=1, warmup_epochs=0.0))
    recover = {"iterations": 2, "ipc": min(2, recipe.recover.ipc), "accept_weak_teacher": True, "parallel_units": 1}
    known = type(recipe.recover).model_fields.keys()
    return recipe.changed(
        squeeze=recipe.squeeze.changed(architecture="convnet3", training=once),
        recover=recipe.recover.changed(**{name: value for name, value in recover.items() if name in known}),
        relabel=recipe.relabel.changed(epochs=1),
        evaluate=recipe.evaluate.changed(protocol=protocol, students=("convnet3",), num_seeds=1),
        execution=recipe.execution.changed(precision="fp32", compile="off"),
    )


def chosen(campaign: Campaign, name: str, dataset: str, whole: bool = False) -> Recipe[Any]:
    """A built-in recipe on the images that were carried, in compiled bf16; in a rehearsal shortened, unless ``whole``.

    Rows of its table: distilled, random real images under the same labels, the teacher.
    """
    recipe, folder = recipe_named(name), real_images(campaign, dataset)
    where = {"root": str(folder)} if dataset == TINY and not campaign.dry else {"source": str(folder)}
    data = recipe.data.changed(resident="on", **where, **({"size": 16} if campaign.dry else {}))
    recipe = recipe.changed(
        data=data,
        evaluate=recipe.evaluate.changed(rows=("distilled", "random-soft", "full"), num_seeds=3),
        execution=recipe.execution.changed(device=campaign.device, precision="bf16", compile="auto"),
    )
    return shortened(recipe) if campaign.dry and not whole else recipe


def train_teacher(campaign: Campaign, name: str, dataset: str) -> dict[str, Any]:
    """Squeeze, then round a copy of the weights so that they travel in half precision.

    The steps that use the copy measure its accuracy anew, in the row of all real images.
    """
    recipe = chosen(campaign, name, dataset)
    attar.run(recipe, campaign.folder, stage="squeeze")
    made = Run(campaign.folder).teachers[0]
    found = teachers.load(campaign.folder / "squeeze")
    carrying.round_weights(found)
    found.save(campaign.folder / "half")
    return {"top-1 %": round(100 * (made.top1 or 0), 2), "seconds": made.elapsed.seconds}


def with_teacher(recipe: Recipe[Any], folder: Path) -> Recipe[Any]:
    """The recipe with the rounded teacher in the place of its own."""
    return recipe.changed(squeeze=recipe.squeeze.changed(weights=str(folder / "half")))


def summarised(lines: Sequence[Line], published: float | None = None) -> dict[str, Any]:
    """The accuracies of a table; and whether the published one is met."""
    values: dict[str, Any] = {"table": [vars(line) for line in lines]}
    for line in lines:
        if line.top1_mean is None:
            values[line.row] = f"diverged (all {line.num_diverged})"
            continue
        spread = "" if line.top1_std is None else f" ± {line.top1_std:.1f}"
        values[line.row] = f"{line.top1_mean:.1f}{spread} (n = {line.num_seeds})"
    if published is not None and lines[0].top1_mean is not None:
        away = lines[0].top1_mean - published
        words = "reproduced" if abs(away) <= ACCEPTED else "not reproduced"
        values["published"] = f"{published:.1f}, {words} ({away:+.1f})"
    return values


def score_files(run: Path) -> list[Path]:
    """What was measured of a run."""
    return [path for part in ("evaluate", "report") for path in sorted((run / part).rglob("*")) if path.is_file()]


def teacher_files(campaign: Campaign) -> list[Path]:
    """A finished teacher, or the state of its training; then images and scores of the runs beside it."""
    half = [path for path in (campaign.folder / "half").glob("*") if path.is_file()]
    under_way = [path for path in (campaign.folder / "squeeze").glob("*") if path.name != teachers.WEIGHTS]
    found = half if half else under_way
    for run in sorted(campaign.folder.glob("*-ipc*")):
        found += score_files(run)
    return found
