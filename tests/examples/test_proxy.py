"""examples/proxy.py: rank correlations against plain formulas, its tables, resuming, the baseline's teacher."""

import csv
import itertools
import json
import shutil
import statistics
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from attar.core.errors import AttarError
from attar.models import build
from attar.stages.dataset_info import read_info

NAMES = ["proxy:linear", "proxy:thin", "proxy:pooled"]
QUICK = ["--architectures", *NAMES, "--seeds", "2", "--epochs", "2", "--quiet", "--execution.threads", "1"]
ROWS = ["distilled-soft", "distilled-hard", "random-soft", "random-hard"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores(out: Path) -> list[dict]:
    return [json.loads(path.read_text())["score"] for path in sorted((out / "evaluate" / "scores").iterdir())]


@pytest.fixture(scope="module")
def out(proxy: ModuleType, mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; tests read it."""
    folder = tmp_path_factory.mktemp("proxy") / "out"
    proxy.main([str(mini_run), "--out", str(folder), *QUICK])
    return folder


def test_every_set_has_its_correlations(proxy: ModuleType, out: Path):
    lines = table(out / "proxy.csv")
    assert [line["proxy"] for line in lines] == [*ROWS, proxy.AGAIN]
    for line in lines:
        assert line["num_architectures"] == "3"
        assert (line["num_seeds"], line["epochs"]) == (("1", "4") if line["proxy"] == proxy.AGAIN else ("2", "2"))
        for kind in ("spearman", "kendall"):
            low, value, high = (float(line[key]) for key in (f"{kind}_low", kind, f"{kind}_high"))
            assert -1 <= low <= value <= high <= 1
    assert Image.open(out / "proxy.png").size == (1440, 420)


def test_accuracies_are_those_of_the_scores(out: Path):
    lines, kept = table(out / "architectures.csv"), scores(out)
    assert [line["architecture"] for line in lines] == NAMES
    assert len(kept) == 5 * 3 * 2
    for line in lines:
        for row in ("full", *ROWS):
            first = "distilled" if row == "distilled-soft" else row
            own = [score["top1"] for score in kept if (score["row"], score["student"]) == (first, line["architecture"])]
            assert len(own) == 2
            assert float(line[f"{row}_mean"]) == pytest.approx(100 * statistics.fmean(own), abs=0.006)
            assert float(line[f"{row}_std"]) == pytest.approx(100 * statistics.stdev(own), abs=0.006)


def test_a_second_run_trains_only_what_is_missing_and_finds_the_same(
    proxy: ModuleType, mini_run: Path, out: Path, tmp_path: Path
):
    again = tmp_path / "again"
    shutil.copytree(out, again, symlinks=True)
    folder = again / "evaluate" / "scores"
    gone = {("full", "proxy:thin"), ("distilled", "proxy:linear"), ("distilled-hard", "proxy:linear")}
    known = {path: json.loads(path.read_text())["score"] for path in folder.iterdir()}
    removed = [path for path, score in known.items() if (score["row"], score["student"]) in gone]
    for path in removed:
        path.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    proxy.main([str(mini_run), "--out", str(again), *QUICK])
    assert len(removed) == 2 + 4
    assert all(path.is_file() for path in removed)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert (again / "architectures.csv").read_bytes() == (out / "architectures.csv").read_bytes()
    without_seconds = [
        [{key: value for key, value in line.items() if key != "train_seconds"} for line in table(run / "proxy.csv")]
        for run in (again, out)
    ]
    assert without_seconds[0] == without_seconds[1]


def test_correlations_are_those_of_the_plain_formulas_and_of_scipy(proxy: ModuleType):
    x, y = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0.2, 0.1, 0.3, 0.5, 0.4])
    rank_x, rank_y = x.argsort().argsort(), y.argsort().argsort()
    rho = 1 - 6 * ((rank_x - rank_y) ** 2).sum() / (5 * (25 - 1))
    signs = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in itertools.combinations(range(5), 2)]
    assert float(proxy.spearman(x, y)) == pytest.approx(rho) == pytest.approx(0.8)
    assert float(proxy.kendall(x, y)) == pytest.approx(sum(signs) / len(signs)) == pytest.approx(0.6)
    draws = np.random.default_rng(0)
    many_x, many_y = draws.integers(6, size=(20, 9)), draws.integers(6, size=(20, 9))  # with equal values among them
    for place, (one, other) in enumerate(zip(many_x, many_y, strict=True)):
        assert proxy.spearman(many_x, many_y)[place] == pytest.approx(stats.spearmanr(one, other).statistic)
        assert proxy.kendall(many_x, many_y)[place] == pytest.approx(stats.kendalltau(one, other).statistic)


def test_the_interval_is_that_of_resampled_architectures(proxy: ModuleType):
    x = np.random.default_rng(0).normal(size=12)
    y = x + np.random.default_rng(1).normal(size=12)
    value, low, high = proxy.interval(x, y, proxy.spearman, 0)
    draws = np.random.default_rng(5).integers(12, size=(400, 12))
    plain = np.sort([stats.spearmanr(x[draw], y[draw]).statistic for draw in draws])
    assert value == pytest.approx(stats.spearmanr(x, y).statistic, abs=5e-4)
    assert low == pytest.approx(plain[10], abs=0.15)
    assert high == pytest.approx(plain[390], abs=0.05)
    assert low < value < high
    assert proxy.interval(x, y, proxy.spearman, 0) == (value, low, high)
    assert proxy.interval(x, 2 * x, proxy.spearman, 0) == (1.0, 1.0, 1.0)
    assert proxy.interval(x, -x, proxy.kendall, 0) == (-1.0, -1.0, -1.0)


def test_equal_accuracies_rank_nothing(proxy: ModuleType):
    assert proxy.interval(np.ones(4), np.arange(4.0), proxy.spearman, 0) == (None, None, None)
    assert proxy._range(None, None, None) == "nothing to rank"


def test_random_real_images_are_labelled_by_the_runs_teacher(proxy: ModuleType, mini_run: Path, tmp_path: Path):
    recipe, run = proxy.open_run(str(mini_run), ["--execution.threads", "1"], tmp_path, True)
    known = proxy.random_real(recipe, run, tmp_path, True)
    assert known == mini_run / "baselines" / "random" / "distilled"
    bare = tmp_path / "bare"
    shutil.copytree(mini_run / "squeeze", bare / "squeeze")
    made = proxy.random_real(recipe, bare, tmp_path, True)
    assert made == tmp_path / "random" / "distilled"
    before, now = read_info(known), read_info(made)
    assert now.images_sha256 == before.images_sha256, "the images of the run's own baseline"
    assert now.num_images == 20
    assert (now.labels, now.teachers) == (before.labels, before.teachers)
    labels = [sorted((folder / "labels").glob("*.safetensors")) for folder in (known, made)]
    assert [path.name for path in labels[0]] == [path.name for path in labels[1]]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(*labels, strict=True))


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("name", ["linear", "perceptron", "pooled", "thin", "wide", "without_norm"])
def test_its_own_networks_take_images_of_any_size(proxy: ModuleType, name: str, size: int):
    network = build.build(f"proxy:{name}", 7, size, seed=0)
    build.check_forward(network, size, 7, name=name)


def test_a_recipe_without_soft_labels_gets_some(proxy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proxy, "_make", lambda recipe, folder, quiet: None)
    found, _ = proxy.open_run("digits", ["--relabel.mode", "none"], tmp_path, True)
    assert found.relabel.mode == "online"


def test_what_it_cannot_compare_is_refused(proxy: ModuleType, mini_run: Path, out: Path, tmp_path: Path):
    with pytest.raises(AttarError, match="Fewer than three architectures"):
        proxy.main([str(mini_run), "--out", str(tmp_path / "out"), "--architectures", "convnet3", "resnet20"])
    with pytest.raises(AttarError, match="There is no network named 'convnet33'"):
        proxy.main([str(mini_run), "--out", str(tmp_path / "out"), *QUICK, "--architectures", *NAMES, "convnet33"])
    with pytest.raises(AttarError, match="is finished, and these settings alter it"):
        proxy.main([str(mini_run), "--out", str(tmp_path / "out"), *QUICK, "--seed", "3"])
    shutil.copytree(mini_run, tmp_path / "hard")
    kept = tmp_path / "hard" / "recipe.yaml"
    kept.write_text(kept.read_text().replace("mode: stored", "mode: none"))
    with pytest.raises(AttarError, match="hard has no soft labels to compare with; name the recipe"):
        proxy.main([str(tmp_path / "hard"), "--out", str(tmp_path / "out"), *QUICK])
    shutil.copytree(mini_run, tmp_path / "other")
    with pytest.raises(AttarError, match="compares another distilled set"):
        proxy.main([str(tmp_path / "other"), "--out", str(out), *QUICK])
