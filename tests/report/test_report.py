import csv
import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from attar.cli import main
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.log import Log, readable_bytes
from attar.data.load import load
from attar.report import architectures, card, drawn, figures, pages, per_class, printed, table
from attar.report.table import Line, percent
from attar.stages.dataset_info import read_info
from attar.stages.rows import ROWS
from attar.stages.run import Run
from conftest import edit_json, mini_recipe


def test_csv_has_every_column_and_row(mini_run):
    rows = list(csv.DictReader(io.StringIO((mini_run / "report" / "table.csv").read_text())))
    assert [row["row"] for row in rows] == list(map(str, ROWS))
    assert all(row["device"] and float(row["train_seconds"]) > 0 for row in rows)
    assert all(0 <= float(row["ece_mean"]) <= 100 for row in rows)
    assert [bool(row["teacher_agreement"]) for row in rows] == [row["row"] != "full" for row in rows]


def test_markdown_has_a_line_for_each_row(mini_run):
    text = table.as_markdown(table.lines(mini_run))
    assert len(text.splitlines()) == 2 + len(ROWS)
    assert len({line.count("|") for line in text.splitlines()}) == 1
    for column in ("image bytes", "label bytes", "teacher s", "images s", "labels s", "student s", "ECE %"):
        assert f"| {column} |" in text


def test_the_page_tells_of_stages_and_classes(mini_run):
    page = (mini_run / "report" / "table.md").read_text()
    assert "Wall seconds (processor seconds) of all processes: squeeze " in page
    assert "Classes (distilled, convnet3): best " in page
    assert not (mini_run / "report" / "architectures.csv").exists()  # a single student


def test_accuracy_by_class_has_the_accuracy_of_all_for_its_mean(mini_run):
    rows = list(csv.DictReader(io.StringIO((mini_run / "report" / "per-class.csv").read_text())))
    assert len(rows) == 10 * len(ROWS)
    labels = load(mini_recipe().data, 0, Log(quiet=True)).val.labels
    for line in table.lines(mini_run):
        own = [row for row in rows if row["row"] == line.row]
        assert [row["class"] for row in own] == [str(digit) for digit in range(10)]
        assert {row["num_seeds"] for row in own} == {"2"}
        counts = [sum(int(label) == digit for label in labels) for digit in range(10)]
        hits = sum(float(row["top1_mean"]) * count for row, count in zip(own, counts, strict=True))
        assert hits / len(labels) == pytest.approx(line.top1_mean, abs=0.02)


def written(folder: Path, top1: dict[str, list[list[float | None]]], titles: dict[str, str]) -> Path:
    """A run's accuracies by class: for each row those of its seeds."""
    scores = [
        {"row": row, "student": "s", "seed": seed, "top1": values}
        for row, seeds in top1.items()
        for seed, values in enumerate(seeds)
    ]
    (folder / "evaluate").mkdir()
    content = {"classes": ["n1", "n2", "n3", "n4"], "titles": titles, "scores": scores}
    (folder / "evaluate" / "per-class.json").write_text(json.dumps(content))
    return folder


def test_the_best_and_worst_classes_are_named_by_their_titles(tmp_path):
    accuracies = {"distilled": [[0.5, 0.1, 1.0, None], [0.7, 0.1, 1.0, None]], "full": [[1, 1, 1, None]]}
    run = written(tmp_path, accuracies, {"n1": "tench"})
    assert per_class.extremes(run) == "Classes (distilled, s): best 'n3' 100 %; worst 'n2' 10 %"
    chosen = line_of(row="distilled", student="s", method="random")
    assert per_class.extremes(run, [chosen]).startswith("Classes (random real, soft labels, s): best")
    first = per_class.as_csv(run).splitlines()[1]
    assert first == f"{run.name},distilled,s,n1,tench,2,60.0,14.14"
    assert len(per_class.as_csv(run).splitlines()) == 1 + 2 * 3  # a class without images has no line


HOSTILE = "\x1b]0;owned\x07<img src=x>|[a](b)\nattar: done"
WRITTEN_OUT = "\\x1b]0;owned\\x07<img src=x>|[a](b)\\nattar: done"


def test_runs_with_one_name_have_the_lines_of_their_own_table(mini_run, tmp_path, capsys, monkeypatch):
    runs = [tmp_path / name / "mine" for name in ("first", "second")]
    for run in runs:
        run.parent.mkdir()
        run.symlink_to(mini_run)
    names = table.names_of(runs)
    lines = [dataclasses.replace(line, run=names[run]) for run in runs for line in table.lines(run)]
    monkeypatch.setattr(per_class, "extremes", lambda run, lines: f"of <{', '.join({line.run for line in lines})}>")
    printed.print_tables(runs, lines)
    said = capsys.readouterr().out.replace("\n", "")
    assert all(f"{run}: of <{names[run]}>" in said for run in runs)


def test_names_of_classes_are_written_out_for_terminals_and_programs(tmp_path):
    run = written(tmp_path, {"distilled": [[0.5, 0.1, 1.0, 0.2]]}, {"n3": HOSTILE})
    assert f"best '{WRITTEN_OUT}' 100 %" in per_class.extremes(run)
    names = [row["title"] for row in csv.DictReader(io.StringIO(per_class.as_csv(run)))]
    assert names == ["n1", "n2", WRITTEN_OUT, "n4"]


def test_names_from_elsewhere_are_no_markup_on_pages(mini_run):
    named = {"source": HOSTILE, "licence": HOSTILE}
    info = read_info(mini_run / "distilled").model_copy(update=named)
    hostile = [line_of(run=HOSTILE, protocol=HOSTILE), line_of(run="b")]
    for page in (card.text(info, hostile), table.as_markdown(hostile), architectures.as_markdown(hostile)):
        assert all(character.isprintable() or character == "\n" for character in page)
        assert "<img" not in page
        assert "\nattar: done" not in page
    assert len({line.replace("\\|", "").count("|") for line in table.as_markdown(hostile).splitlines()}) == 1
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table.for_terminal(hostile, 400))
    assert WRITTEN_OUT.split("|")[0] in console.export_text()


def test_a_class_named_as_a_formula_is_drawn_as_it_is(tmp_path):
    figure = figures._matrix([torch.zeros(1, 3, 4, 4, dtype=torch.uint8)], ["a$\\frac$"], {})
    figure.savefig(tmp_path / "a.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a$\\frac$"]


def test_every_image_is_drawn_in_its_row_and_column():
    colours = torch.tensor([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [90, 90, 90]]], dtype=torch.uint8)
    images = colours[..., None, None].expand(2, 2, 3, 4, 4)
    figure = figures._matrix([images[0], images[1, :1]], ["first", "second"], {0: "8", 1: "16"})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    (axis,) = figure.axes
    for row, column, expected in ((0, 0, [250, 0, 0]), (0, 1, [0, 250, 0]), (1, 0, [0, 0, 250]), (1, 1, [255] * 3)):
        across, up = axis.transData.transform((column, row)).round().astype(int)
        assert drawn[len(drawn) - up, across].tolist() == expected
    assert [label.get_text() for label in axis.get_xticklabels()] == ["8", "16"]


def line_of(**changes: Any) -> Line:
    values = {field.name: 1.0 for field in dataclasses.fields(Line)}
    values |= {"published_top1": None, "num_val": None, "largest_class": None}
    return Line(**values | {"run": "a", "row": "distilled", "student": "s", "protocol": "p"} | changes)


def test_students_stand_side_by_side():
    lines = [
        line_of(top1_mean=50.0, top1_std=2.0, class_top1_mean=48.0, class_top1_std=3.0),
        line_of(student="t", top1_mean=40.0, top1_std=None, class_top1_mean=None, class_top1_std=None),
        line_of(row="full", student="s", top1_mean=90.0, top1_std=0.5, class_top1_mean=89.0, class_top1_std=0.25),
        line_of(row="full", student="teacher-net", protocol="the teacher"),
    ]
    assert architectures.as_markdown(lines).splitlines() == [
        "| trained on | s | t |",
        "| --- | ---: | ---: |",
        "| distilled | 50.0 ± 2.0 / 48.0 ± 3.0 | 40.0 / - |",
        "| all real images | 90.0 ± 0.5 / 89.0 ± 0.2 | - |",
    ]
    assert architectures.as_csv(lines).splitlines() == [
        "run,row,s top1_mean,s top1_std,s class_top1_mean,s class_top1_std,"
        "t top1_mean,t top1_std,t class_top1_mean,t class_top1_std",
        "a,distilled,50.0,2.0,48.0,3.0,40.0,,,",
        "a,full,90.0,0.5,89.0,0.25,,,,",
    ]
    assert architectures.as_markdown([lines[0], lines[3]]) == ""
    assert architectures.for_terminal(lines[:1], 200) is None


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_narrow_terminal_goes_without_what_it_has_no_room_for(mini_run, width):
    shown = table.for_terminal(table.lines(mini_run), width)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert "…" not in text
    assert all(column in text for column in ("top-1 %", "image bytes", "label bytes"))
    assert ("teacher s" in text) == (width == 160)


def test_a_teacher_that_was_brought_along_has_no_seconds():
    text = table.as_markdown([line_of(teacher_seconds=None, images_seconds=0.0, labels_seconds=1234.5)])
    assert "| - | 0 | 1,234 | 1.0 |" in text.replace("1,235", "1,234")


def test_an_evaluation_of_another_version_is_refused(mini_run, tmp_path):
    shutil.copytree(mini_run / "evaluate", tmp_path / "evaluate")
    edit_json(tmp_path / "evaluate" / "manifest.json", result={"scores": []})
    with pytest.raises(AttarError, match="older attar; run 'attar evaluate'"):
        table.lines(tmp_path)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (28_330_000_000, "28.3 GB"), (10**15, "1000 TB")]
)
def test_bytes_are_readable(count, text):
    assert readable_bytes(count) == text


def test_a_mean_shows_its_spread_when_there_is_one():
    assert percent(91.234, 0.44) == "91.2 ± 0.4"
    assert percent(91.234, None) == "91.2"


@pytest.mark.parametrize("name", ["grid.png", "film.png", "curves.png", "accuracy.png", "accuracy-cost.png"])
def test_pictures_are_drawn(mini_run, name):
    with Image.open(mini_run / "report" / name) as picture:
        assert min(picture.size) > 100
        assert len(picture.convert("L").getcolors()) > 20
    assert (mini_run / "report" / name).with_suffix(".svg").read_text().rstrip().endswith("</svg>")


def unsealed(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}


def test_students_that_diverged_are_marked_and_in_no_mean():
    some = line_of(num_seeds=2, num_diverged=1, num_classes=10, top1_mean=50.0, top1_std=None)
    none = line_of(num_seeds=0, num_diverged=3, top1_mean=None)
    none = dataclasses.replace(none, class_top1_mean=None, top5_mean=None, ece_mean=None, num_classes=10)
    page = table.as_markdown([some, none])
    assert "| 50.0 | 1.0 ± 1.0 | 1.0 ± 1.0 | 2 of 3 |" in page
    assert "| diverged | - | - | 0 of 3 | - |" in page
    assert table.notes([some])[0].startswith("n: students in the mean, of those trained")
    assert "| diverged | 50.0 / 1.0 ± 1.0 |" in architectures.as_markdown(
        [none, dataclasses.replace(some, student="t")]
    )


def test_with_fewer_than_ten_classes_there_is_no_top_5():
    assert "top-5" not in table.as_markdown([line_of(num_classes=9)])
    assert "top-5" in table.as_markdown([line_of(num_classes=9), line_of(num_classes=10)])


def test_classes_without_validation_images_are_counted():
    assert table.notes([line_of(num_unmeasured=0, num_diverged=0)]) == []
    (note,) = table.notes([line_of(num_unmeasured=2, num_classes=7, num_diverged=0)] * 2)
    assert note == "class mean % leaves out 2 of 7 classes, which have no validation images."
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table.for_terminal([line_of(num_unmeasured=2, num_classes=7, num_diverged=0)], 100))
    assert note in console.export_text()


def test_the_card_has_bytes_and_seconds(mini_run):
    text = (mini_run / "distilled" / "README.md").read_text()
    assert "| teacher s | images s | labels s | student s |" in text
    assert "| herding, soft labels |" in text


def test_a_card_without_scores_says_so(mini_run):
    assert "Not evaluated yet." in card.text(read_info(mini_run / "distilled"), [])


def test_stages_tell_their_seconds(mini_run):
    costs = Run(mini_run).elapsed()
    assert set(costs) == {"squeeze", "recover", "relabel", "evaluate"}
    assert all(elapsed.seconds > 0 and (elapsed.processor_seconds or 0) > 0 for elapsed in costs.values())
    for line in table.lines(mini_run):
        assert (line.teacher_processor_seconds == 0) == (line.teacher_seconds == 0)
        assert (line.train_processor_seconds or 0) > 0


def test_a_stage_of_an_older_attar_has_wall_seconds_alone(mini_run, tmp_path):
    shutil.copytree(mini_run / "squeeze", tmp_path / "squeeze")
    manifest = unsealed(tmp_path / "squeeze" / "manifest.json")
    del manifest["processor_seconds"]
    (tmp_path / "squeeze" / "manifest.json").write_text(json.dumps(manifest | {"device_seconds": 12.0}))
    assert Run(tmp_path).elapsed() == {"squeeze": Elapsed(12.0, None)}
    assert pages.elapsed(tmp_path).endswith(": squeeze 12.0 s")
    for seconds in (-1, None, math.nan, "soon"):
        (tmp_path / "squeeze" / "manifest.json").write_text(json.dumps(manifest | {"device_seconds": seconds}))
        with pytest.raises(AttarError, match="squeeze/manifest.json is damaged .*delete the folder"):
            Run(tmp_path).elapsed()


def test_more_students_than_fit_stand_below_each_other():
    names = [f"a-network-number-{number}" for number in range(6)]
    lines = [line_of(student=name, row=row) for row in ("distilled", "full") for name in names]
    wide, narrow = architectures.for_terminal(lines, 200), architectures.for_terminal(lines, 80)
    assert wide is not None
    assert narrow is not None
    assert [column.header for column in wide.columns] == ["trained on", *names]
    assert [column.header for column in narrow.columns] == ["student", "distilled", "all real images"]
    assert narrow.row_count == 6


def test_names_are_no_markup():
    shown = table.for_terminal([line_of(run=run) for run in ("a[best]", "b[/]")], 200)
    console = Console(width=200, record=True)
    console.print(shown)
    said = console.export_text()
    assert "a[best]: distilled" in said
    assert "b[/]: distilled" in said


def test_lines_of_several_protocols_name_theirs():
    both = [line_of(protocol=name) for name in ("cda v1", "rded v1")]
    assert "| protocol |" in table.as_markdown(both)
    assert "| rded v1 |" in table.as_markdown(both)
    assert "protocol" not in table.as_markdown([*both[:1], line_of(row="full", protocol="full data")])


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    assert table.names_of(runs) == {runs[0]: str(runs[0]), runs[1]: str(runs[1]), runs[2]: "other"}


UNKNOWN = "and may contain parts of them. This set"


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("cda", {"ipc": 2}, "Distilled images can show what a teacher remembers of its training images. This set"),
        ("random", {"ipc": 2}, "Its images *are* real training images, or contain parts of them. This set"),
        ("kcentre", {"ipc": 2}, "Its images *are* real training images, or contain parts of them. This set"),
        (
            "imported",
            {"ipc": 2, "images": "0"},
            UNKNOWN,
        ),
        ("attar_never.method", {"ipc": 2}, UNKNOWN),
        ("cda", {"ipc": "many"}, UNKNOWN),
    ],
)
def test_the_card_asks_the_method_whether_real_pixels_are_stored(mini_run, method, settings, words):
    info = read_info(mini_run / "distilled").changed(method=method, recover=settings)
    assert f"{words} does not protect the privacy of people in the data." in card.text(info, [])


def test_the_card_of_a_run_knows_its_own_settings(mini_run):
    assert card.stores_real_pixels(read_info(mini_run / "distilled")) is False
    assert "attar does not know" not in (mini_run / "distilled" / "README.md").read_text()


def test_a_card_with_scores_of_hard_labels_alone_shows_how_to_train_on_them(mini_run):
    info, lines = read_info(mini_run / "distilled"), table.lines(mini_run)
    hard = card.text(info, [line for line in lines if line.row.endswith("-hard")])
    assert 'device="cpu", soft=False):' in hard
    assert "their classes as hard labels, which the students below are trained on; the set also holds soft" in hard
    assert "soft=False" not in card.text(info, lines)


def test_figures_of_accuracies_show_chance_where_all_lines_share_it():
    same, other = line_of(num_classes=10, top1_mean=50.0), line_of(num_classes=4)
    for figure, count in ((figures.accuracies([same]), 1), (figures.cost([same, same]), 2)):
        marked = [axis for axis in figure.axes if "chance" in [text.get_text() for text in axis.texts]]
        assert len(marked) == count
    assert not [text for text in figures.accuracies([same, other]).axes[0].texts if text.get_text() == "chance"]


@pytest.mark.parametrize("seconds", [(75.0, 90.0, 180.0), (100.0, 100.0, 100.0), (0.0, 1.0, 40_000.0)])
def test_the_axes_of_cost_have_numbers_to_read_values_by(seconds, tmp_path):
    lines = [line_of(top1_mean=50.0, train_seconds=value) for value in seconds]
    figure = figures.cost(lines)
    figure.savefig(tmp_path / "cost.png")
    for axis in figure.axes:
        low, high = axis.get_xlim()
        assert sum(low <= tick <= high for tick in axis.get_xticks()) >= 2


def test_long_class_names_end_in_dots_and_nothing_is_cut_off(tmp_path):
    info = SimpleNamespace(titles={})
    distilled: Any = SimpleNamespace(classes=("W" * 40, "x" * 24), info=info)
    titles = [figures._title(distilled, label) for label in (0, 1)]
    assert titles == ["W" * 23 + "…", "x" * 24]
    rows = [torch.zeros(1, 3, 4, 4, dtype=torch.uint8)] * 2
    png, _ = drawn.write(figures._matrix(rows, titles, {0: "a heading wider than its image"}), tmp_path / "grid")
    shown = np.asarray(Image.open(png).convert("L"))
    assert min(edge.min() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1])) == 255


def test_a_card_of_one_image_per_class_says_so(mini_run):
    info = read_info(mini_run / "distilled")
    assert "# digits, distilled: 1 image per class\n" in card.text(info.model_copy(update={"ipc": 1}), [])
    assert "# digits, distilled: 2 images per class\n" in card.text(info, [])


def test_what_the_health_checks_found_is_in_the_report(finished, capsys, unrendered):
    log = Log(finished / "recover" / "log.jsonl", quiet=True)
    log.warn("2 of 20 images are of one colour", check="flat-images")
    log.warn("of another kind")
    main(["report", str(finished)])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "warning: 2 of 20 images are of one colour"
    assert "of another kind" not in said
    assert "- 2 of 20 images are of one colour" in (finished / "report" / "table.md").read_text()
