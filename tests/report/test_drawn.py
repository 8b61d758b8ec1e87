"""report/drawn.py: figures are kept while nothing that they show has changed, and never shown old."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar import pipeline
from attar.cli import main
from attar.core.log import Log
from attar.report import drawn, figures, publish, table
from attar.report.table import Line
from conftest import mini_recipe

LINE = Line(**{field.name: 1.0 for field in dataclasses.fields(Line)})  # type: ignore[arg-type]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of figures in the order in which they are drawn; instead of pictures their numbers are written."""
    found = list[str]()

    def write(figure: object, path: Path, **_: Any) -> list[Path]:
        found.append(path.name)
        files = [path.with_name(f"{path.name}.{ending}") for ending in drawn.ENDINGS]
        for file in files:
            file.write_text(f"figure {len(found)}")
        return files

    monkeypatch.setattr(drawn, "write", write)
    return found


def shown(*values: Any) -> Any:
    """Stands for a function that draws; ``names`` writes no picture of it."""
    return values


def otherwise(*values: Any) -> Any:
    """Stands for another such function."""
    return values


def save(folder: Path, *values: Any, again: bool = False, draw: Any = shown) -> list[Path]:
    found = drawn.Figures(folder, again=again)
    found.save("a", draw, *values)
    found.finish(["a"])
    return found.written


def test_a_figure_of_the_same_values_is_kept(tmp_path: Path, names: list[str]):
    values = (torch.zeros(2, 3), [LINE], {0.5: "8", 1: "16"}, None)
    assert [file.name for file in save(tmp_path, *values)] == ["a.png", "a.svg"]
    assert [file.name for file in save(tmp_path, *values)] == ["a.png", "a.svg"]
    assert names == ["a"]
    save(tmp_path, *values, again=True)
    assert names == ["a", "a"]
    save(tmp_path, *values)
    assert names == ["a", "a"]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Line)])
def test_a_figure_is_drawn_again_for_every_value_of_a_line(name: str, tmp_path: Path, names: list[str]):
    save(tmp_path, [LINE])
    save(tmp_path, [dataclasses.replace(LINE, **{name: "another"})])
    assert names == ["a", "a"]


@pytest.mark.parametrize(
    "other",
    [torch.tensor([1, 2, 4]), torch.tensor([[1, 2, 3]]), torch.tensor([1, 2, 3], dtype=torch.uint8), None, [1, 2, 3]],
)
def test_a_figure_is_drawn_again_for_other_pixels(other: Tensor | None, tmp_path: Path, names: list[str]):
    save(tmp_path, torch.tensor([1, 2, 3]))
    save(tmp_path, other)
    assert names == ["a", "a"]


def test_a_figure_is_drawn_again_by_other_code(tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1)
    save(tmp_path, 1, draw=otherwise)
    monkeypatch.setattr(drawn, "_code", lambda: ["another version"])
    save(tmp_path, 1, draw=otherwise)
    assert names == ["a", "a", "a"]


def test_every_source_file_counts_as_code_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listed = {file.relative_to(Path(drawn.__file__).parents[1]).as_posix() for file in drawn._sources()}
    assert {"report/figures.py", "report/drawn.py", "report/table.py", "stages/rows.py", "core/log.py"} <= listed
    file = tmp_path / "drawing.py"
    monkeypatch.setattr(drawn, "_sources", lambda: [file])
    found = list[list[str]]()
    for text in ("before", "after"):
        file.write_text(text)
        found.append(drawn._code.__wrapped__())
    assert found[0][:-1] == found[1][:-1]
    assert found[0][-1] != found[1][-1]


def test_values_that_cannot_be_compared_are_refused(tmp_path: Path, names: list[str]):
    with pytest.raises(TypeError, match="a figure cannot be drawn from object"):
        save(tmp_path, object())


def test_a_run_that_is_asked_again_keeps_its_figures_and_a_report_by_hand_draws_them(finished: Path, names: list[str]):
    folder = finished / "report"
    pictures = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".png", ".svg")}
    pipeline.run(mini_recipe(), finished, quiet=True)
    assert sorted(names) == ["accuracy", "accuracy-cost"]  # the folder of this copy has another name
    assert (folder / "film.png").read_bytes() == pictures["film.png"]
    names.clear()
    pipeline.run(mini_recipe(), finished, quiet=True)
    assert names == []
    main(["report", str(finished)])
    assert names == list(figures.NAMES)


def test_a_kept_figure_is_the_one_that_would_be_drawn(mini_run: Path, tmp_path: Path):
    kept = mini_run / "report"
    for file in figures.write_all(mini_run, tmp_path, table.lines(mini_run)):
        assert file.read_bytes() == (kept / file.name).read_bytes()


def published(run: Path) -> None:
    """Write what ``attar run`` writes at its end."""
    publish.publish(run, ("relabel", "evaluate"), pytest.fail)


@pytest.mark.parametrize(
    ("file", "expected"),
    [("grid.svg", ["grid"]), ("film.png", ["film"]), (drawn.RECORD, list(figures.NAMES))],
)
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_files_are_drawn_again(finished: Path, names: list[str], file: str, expected: list[str], damage: str):
    published(finished)
    names.clear()
    path = finished / "report" / file
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[:-9] + b"#" + content[-8:])
    published(finished)
    assert names == expected
    names.clear()
    published(finished)
    assert names == []


def test_other_scores_are_drawn_and_other_warnings_are_on_the_page(finished: Path, names: list[str]):
    pipeline.run(mini_recipe(), finished, quiet=True)
    names.clear()
    recipe = mini_recipe()
    fewer = recipe.changed(evaluate=recipe.evaluate.changed(num_seeds=1))
    Log(finished / "recover" / "log.jsonl", quiet=True).warn("2 of 20 images are of one colour", check="flat-images")
    pipeline.run(fewer, finished, quiet=True)
    assert names == ["accuracy", "accuracy-cost"]
    for name in ("index.html", "table.md"):
        assert "2 of 20 images are of one colour" in (finished / "report" / name).read_text()


def test_figures_that_only_an_earlier_report_had_are_removed(finished: Path, monkeypatch: pytest.MonkeyPatch, names):
    monkeypatch.setattr(figures, "first_unit", lambda run: None)
    published(finished)
    left = {file.stem for file in (finished / "report").glob("*.svg")}
    assert left == {"grid", "accuracy", "accuracy-cost"}
