"""A committee through the whole pipeline: members trained apart, loaded once, chosen by number, known by content."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar import pipeline
from attar.core.errors import AttarError
from attar.models import teacher as teachers
from attar.ops.combine import combine
from attar.recipes.recipe import Recipe
from attar.stages import squeeze
from attar.stages.dataset_info import read_info
from attar.stages.run import Run, teacher_folders
from attar.store import sealed
from attar.store.weights import load_weights
from conftest import mini_recipe

TWO: tuple[dict[str, Any], ...] = ({}, {"training": {"epochs": 2}})


def committee(*several: dict[str, Any], epochs: int = 6, **labels: Any) -> Recipe[Any]:
    """The small recipe with these members and label options."""
    recipe = mini_recipe()
    return recipe.changed(
        squeeze=recipe.squeeze.changed(members=several or TWO),
        relabel=recipe.relabel.changed(epochs=epochs, **labels),
        evaluate=recipe.evaluate.changed(
            rows=("distilled", "random-soft", "distilled-noaug", "full"), num_seeds=1, full_data="teacher"
        ),
    )


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each folder's teacher was loaded."""
    found: Counter[Path] = Counter()
    load = teachers.load

    def counted(folder: Path, *arguments: Any, **more: Any) -> Any:
        found[folder] += 1
        return load(folder, *arguments, **more)

    monkeypatch.setattr(teachers, "load", counted)
    return found


@pytest.fixture(scope="session")
def both(mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which two teachers are finished: one alone in ``squeeze`` as before, the second one beside it."""
    out = tmp_path_factory.mktemp("runs") / "both"
    shutil.copytree(mini_run / "squeeze", out / "squeeze")
    pipeline.run(committee(), out, stage="squeeze", quiet=True)
    return out


@pytest.fixture
def labelling(both: Path, mini_run: Path, tmp_path: Path) -> Path:
    """A run's folder with two teachers and images."""
    shutil.copytree(both / "squeeze", tmp_path / "run" / "squeeze")
    shutil.copytree(mini_run / "recover", tmp_path / "run" / "recover")
    return tmp_path / "run"


def seen_and_said(run: Path, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and logits of an epoch."""
    ((images, targets),) = attar.load(run / "distilled").views(epoch, 20, "cpu", seed=0)
    assert targets.logits is not None
    return images, targets.logits.float()


def test_a_whole_run_loads_each_teacher_once(both: Path, labelling: Path, loads: Counter[Path]):
    shutil.rmtree(labelling / "recover")
    before = {path: path.read_bytes() for path in labelling.rglob("*.safetensors")}
    lines = pipeline.run(committee(), labelling, quiet=True).table
    assert loads == {labelling / "squeeze": 1, labelling / "squeeze" / "1": 1}
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [line.row for line in lines] == ["distilled", "random-soft", "distilled-noaug", "full"]
    assert (lines[-1].student, lines[-1].protocol) == ("convnet3+convnet3", "the teacher")
    costs = [json.loads((both / "squeeze" / name / "manifest.json").read_text()) for name in ("", "1")]
    assert lines[0].teacher_seconds == pytest.approx(sum(made["device_seconds"] for made in costs))
    assert list(Run(labelling).plain()) == ["squeeze", "squeeze/1", "recover", "relabel", "evaluate"]
    assert Run(labelling).elapsed()["squeeze"].seconds == lines[0].teacher_seconds
    card = " ".join((labelling / "distilled" / "README.md").read_text().split())
    assert "a committee of 2 teachers: `convnet3` (" in card
    loads.clear()
    assert pipeline.run(committee(), labelling, quiet=True).table == lines
    assert not loads  # nothing is to be done


def test_members_lie_in_folders_of_their_own_and_the_first_is_the_one_trained_alone(mini_run: Path, tmp_path: Path):
    recipe, out = committee({}, {"training": {"epochs": 1}}, {"training": {"epochs": 1}}), tmp_path / "run"
    pipeline.run(recipe, out, stage="squeeze", quiet=True)
    folders = teacher_folders(out / "squeeze")
    assert [folder.name for folder in folders] == ["0", "1", "2"]
    first, second, third = (load_weights(folder / teachers.WEIGHTS)[0] for folder in folders)
    alone = load_weights(mini_run / "squeeze" / teachers.WEIGHTS)[0]
    assert all(torch.equal(first[name], alone[name]) for name in alone)
    assert not all(torch.equal(second[name], third[name]) for name in second)  # equal settings, other seeds
    rated = [json.loads((folder / "manifest.json").read_text())["result"]["top1"] for folder in folders]
    assert [teachers.load(folder).accuracy for folder in folders] == rated
    made = [(folder / "manifest.json").read_bytes() for folder in folders]
    pipeline.run(mini_recipe(), out, stage="squeeze", quiet=True)  # its one teacher is the first of these
    assert [(folder / "manifest.json").read_bytes() for folder in folders] == made


@pytest.mark.parametrize(
    "choice", [{}, {"policy": "weighted", "weights": (3.0, 1.0)}, {"policy": "norm-balanced"}, {"members": (1,)}]
)
@pytest.mark.parametrize("mode", ["stored", "online"])
def test_chosen_teachers_answer_together(labelling: Path, choice: dict[str, Any], mode: str):
    pipeline.run(committee(committee=choice, mode=mode, epochs=2), labelling, stage="relabel", quiet=True)
    images, said = seen_and_said(labelling, 1)
    chosen = [labelling / "squeeze", labelling / "squeeze" / "1"][-len(choice.get("members", (0, 1))) :]
    answers = [teachers.load(folder).logits(images) for folder in chosen]
    expected = combine(answers, choice.get("policy", "mean"), choice.get("weights", ()))
    torch.testing.assert_close(said, expected, atol=2e-3 * float(expected.abs().max()), rtol=2e-3)
    info = read_info(labelling / "distilled")
    assert [one.weights_sha256 for one in info.teachers] == [
        sealed.sha256_of(folder / teachers.WEIGHTS) for folder in chosen
    ]


def test_labels_of_a_teacher_that_was_trained_longer_or_chosen_otherwise_are_refused(labelling: Path):
    pipeline.run(committee(epochs=2), labelling, stage="relabel", quiet=True)
    for choice in ({"policy": "norm-balanced"}, {"members": (1, 0)}):
        with pytest.raises(AttarError, match=r"relabel\.committee\."):
            pipeline.run(committee(epochs=2, committee=choice), labelling, stage="relabel", quiet=True)
    longer = committee({}, {"training": {"epochs": 3}}, epochs=2)
    with pytest.raises(AttarError, match=r"squeeze/1 was made with other settings .*training\.epochs 2 -> 3"):
        pipeline.run(longer, labelling, stage="squeeze", quiet=True)
    shutil.rmtree(labelling / "squeeze" / "1")
    pipeline.run(longer, labelling, stage="squeeze", quiet=True)
    with pytest.raises(AttarError, match="made from a committee of teachers that is not the current one"):
        pipeline.run(longer, labelling, stage="relabel", quiet=True)
    with pytest.raises(AttarError, match=r"relabel\.committee\.members \[0, 1\] -> \[\]"):
        pipeline.run(committee({}, epochs=2), labelling, stage="relabel", quiet=True)


def test_imported_members_are_known_by_their_content(labelling: Path, both: Path, tmp_path: Path):
    shutil.rmtree(labelling / "squeeze" / "1")
    shutil.copytree(both / "squeeze" / "1", tmp_path / "weak")
    imported = {"architecture": "resnet20", "weights": str(tmp_path / "weak")}  # the folder knows its architecture
    recipe = committee({}, imported, epochs=2)
    for stage in ("squeeze", "relabel"):
        pipeline.run(recipe, labelling, stage=stage, quiet=True)
    made = (labelling / "distilled" / "manifest.json").read_bytes()
    shutil.move(tmp_path / "weak", tmp_path / "moved")
    moved = committee({}, imported | {"weights": str(tmp_path / "moved")}, epochs=2)
    for stage in ("squeeze", "relabel"):
        pipeline.run(moved, labelling, stage=stage, quiet=True)
    assert (labelling / "distilled" / "manifest.json").read_bytes() == made


def test_a_killed_training_of_the_second_member_continues(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted after the first epoch of the second teacher: its weights are those of the uninterrupted one."""
    out = tmp_path / "run"
    shutil.copytree(both / "squeeze", out / "squeeze")
    shutil.rmtree(out / "squeeze" / "1")
    save = squeeze.weights.save_tree

    def killed(path: Path, state: Any) -> None:
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(squeeze.weights, "save_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(committee(), out, stage="squeeze", quiet=True)
    monkeypatch.undo()
    assert (out / "squeeze" / "1" / squeeze.CHECKPOINT).exists()
    pipeline.run(committee(), out, stage="squeeze", quiet=True)
    name = Path("squeeze") / "1" / teachers.WEIGHTS
    assert (out / name).read_bytes() == (both / name).read_bytes()
    assert not (out / "squeeze" / "1" / squeeze.CHECKPOINT).exists()


def test_networks_from_python_form_a_committee(labelling: Path, tmp_path: Path):
    modules = [teachers.load(folder).module for folder in (labelling / "squeeze", labelling / "squeeze" / "1")]
    out = tmp_path / "given"
    shutil.copytree(labelling / "recover", out / "recover")
    recipe = mini_recipe()
    recipe = recipe.changed(relabel=recipe.relabel.changed(mode="online", epochs=2))
    for stage in ("squeeze", "relabel"):
        attar.run(recipe, out, teacher=modules, stage=stage, quiet=True)
    images, targets = next(iter(attar.load(out / "distilled", teacher=modules).views(0, 20, "cpu", seed=0)))
    expected = combine([teachers.load(labelling / "squeeze" / name).logits(images) for name in ("", "1")])
    torch.testing.assert_close(targets.logits, expected, atol=1e-4, rtol=1e-4)
    written = attar.recipe(str(out / "recipe.yaml"))
    assert len(written.squeeze.members) == 2


def test_a_folder_of_several_teachers_is_no_single_teacher(both: Path, tmp_path: Path):
    shutil.copytree(both / "squeeze" / "1", tmp_path / "squeeze" / "0")
    shutil.copytree(both / "squeeze" / "1", tmp_path / "squeeze" / "1")
    recipe = mini_recipe()
    recipe = recipe.changed(squeeze=recipe.squeeze.changed(weights=str(tmp_path / "squeeze")))
    with pytest.raises(AttarError, match=r"holds 2 teachers; name one of them, such as .*squeeze/0"):
        pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)
    shutil.rmtree(tmp_path / "squeeze" / "1")
    pipeline.run(recipe, tmp_path / "run", stage="squeeze", quiet=True)


def test_sets_of_format_1_still_open(finished: Path):
    path = finished / "distilled" / "dataset.json"
    values = sealed.read_json(path, "")
    (teacher,), choice = values.pop("teachers"), values["labels"].pop("committee")
    former = {"teacher": teacher["architecture"], "teacher_sha256": teacher["weights_sha256"]}
    former |= {"teacher_accuracy": teacher["accuracy"], "further_teachers": ["resnet20"], "format": 1}
    voices = {"ensemble": "weighted", "teacher_weights": [1.0, 2.0], "batchnorm": "train", "batchnorm_batch": 4}
    sealed.write_json(path, values | former | {"labels": values["labels"] | {"voices": voices}})
    info = attar.load(finished / "distilled").info
    assert [one.architecture for one in info.teachers] == ["convnet3", "resnet20"]
    assert (info.teachers[0].accuracy, info.teachers[1].accuracy) == (teacher["accuracy"], None)
    assert info.labels.committee.plain() == choice | {
        "policy": "weighted", "weights": [1.0, 2.0], "batchnorm": "train", "batchnorm_batch": 4
    }  # fmt: skip
