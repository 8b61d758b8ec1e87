"""Files of a run and of an artefact are damaged in every way: what is read afterwards is as it was, or is refused.

A damage is silent when the next run, or ``attar.load``, ends without an error and with other images, labels, weights
or scores. There must be none. A sample runs by default, all of them with ``-m slow``, which prints how many there were.
"""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models.teacher import Teacher
from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe
from attar.report import figures
from attar.stages import squeeze
from attar.store import labels as label_files
from conftest import interrupt

WAYS = ("flip", "zero", "cut", "remove", "swap")
UNREAD = ("log", "previews", "README.md")
"""What no part of attar reads: logs but for seconds, pictures for people, the dataset card."""
VOLATILE = {"seconds", "device_seconds", "processor_seconds", "finished", "sha256", "files", "teacher_seconds"}
VOLATILE |= {"images_seconds", "labels_seconds"}
VOLATILE |= {f"{part}_processor_seconds" for part in ("teacher", "images", "labels")}
"""Times differ from run to run, and with them the hashes of files that hold them."""
NUM_EPOCHS = 3


def tiny(seed: int = 0, **labels: Any) -> Recipe:
    """The digits recipe with next to nothing of everything, and with several files of every kind."""
    full = recipe_named("digits").changed(seed=seed)
    protocol = full.evaluate.protocol
    once = protocol.changed(training=protocol.training.changed(epochs=1))
    return full.changed(
        execution=full.execution.changed(threads=1),
        squeeze=full.squeeze.changed(training=full.squeeze.training.changed(epochs=2)),
        recover=full.recover.changed(ipc=2, unit_slots=1, iterations=2, snapshots=(1,), accept_weak_teacher=True),
        relabel=full.relabel.changed(epochs=NUM_EPOCHS, **labels),
        evaluate=full.evaluate.changed(protocol=once, num_seeds=1, rows=("distilled", "random-hard")),
    )


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """Several label files in a store, and no pictures, which take longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_files, "SHARD_BYTES", 2 * 20 * 45)
        patch.setattr(figures, "write_all", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, patched: None) -> dict[str, Path]:
    """Runs to be damaged, by what is the matter with them; 'foreign' is another run, to take files from."""
    home = tmp_path_factory.mktemp("damage")
    found = {name: home / name for name in ("finished", "foreign", "units", "labels", "training", "online")}
    pipeline.run(tiny(), found["finished"], quiet=True)
    for stage in ("squeeze", "recover", "relabel"):
        pipeline.run(tiny(seed=1), found["foreign"], stage=stage, quiet=True)
    for name, stages in (("units", ("squeeze", "recover")), ("labels", ("squeeze", "recover", "distilled"))):
        for stage in stages:
            shutil.copytree(found["finished"] / stage, found[name] / stage)
        interrupt(found[name] / stages[-1])
    shutil.rmtree(found["units"] / "recover" / "data")
    (found["labels"] / "distilled" / "labels" / "labels.json").unlink()
    (found["labels"] / "distilled" / "dataset.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "save", interrupted)
        for seed, out in enumerate((found["training"], home / "foreign-training")):
            with pytest.raises(KeyboardInterrupt):
                pipeline.run(tiny(seed), out, stage="squeeze", quiet=True)
    checkpoint = Path("squeeze") / squeeze.CHECKPOINT
    shutil.copy(home / "foreign-training" / checkpoint, found["foreign"] / checkpoint)
    shutil.copytree(found["finished"] / "squeeze", found["online"] / "squeeze")
    shutil.copytree(found["finished"] / "recover", found["online"] / "recover")
    pipeline.run(tiny(mode="online"), found["online"], stage="relabel", quiet=True)
    return found


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def targets(run: Path, below: str = "") -> list[str]:
    """The files of a run that attar reads, by their path in it."""
    names = (path.relative_to(run).as_posix() for path in sorted((run / below).rglob("*")) if path.is_file())
    return [name for name in names if not any(part.startswith(UNREAD) for part in Path(name).parts)]


def kind_of(name: str) -> str:
    """Files that are made and read by the same code are of one kind: numbers and baselines do not matter."""
    parts = ["#" if any(digit.isdigit() for digit in part) else part for part in Path(name).parts]
    return "/".join(part for part in parts if part not in ("baselines", "random")) + Path(name).suffix


def damage(run: Path, name: str, way: str, draw: random.Random, foreign: Path) -> bool:
    """Damage a file in one way; False where that is not possible."""
    path = run / name
    data = bytearray(path.read_bytes())
    if way == "remove":
        path.unlink()
    elif way == "cut":
        path.write_bytes(data[: draw.randrange(len(data))])
    elif way == "flip":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    elif way == "zero":
        start = draw.randrange(len(data))
        if not any(data[start : start + 32]):
            start = 0
        data[start : start + 32] = bytes(len(data[start : start + 32]))
        path.write_bytes(data)
    else:
        alike = [run / other for other in targets(run) if other != name and Path(other).suffix == path.suffix]
        others = [other for other in (foreign / name, *alike) if other.is_file() and other.read_bytes() != data]
        if not others:
            return False
        path.write_bytes((others[0] if draw.random() < 0.5 else draw.choice(others)).read_bytes())
    return True


def plain(value: Any) -> Any:
    """JSON without what may differ."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in VOLATILE}
    return [plain(part) for part in value] if isinstance(value, list) else value


def outcome(run: Path) -> dict[str, str]:
    """What a run made, in hashes: every file but the report, and nothing of times."""
    found = {}
    for name in targets(run):
        if name.startswith("report/") or name.endswith(("plan.json", squeeze.CHECKPOINT)):
            continue
        data = (run / name).read_bytes()
        data = json.dumps(plain(json.loads(data))).encode() if name.endswith(".json") else data
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def next_run(run: Path, stages: tuple[str, ...] = ("",)) -> dict[str, str]:
    for stage in stages:
        pipeline.run(tiny(), run, stage=stage, quiet=True)
    return outcome(run)


def loaded(run: Path) -> str:
    """All batches that there are, in a hash."""
    total, opened = hashlib.sha256(), attar.load(run / "distilled")
    for epoch in range(NUM_EPOCHS):
        for images, targets in opened.batches(epoch, 20):
            assert targets.logits is not None
            total.update(images.numpy().tobytes() + targets.logits.float().numpy().tobytes())
    return total.hexdigest()


def copied(source: Path, target: Path) -> Path:
    """A copy in which the artefact's images are recover's, as hard links, as they are in a run."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for path in target.glob("distilled/data/*.parquet"):
        twin = target / "recover" / "data" / path.name
        if twin.is_file():
            path.unlink()
            os.link(twin, path)
    return target


READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "next run": ("finished", "", next_run),
    "next run after an interrupted recover": ("units", "", lambda run: next_run(run, ("recover", "relabel"))),
    "next run after an interrupted relabel": ("labels", "", lambda run: next_run(run, ("recover", "relabel"))),
    "next run after an interrupted squeeze": ("training", "", lambda run: next_run(run, ("squeeze",))),
    "attar.load, stored labels": ("finished", "distilled", loaded),
    "attar.load, online labels": ("online", "distilled", loaded),
}


def sweep(
    runs: dict[str, Path], tmp_path: Path, cases: list[tuple[str, str, str]], seed: int
) -> tuple[Counter[str], list[str]]:
    """Try each (reader, file, way); returns how they ended, and what was silent or no sentence."""
    ended, silent = Counter[str](), []
    expected: dict[str, Any] = {}
    for reader, name, way in cases:
        source, _, read = READERS[reader]
        if reader not in expected:
            expected[reader] = read(copied(runs[source], tmp_path / "whole"))
        run = copied(runs[source], tmp_path / "run")
        if not damage(run, name, way, random.Random(f"{seed} {reader} {name} {way}"), runs["foreign"]):
            continue
        try:
            found = read(run)
        except AttarError as error:
            ended["refused"] += 1
            if str(run) not in str(error):
                silent.append(f"{reader}: {way} of {name} is refused without its path: {error}")
        except Exception as error:  # a damage may lead anywhere, and each of these is a fault
            silent.append(f"{reader}: {way} of {name}: {type(error).__name__} {error}")
        else:
            ended["as it was"] += 1
            if found != expected[reader]:
                silent.append(f"{reader}: {way} of {name} is silent")
    return ended, silent


def all_cases(runs: dict[str, Path]) -> list[tuple[str, str, str]]:
    return [
        (reader, name, way)
        for reader, (source, below, _) in READERS.items()
        for name in targets(runs[source], below)
        for way in WAYS
    ]


def test_no_damage_is_silent(runs: dict[str, Path], tmp_path: Path):
    """A sample: every kind of file once for every reader, each in another way."""
    kinds: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for case in all_cases(runs):
        kinds.setdefault((case[0], kind_of(case[1])), []).append(case)
    draw = random.Random(7)
    cases = [draw.choice(alike) for alike in kinds.values()]
    ended, silent = sweep(runs, tmp_path, cases, seed=7)
    assert not silent, "\n".join(silent)
    assert ended["refused"] > 10
    assert ended["as it was"] > 5


@pytest.mark.slow
def test_no_damage_of_any_file_is_silent(runs: dict[str, Path], tmp_path: Path):
    """Every file, for every reader, in every way, three times over; prints how they ended."""
    total = Counter[str]()
    for seed in range(3):
        ended, silent = sweep(runs, tmp_path, all_cases(runs), seed)
        assert not silent, "\n".join(silent)
        total += ended
    print(f"{sum(total.values())} damages, none of them silent: {dict(total)}")
    assert sum(total.values()) > 500


def test_the_readers_notice_what_differs(runs: dict[str, Path], tmp_path: Path):
    """The comparison itself: other labels, and other scores, are seen as other."""
    other = copied(runs["foreign"], tmp_path / "other")
    assert loaded(other) != loaded(runs["finished"])
    whole = outcome(runs["finished"])
    run = copied(runs["finished"], tmp_path / "run")
    path = next(run.glob("evaluate/scores/*.json"))
    path.write_text(path.read_text().replace('"top1": 0.', '"top1": 0.9'))
    assert outcome(run) != whole
    assert torch.is_tensor(attar.load(run / "distilled").images)
