"""The scripts in benchmarks/: the check before the timing, the table, and what they skip and refuse."""

import copy
import csv
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from attar.core import device
from attar.methods import cda
from attar.synthesis.starts import noise

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = ("plain", "sides", "recover", "limits", "processor")
UNIT = 3


@pytest.fixture(scope="module")
def recover() -> Iterator[ModuleType]:
    """The script as a module, with rows of two units of three small images; each teacher is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        sides = importlib.import_module("sides")
        trained = functools.cache(sides.teacher_of)
        patch.setattr(sides, "teacher_of", lambda *row: copy.deepcopy(trained(*row)))
        module = importlib.import_module("recover")
        config = module.ROWS["cifar-cpu"].config.changed(ipc=2, unit_classes=UNIT, parallel_units=2)
        for precision in ("fp32", "bf16"):
            module.ROWS[precision] = module.Row("resnet20", UNIT, 16, config, "cpu", precision, target=1e6)
        yield module
    for name in MODULES:
        sys.modules.pop(name, None)


def sides_of(recover: ModuleType, name: str) -> Any:
    row = recover.ROWS[name]
    return recover.Sides(row, recover.teacher_of(row.network, row.num_classes, row.size, row.device), quick=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_that_agrees_is_timed(
    recover: ModuleType, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "computes_bf16", lambda _: True)
    monkeypatch.setattr(recover, "peak_of", lambda *_: 3 * 2**20)
    assert recover.main(["--rows", precision, "--quick", "--csv", str(tmp_path / "lines.csv")]) == 0
    printed = capsys.readouterr().out
    header, titles, *table = printed.splitlines()
    assert f"torch {torch.__version__}" in header
    assert [titles[line.index(line.strip()[0]) :].split()[0] for line in table[:3]] == ["row", "side", "side"]
    assert "1e+06x missed" in table[0]
    assert all("3 MiB" in line for line in table[:3])
    for images in ("noise", "pictures"):
        assert f"    fp32, 3 images of {images}: loss" in printed
        assert f"    {precision}, 6 images of {images}: loss" in printed
    with (tmp_path / "lines.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["side"] for line in lines] == ["plain", "plain, memory kept", "attar"]
    assert [line["precision"] for line in lines] == ["fp32", "fp32", precision]
    for line in lines:
        number = {key: float(line[key]) for key in line if key not in ("row", "side", "precision") and line[key]}
        assert number["num_blocks"] == 2
        assert number["faster_low"] <= number["faster"] <= number["faster_high"]
        assert number["seconds_per_image"] == pytest.approx(4000 / number["image_iterations_per_second"])
        assert 0 < number["of_product"] < 1
        operations = number["flops"] / number["image_iterations_per_second"]
        assert operations == pytest.approx(2 * 2 * 40.8e6 / 4, rel=0.01), "of a ResNet-20 on 16 pixels, both ways"


def test_a_row_is_printed_and_kept_before_the_next_is_measured(
    recover: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    measure, printed, kept = recover.measure, [], tmp_path / "lines.csv"

    def noting(*arguments: Any) -> Any:
        printed.append((capsys.readouterr().out, kept.read_text() if kept.exists() else ""))
        return measure(*arguments)

    monkeypatch.setattr(recover, "measure", noting)
    monkeypatch.setattr(recover, "peak_of", lambda *_: None)
    assert recover.main(["--rows", "fp32,bf16", "--quick", "--csv", str(kept)]) == 0
    before, between = printed
    assert "plain fp32" not in before[0]
    assert "\nfp32  " in between[0]
    assert between[1].count("\n") == 4, "titles and three sides"


def heavier(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Statistics that weigh a hundredth more."""

    def wrong(self: Any, *arguments: Any) -> Tensor:
        config = self.config
        self.config = config.changed(bn_weight=1.01 * config.bn_weight)
        found = loss(self, *arguments)
        self.config = config
        return found

    return wrong


def unmoved(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Views without jitter."""

    def wrong(self: Any, pixels: Tensor, view: Any, labels: Tensor) -> Tensor:
        return loss(self, pixels, type(view)(view.box, view.flip, 0 * view.shift), labels)

    return wrong


@pytest.mark.parametrize("mistake", [heavier, unmoved])
def test_a_plain_loop_that_computes_something_else_ends_the_run(
    recover: ModuleType,
    mistake: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    loop = sys.modules["plain"].PlainLoop
    monkeypatch.setattr(loop, "loss", mistake(loop.loss))
    assert recover.main(["--rows", "fp32", "--quick"]) == 1
    printed = capsys.readouterr()
    fault = printed.err.splitlines()[-1]
    assert fault.startswith("attar and the plain loop do not compute the same: fp32, 3 images of noise: loss")
    assert "img-it/s" not in printed.out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_very_function_that_is_timed_is_checked(recover: ModuleType, precision: str):
    sides = sides_of(recover, precision)
    sides.run("attar", 1)
    right = sides.compiler.gradient

    def last_unit_reversed(*arguments: Any) -> Any:
        slope, *others = right(*arguments)
        return torch.cat([slope[:UNIT], -slope[UNIT:]]), *others

    assert len(recover.check(sides, recover.photographs())) == 4
    sides.compiler.gradient = last_unit_reversed
    with pytest.raises(recover.DisagreementError, match=f"{precision}, 6 images of noise"):
        recover.check(sides, recover.photographs())


def test_the_plain_loop_makes_the_images_that_attar_makes(recover: ModuleType):
    sides = sides_of(recover, "fp32")
    config = sides.row.config.changed(iterations=6)
    task = sides.task(monitor=SimpleNamespace(step=lambda *_, **__: None))
    images = cda.recover(task, config).images
    sides.plain.config = config
    draw_view = sys.modules["sides"].drawing(sides.task(1), config)
    pixels = sides.plain.recover(noise(sides.task(1)), task.labels[:UNIT], draw_view, task.monitor)
    plain = sys.modules["sides"].NORMALISATION.undo(pixels)
    start = sys.modules["sides"].NORMALISATION.undo(noise(sides.task(1))).clamp(0, 1)
    torch.testing.assert_close(plain, images[:UNIT], atol=1e-3, rtol=0)
    assert (plain - start).abs().max() > 0.1


def test_speed_counts_the_images_of_the_timed_iterations(recover: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """By a clock that is a second on whenever it is read, which is at the ends of the block."""
    seconds = iter(range(100))
    monkeypatch.setattr(sys.modules["sides"], "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    sides = sides_of(recover, "fp32")
    assert sides.run("plain", 2) == UNIT * 2
    assert sides.run("plain, memory kept", 4) == UNIT * 4
    assert sides.run("attar", 5) == 2 * UNIT * 5
    assert next(seconds) == 6


def test_rows_that_this_machine_cannot_do_are_skipped_with_a_sentence(
    recover: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "computes_bf16", lambda _: False)
    assert recover.main(["--rows", "tiny-cpu-bf16,tiny-gpu,imagenet-gpu,cifar-gpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "tiny-cpu-bf16 is skipped: this processor has no instructions for bf16.",
        *(f"{name} is skipped: there is no CUDA device here." for name in ("tiny-gpu", "imagenet-gpu", "cifar-gpu")),
    ]


def test_an_unknown_row_is_refused(recover: ModuleType, capsys: pytest.CaptureFixture):
    assert recover.main(["--rows", "fp32,cifer-cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("There is no row named 'cifer-cpu'; did you mean cifar-cpu")
    assert not printed.out


def test_pictures_of_a_folder_can_be_taken_instead(recover: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "notes.txt").write_text("no picture")
    assert recover.main(["--rows", "fp32", "--images", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("There are no pictures in")
    (tmp_path / "inner").mkdir()
    Image.new("L", (7, 5), 200).save(tmp_path / "inner" / "grey.png")
    (picture,) = recover.pictures_in(tmp_path)
    assert picture.shape == (3, 5, 7)
    assert picture.dtype == torch.uint8
    assert (picture == 200).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
@pytest.mark.slow
def test_the_peak_of_a_side_is_that_of_its_activations(recover: ModuleType):
    kept_for_the_way_back = 10 * 2 * 7 * (16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8) * 4
    assert kept_for_the_way_back < recover.peak_of("cifar-cpu", "plain", True) < 20 * kept_for_the_way_back


def test_where_the_time_of_a_step_goes(recover: ModuleType, capsys: pytest.CaptureFixture):
    limits, threads = importlib.import_module("limits"), torch.get_num_threads()
    assert limits.main(["--rows", "fp32", "--quick"]) == 0
    assert torch.get_num_threads() == threads
    title, share, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("fp32: attar fp32, 6 images at a time; a large matrix product runs at ")
    assert share.endswith("% of the faster product")
    milliseconds = [float(line.split(" ms")[0].split()[-1]) for line in lines]
    _, attar, forth, back, rest, convolutions, _ = milliseconds
    assert attar == pytest.approx(forth + back + rest, abs=0.2)
    assert convolutions == pytest.approx(forth + back, abs=0.2)
    ratios = [float(line.removesuffix("x").split()[-1]) for line in lines]
    assert ratios == pytest.approx([milliseconds[0] / each for each in milliseconds], rel=0.1, abs=0.1)


def test_every_convolution_of_a_step_is_timed(recover: ModuleType):
    limits, sides = importlib.import_module("limits"), sides_of(recover, "fp32")
    sides.run("attar", 1)
    operations = 0
    for (images, weight, stride, padding, groups), count in limits.convolutions(sides).items():
        height, width = (
            (size + 2 * edge - kernel) // step + 1
            for size, edge, kernel, step in zip(images[2:], padding, weight[2:], stride, strict=True)
        )
        assert groups == 1
        operations += 2 * count * 2 * images[0] * height * width * torch.Size(weight).numel()
    linear = 2 * 2 * 6 * 64 * UNIT
    assert operations + linear == 6 * sides.compiler.objective.observed.operations


@pytest.mark.parametrize(
    ("row", "words"), [("cifar-cpv", "cifar-cpv"), ("cifar-gpu", "cifar-gpu cannot be looked into")]
)
def test_a_row_that_cannot_be_looked_into_is_refused(
    recover: ModuleType, row: str, words: str, capsys: pytest.CaptureFixture
):
    assert importlib.import_module("limits").main(["--rows", row]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module", params=["relabel", "evaluate"])
def contest(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A script that compares data paths, with a row that has a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module = importlib.import_module(request.param)
        module.ROWS["small"] = module.Row(16, 24, 8, "convnet3", 10, target=1e6, target_share=0.01)
        yield module
    for name in ("relabel", "evaluate", "published", "blocks", "plain", "sides"):
        sys.modules.pop(name, None)


def run_contest(contest: ModuleType, *arguments: str) -> int:
    enter = contest.Relabelling if hasattr(contest, "Relabelling") else contest.Training
    return contest.main(contest.__doc__, contest.ROWS, enter, ["--quick", *arguments])


def test_data_paths_that_agree_are_timed(contest: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run_contest(contest, "--rows", "data-32,small", "--csv", str(tmp_path / "lines.csv")) == 0
    header, titles, *table = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}, torchvision" in header
    assert titles.split()[:3] == ["row", "side", "images/s"]
    assert "1e+06x missed" in table[2]
    assert "1% reached" in table[3]
    assert sum("24 views: pictures 0.00" in line for line in table) == 2
    with (tmp_path / "lines.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["side"]) for line in lines] == [
        (row, side) for row in ("data-32", "small") for side in ("plain", "attar")
    ]
    for line in lines:
        assert float(line["faster_low"]) <= float(line["faster"]) <= float(line["faster_high"])
        assert float(line["images_per_second"]) > 0
        assert line["num_blocks"] == "2"
        assert bool(line["network_share"]) == (line["row"] == "small")
        assert not line["network_share"] or float(line["network_share"]) > 0  # noise can bring it above 1
        assert bool(line["flops"]) == (line["row"] == "small")
        assert not line["of_product"] or float(line["of_product"]) > 0
        assert not line["peak_bytes"], "that of a GPU"


def moved(cutmix: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A box where it was not said to be."""
    return lambda images, partner, box: cutmix(images, partner, [0, 0, *box[2:]]).roll(1, 0)


def test_a_published_way_that_shows_something_else_ends_the_run(
    contest: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(contest.published, "cutmix", moved(contest.published.cutmix))
    assert run_contest(contest, "--rows", "small") == 1
    printed = capsys.readouterr()
    fault = printed.err.splitlines()[-1]
    assert fault.startswith("attar and the published way do not give the same: 24 views: pictures 0.")
    assert "images/s" not in printed.out


def test_rows_for_a_gpu_are_skipped_without_one_and_unknown_rows_refused(
    contest: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_contest(contest, "--rows", "whole-gpu-224") == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["whole-gpu-224 is skipped: there is no CUDA device here."]
    assert run_contest(contest, "--rows", "data-65") == 2
    assert capsys.readouterr().err.startswith("There is no row named 'data-65'; did you mean data-64")


def test_processor_time_is_that_of_all_processes(contest: ModuleType):
    clock = contest.Clock(torch.device("cpu"))
    ends = iter(range(5))
    assert list(clock.fetched(iter(range(3)))) == [0, 1, 2]
    assert clock.timed(lambda: next(ends))() == 0
    block = clock.block(3, "data")
    assert block.network_seconds < block.seconds
    if sys.platform == "linux":
        assert block.cpu_seconds is not None
        assert sys.modules["blocks"].cpu_seconds([os.getpid()]) > 1.5 * sys.modules["blocks"].cpu_seconds([])


def test_speeds_in_both_precisions_and_what_auto_chooses(recover: ModuleType, capsys: pytest.CaptureFixture):
    processor, threads = importlib.import_module("processor"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "PRODUCTS", (32,))
        patch.setattr(processor, "CONVOLUTIONS", ((2, 8, 4),))
        patch.setattr(device, "_cpu_info", lambda key: "avx512_bf16" if key == "flags" else "")
        assert processor.main([]) == 0
    assert torch.get_num_threads() == threads
    header, *lines, choice = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in header
    assert [line.split("  ")[0] for line in lines] == ["product of 32 x 32", "3x3 convolution, 2 x 8 x 4 x 4"]
    assert all("fp32" in line and "bf16" in line and line.endswith("x") for line in lines)
    assert choice.startswith("auto chooses ")
    assert "x as fast as float32 on matrix products" in choice


def test_a_step_is_measured_with_what_compiling_it_depends_on(recover: ModuleType, monkeypatch: pytest.MonkeyPatch):
    processor, threads = importlib.import_module("processor"), torch.get_num_threads()
    monkeypatch.setattr(processor, "STEPS_SECONDS", 0.0)
    found = processor.measured(processor.Step("convnet3", 10, 8, 5), "fp32", "off")
    torch.set_num_threads(threads)
    assert found["step"] > 0
    assert (found["num_layers"], found["values"]) == (4, 5 * (128 * (64 + 16 + 4) + 10))


def test_k_centre_chooses_the_same_images_as_class_by_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("coresets")
    sys.modules.pop("coresets")
    assert module.main(["--quick"]) == 0
    *_, titles, row = capsys.readouterr().out.splitlines()
    assert titles.split()[-1] == "same"
    assert row.split()[0] == "25"
    assert row.endswith("100.0 %")
    assert float(row.split()[5]) > 0


def test_starts_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    startup = importlib.import_module("startup")
    try:
        monkeypatch.setattr(startup, "VERBS", dict.fromkeys(startup.VERBS, 600.0))  # no test of this machine's speed
        assert startup.main(["--quick"]) == 0
        titles, *rows = capsys.readouterr().out.splitlines()
        assert titles.split()[:3] == ["verb", "CPU", "s"]
        for verb, row in zip(startup.VERBS, rows, strict=False):
            assert row.startswith(verb)
            assert float(row[52:].split()[0]) > 0
        assert len(rows) == 3
        monkeypatch.setattr(startup, "VERBS", {"attar --version": 1e-9})
        assert startup.main(["--quick"]) == 1
        assert capsys.readouterr().out.splitlines()[-1].endswith("more than 1e-09 s")
    finally:
        sys.modules.pop("startup", None)
