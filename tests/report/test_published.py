"""Published accuracies beside a run's own, in every table."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from attar import pipeline
from attar.core.errors import AttarError
from attar.recipes import catalogue
from attar.recipes.published import row
from attar.recipes.recipe import BuiltInRecipe
from attar.report import latex, pages, table
from attar.report.page import write
from attar.stages import published_figures
from attar.stages.published_figures import FILE, Beside
from conftest import edit_json, mini_recipe

FIGURES = row("paper, Table 1", (91.2, 0.4), students=("convnet3",)).figures
HARD = row(
    "paper", 52.0, students=("convnet3",), labels="hard", said="as B quotes A", unlike="on whitened images"
).figures


def with_figures(run: Path, *changed: str) -> list[table.Line]:
    published_figures.write(run, Beside("mini", FIGURES + HARD, changed))
    return table.lines(run)


def test_only_distilled_sets_have_the_published_accuracy(finished: Path):
    lines = with_figures(finished)
    found = {line.row: line.published_top1 for line in lines if line.published_top1 is not None}
    assert found == {"distilled": 91.2, "distilled-hard": 52.0}
    text = pages.tables(lines)
    assert "| published % |" in text
    assert "| 91.2 ± 0.4 |" in text
    assert "| 52.0* |" in text
    assert "published %: 91.2 ± 0.4 from paper, Table 1." in text
    assert "With *: published on whitened images." in text
    assert "as B quotes A" in table.as_csv(lines)


def test_a_changed_recipe_marks_the_figure(finished: Path):
    changes = ("recover.iterations 4000 -> 4", "a.b 1 -> 2", "a.c 1 -> 2", "a.d 1 -> 2")
    lines = with_figures(finished, *changes)
    (note,) = (note for note in table.notes(lines) if "as it is" in note)
    assert note.endswith("this run changed recover.iterations 4000 -> 4, a.b 1 -> 2, a.c 1 -> 2 and 1 more setting.")
    text = latex.of_lines(lines)
    assert "91.2 $\\pm$ 0.4*" in text
    assert f"% {note}" in text
    page = write.run_page(finished, lines, finished / "page.html").read_text()
    assert '<td class="number">91.2 ± 0.4*</td>' in page
    assert "recover.iterations 4000 -&gt; 4" in page


def test_a_terminal_keeps_within_its_width(finished: Path):
    for width in (80, 100):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table.for_terminal(with_figures(finished, "recover.iterations 4000 -> 4"), width))
        text = console.export_text()
        assert "published %" in text
        assert "91.2 ± 0.4*" in text
        assert "…" not in text


def test_other_students_and_imported_images_have_none(finished: Path):
    published_figures.write(finished, Beside("mini", row("paper", 91.2).figures))  # of a ResNet-18
    assert "published" not in table.as_markdown(table.lines(finished))
    with_figures(finished)
    edit_json(finished / "recover" / "manifest.json", request={"method": "imported", "recover": {"ipc": 2}})
    assert "published" not in table.as_markdown(table.lines(finished))


def test_a_run_writes_the_figures_of_its_recipe_and_removes_those_of_another(
    finished: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = mini_recipe()
    entry = BuiltInRecipe(row("paper, Table 1", 91.2, students=("convnet3",)), "", lambda: recipe)
    monkeypatch.setitem(catalogue.ENTRIES, recipe.name, entry)
    lines = pipeline.run(recipe, finished, stage="evaluate", quiet=True).table
    assert published_figures.read(finished) == Beside(recipe.name, entry.published.figures)
    assert {line.published_top1 for line in lines if line.row == "distilled"} == {91.2}
    others = {name: other for name, other in catalogue.ENTRIES.items() if name != recipe.name}
    monkeypatch.setattr(catalogue, "ENTRIES", others)  # an item that is taken out would come back as the last one
    pipeline.run(recipe, finished, stage="evaluate", quiet=True)
    assert not (finished / FILE).exists()


def test_a_damaged_file_is_refused_and_a_run_without_one_has_no_column(finished: Path):
    assert published_figures.read(finished) is None
    with_figures(finished)
    path = finished / FILE
    path.write_text(path.read_text().replace("91.2", "97.2"))
    with pytest.raises(AttarError, match=r"published\.json is damaged .*delete it and run the same command again"):
        table.lines(finished)
    published_figures.write(finished, None)
    assert not path.exists()
