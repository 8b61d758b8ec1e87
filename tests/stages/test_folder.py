"""stages/folder.py: missing and damaged files are rebuilt or refused, and so are files without a plan."""

import builtins
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar import pipeline
from attar.core.errors import AttarError
from attar.report import printed
from attar.stages.folder import StageFolder
from attar.store import sealed
from conftest import edit_json, interrupt, mini_recipe


def run(out: Path, *stages: str) -> None:
    for stage in stages:
        pipeline.run(mini_recipe(), out, stage=stage, quiet=True)


def labelled(out: Path) -> dict[str, bytes]:
    folders = (out / "recover", out / "distilled")
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".parquet", ".safetensors") or path.name in ("dataset.json", "labels.json")
    }


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # for images are hard links, and one of the two is to be damaged
    if how == "damaged":
        path.write_bytes(data)


MADE_AGAIN = (
    "recover/units/slot00001*",
    "recover/data/*.parquet",
    "distilled/data/*.parquet",
    "distilled/labels/*.safetensors",
    "distilled/labels/labels.json",
    "distilled/dataset.json",
)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_file_of_a_finished_stage_is_made_again(finished: Path, how: str, capsys):
    before = labelled(finished)
    spoiled = [next(finished.glob(pattern)) for pattern in MADE_AGAIN]
    for path in spoiled:
        spoil(path, how)
    for stage in ("recover", "relabel"):
        pipeline.run(mini_recipe(), finished, stage=stage)
    assert labelled(finished) == before
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if f"is {how}" in line and "more; the stage continues" in line]) == 2
    run(finished, "recover", "relabel")
    assert capsys.readouterr().err == "", "whole again, there is nothing to tell"


@pytest.mark.parametrize("pattern", MADE_AGAIN)
def test_any_one_of_them_makes_a_stage_go_on(finished: Path, pattern: str):
    path = next(finished.glob(pattern))
    stage = finished / path.relative_to(finished).parts[0]
    made = sealed.read_json(stage / "manifest.json", "")
    folder = StageFolder(stage, made["stage"], made["request"], made["parents"])
    assert folder.finished() == made
    spoil(path, "damaged")
    assert folder.finished() is None


def test_an_older_run_whose_manifests_list_no_files_is_mended_too(finished: Path):
    before = labelled(finished)
    for stage in ("recover", "distilled"):
        manifest = sealed.read_json(finished / stage / "manifest.json", "")
        del manifest["files"]
        (finished / stage / "manifest.json").write_text(json.dumps(manifest))
    run(finished, "recover", "relabel")
    for pattern in ("recover/units/slot00001*", "distilled/labels/*.safetensors"):
        next(finished.glob(pattern)).unlink()
    run(finished, "recover", "relabel")
    assert labelled(finished) == before


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("name", ["teacher.safetensors", "teacher.json"])
def test_a_teacher_is_not_trained_again_unasked(finished: Path, name: str, how: str):
    spoil(finished / "squeeze" / name, how)
    words = rf"{finished}/squeeze/{name} is {how}.*restore the file, or delete the folder {finished}/squeeze"
    with pytest.raises(AttarError, match=words):
        run(finished, "squeeze")
    shutil.rmtree(finished / "recover")
    with pytest.raises(AttarError, match=f"{finished}/squeeze"):  # and no later stage goes on with it
        run(finished, "recover")


@pytest.mark.parametrize("stage", ["recover", "distilled"])
def test_results_that_no_plan_explains_are_refused(finished: Path, stage: str):
    (finished / stage / "manifest.json").unlink()
    with pytest.raises(AttarError, match=rf"{finished / stage} holds results, but no plan.json or manifest.json"):
        run(finished, "recover", "relabel")


def test_a_plan_alone_binds_nobody(recovered: Path):
    (recovered / "distilled").mkdir()
    sealed.write_json(recovered / "distilled" / "plan.json", {"stage": "relabel", "request": {"a": 1}, "parents": {}})
    run(recovered, "relabel")


def test_units_of_another_run_are_not_taken_for_ones_own(mini_run: Path, squeezed: Path, tmp_path: Path, capsys):
    """The same classes and sizes, other iterations; and two units of one run in each other's place."""
    shutil.copytree(mini_run / "recover", squeezed / "recover")
    interrupt(squeezed / "recover")
    before = {path: path.read_bytes() for path in (squeezed / "recover" / "units").iterdir()}
    first, second = sorted(before)
    edit = mini_recipe()
    other = edit.changed(recover=edit.recover.changed(iterations=9))
    shutil.copytree(squeezed / "squeeze", tmp_path / "other" / "squeeze")
    pipeline.run(other, tmp_path / "other", stage="recover", quiet=True)
    shutil.copy(tmp_path / "other" / "recover" / "units" / first.name, first)
    second.write_bytes(before[first])
    capsys.readouterr()
    pipeline.run(mini_recipe(), squeezed, stage="recover")
    said = capsys.readouterr().err
    assert f"{first} belongs to another run; it is made again" in said
    assert f"{second} does not hold the images of {second.stem}; it is made again" in said
    assert {path: path.read_bytes() for path in before} == before


def test_a_manifest_that_was_edited_is_refused_with_the_folder(finished: Path):
    path = finished / "recover" / "manifest.json"
    path.write_text(path.read_text().replace('"num_images": 20', '"num_images": 21'))
    with pytest.raises(AttarError, match=rf"{path} is damaged or was edited.*delete the folder {path.parent}"):
        run(finished, "recover")


def test_a_manifest_of_another_stage_is_refused(finished: Path):
    shutil.copy(finished / "recover" / "manifest.json", finished / "squeeze" / "manifest.json")
    with pytest.raises(AttarError, match=f"{finished}/squeeze/manifest.json is not a manifest of squeeze"):
        run(finished, "relabel")


def test_a_method_that_only_a_manifest_names_is_not_imported(finished: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "attar_never.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = finished / "recover" / "manifest.json"
    edit_json(path, request=sealed.read_json(path, "")["request"] | {"method": "attar_never"})
    with pytest.raises(AttarError, match="names the method 'attar_never', which is code outside.*--method attar_never"):
        run(finished, "evaluate")
    assert not (tmp_path / "called").exists()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make everything below a folder read-only, as a disk is that is mounted so; root ignores permissions."""
    original = open

    def protect(folder: Path) -> None:
        def refusing(file: Any, mode: str = "r", *more: Any, **others: Any) -> Any:
            if isinstance(file, str | Path) and Path(file).is_relative_to(folder) and set(mode) & set("wax+"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
            return original(file, mode, *more, **others)

        monkeypatch.setattr(builtins, "open", refusing)
        monkeypatch.setattr(io, "open", refusing)

    return protect


def test_a_finished_run_on_a_read_only_disk_can_be_asked_again(
    finished: Path, read_only: Callable[[Path], None], capsys: pytest.CaptureFixture
):
    before = [line.top1_mean for line in pipeline.run(mini_recipe(), finished, quiet=True).table]
    log = (finished / "log.jsonl").read_bytes()
    (finished / "report" / "table.csv").write_text("of an earlier version")
    capsys.readouterr()
    read_only(finished)
    assert [line.top1_mean for line in pipeline.run(mini_recipe(), finished).table] == before
    said = capsys.readouterr().err
    assert f"warning: the files in {finished / 'report'} stay as they are: {finished / 'report'}" in said
    assert said.rstrip().endswith("is on a read-only disk")
    printed.report([finished], None, None)
    shown = capsys.readouterr()
    assert f"attar: the files in {finished / 'report'} stay as they are" in shown.err
    assert "distilled" in shown.out
    assert (finished / "log.jsonl").read_bytes() == log


def test_a_run_that_needs_work_on_a_read_only_disk_is_a_sentence(finished: Path, read_only: Callable[[Path], None]):
    next((finished / "recover" / "data").glob("*.parquet")).unlink()
    read_only(finished)
    with pytest.raises(AttarError, match=rf"{finished}/.*[Rr]ead-only"):
        run(finished, "recover")
