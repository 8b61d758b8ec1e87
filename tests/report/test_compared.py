"""report/compared.py: lines as tables and figures."""

from dataclasses import replace

from attar.report import compared
from attar.report.compared import Line

DM = Line(
    method="dm", labels="hard", budget_bytes=16_000, state="done", why="", ipc=4, most_bytes=15_000, folder="dm",
    student="convnet3", num_images=40, image_bytes=14_000, label_bytes=0, total_bytes=14_000, top1_mean=90.0,
    top1_std=1.0, num_seeds=3, real_num_images=55, real_bytes=13_900, real_top1_mean=80.5, real_top1_std=2.0,
    full_top1_mean=99.0, teacher_seconds=0.0, images_seconds=10.0, labels_seconds=0.0, train_seconds=2.0,
    device_seconds=12.0, processor_seconds=11.0, real_train_seconds=2.0,
)  # fmt: skip
MORE = replace(DM, budget_bytes=32_000, total_bytes=33_000, real_bytes=32_500, device_seconds=20.0)
NONE = replace(DM, method="cda", labels="soft", state="impossible", why="one image per class takes 63 kB", ipc=0)
LOST = replace(DM, state="failed", why="The disk is full.")


def test_the_table_says_what_there_is_and_what_is_not():
    text = compared.as_markdown([DM, MORE, NONE, replace(NONE, budget_bytes=32_000), LOST])
    assert "| dm:hard | 16 kB | 14 kB | 40 | 90.0 ± 1.0 | 3 | 55 | 80.5 ± 2.0 | +9.5 | 12 | 11 |" in text
    assert "All real images: 99.0 % (convnet3)." in text
    assert "dm:hard takes 33 kB, more than its budget." in text
    assert "cda:soft at 16 kB and 32 kB is impossible: one image per class takes 63 kB." in text
    assert "dm:hard at 16 kB failed: The disk is full." in text


def test_several_students_have_a_column_and_curves_of_their_own(tmp_path):
    other = replace(DM, student="convnet2")
    header, rows = compared.cells([DM, other])
    assert [row[header.index("student")] for row in rows] == ["convnet3", "convnet2"]
    assert len(compared.draw([DM, MORE, other], tmp_path)) == 4


def test_a_student_that_diverged_has_no_point(tmp_path):
    lost = replace(DM, top1_mean=None, top1_std=None, num_seeds=0)
    assert compared.draw([lost, NONE], tmp_path) == []
    assert "| - | 0 |" in compared.as_markdown([lost])


def test_figures_show_each_method_and_the_line_to_beat():
    figure = compared._figure([DM, MORE], "bytes", "total_bytes", ("real_bytes", "real"), str)
    (plot,) = figure.axes
    curves = {each.get_label(): each[0].get_xydata().tolist() for each in plot.containers}
    assert curves == {"dm:hard": [[14_000, 90], [33_000, 90]], "real": [[13_900, 80.5], [32_500, 80.5]]}
    assert plot.get_xscale() == "log"
    assert "chance" not in [text.get_text() for text in plot.texts]
    known = [replace(line, num_classes=10) for line in (DM, MORE)]
    (plot,) = compared._figure(known, "bytes", "total_bytes", ("real_bytes", "real"), str).axes
    assert "chance" in [text.get_text() for text in plot.texts]
