"""Pages of runs: what is in them, and that names of any kind stay names."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.core.log import Log
from attar.recipes.catalogue import recipe_named
from attar.report import comparable, printed, table
from attar.report.page import gallery, labels, sheets, write
from attar.report.page.block import of_json
from attar.stages.dataset_info import read_info, write_info
from attar.stages.distilled import Distilled
from attar.synthesis.method import SNAPSHOTS
from conftest import edit_json
from page_material import HOSTILE, many, renamed


class Page(HTMLParser):
    """Elements and data blocks of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self._open = ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (dict(attrs).get("id") or "") if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open.startswith("data-"):
            self.blocks[self._open.removeprefix("data-")] = data

    def data(self, name: str) -> Any:
        return json.loads(self.blocks[name])


@pytest.fixture(scope="module")
def page(mini_run: Path) -> Page:
    return Page(mini_run / "report" / write.INDEX)


def test_a_run_writes_its_page_with_every_part(page: Page):
    sections = [values["id"] for tag, values in page.tags if tag == "section"]
    parts = ("scores", "trade", "gallery", "film", "curves", "classes", "labels", "cost", "recipe")
    assert sections == [f"{name}-section" for name in parts]
    assert "random real, soft labels" in page.text
    assert "Crop curriculum" in page.text
    assert "The recipe aims at: <bdi>no published row" in page.text


def test_a_page_says_how_many_pictures_it_was_measured_on_and_shows_chance(page: Page):
    assert "Top-1 on 359 real validation images after the last epoch, mean ± standard deviation over n students. " in (
        page.text
    )
    assert "Guessing brings 10 %." in page.text
    assert "359 validation images: one of them is 0.28 points." in page.text
    charts = [values["aria-label"] or "" for tag, values in page.tags if tag == "svg" and "aria-label" in values]
    assert sum("guessing: 10 %" in said for said in charts) == 2
    assert [values["style"] for tag, values in page.tags if tag == "u"][:1] == ["left:10.0%"]


def test_a_page_loads_nothing(page: Page):
    linked = [value for _, values in page.tags for key, value in values.items() if key in ("src", "href") and value]
    assert linked
    assert all(value.startswith("#") for value in linked)
    assert "default-src 'none'" in page.text
    assert not re.search(r"https?://", re.sub(r"http://www\.w3\.org/2000/svg", "", page.text.split("<script>")[1]))


def test_the_gallery_shows_distilled_and_real_images_with_accuracies(page: Page, mini_run: Path):
    content = page.data("gallery")
    assert content["names"] == [str(digit) for digit in range(10)]
    assert (content["own"], content["columns"], content["real"]) == (2, 4, "drawn at random")
    assert content["have"] == content["haveReal"] == [2] * 10
    means = [accuracy for accuracy, _ in content["accuracy"]]
    assert sum(means) / 10 == pytest.approx(table.lines(mini_run)[0].class_top1_mean, abs=0.1)


def test_the_film_has_the_units_snapshots(page: Page):
    content = page.data("film")
    assert content["steps"] == [4, 8, 12]
    assert content["titles"] == [str(digit) for digit in range(10)]


def test_labels_are_those_that_students_see(page: Page, mini_run: Path):
    content, distilled = page.data("labels"), Distilled(mini_run / "distilled")
    image, view = content["images"][3], content["images"][3]["views"][1]
    place = int((distilled.labels == image["class"]).nonzero()[0])
    assert distilled.stored is not None
    stored = distilled.stored.epoch(1)
    shares = stored.logits(torch.tensor([place]))[0].float().softmax(0)
    assert [label for label, _ in view["top"]] == shares.topk(5).indices.tolist()
    assert [share for _, share in view["top"]] == pytest.approx(shares.topk(5).values.tolist(), abs=1e-4)
    assert view["box"] == pytest.approx([value / 8 for value in stored.records.look.view.box[place].tolist()], abs=1e-4)


def test_what_the_health_checks_found_is_on_the_pages(finished: Path, mini_run: Path, tmp_path: Path):
    assert "one colour" not in Page(write.pages([finished], tmp_path / "before")[0]).text
    Log(finished / "recover" / "log.jsonl", quiet=True).warn("of <b>one colour", check="flat-images")
    index, first, _ = write.pages([finished, mini_run], tmp_path / "page")
    assert '<p class="warning">Warning: <bdi>of &lt;b&gt;one colour</bdi></p>' in Page(first).text
    found = re.findall(r'<p class="warning">.*?</p>', Page(index).text)
    assert len([text for text in found if "of &lt;b&gt;one colour" in text]) == 1


def test_hostile_names_are_text(finished: Path):
    names = [*HOSTILE, *"56789"]
    run = renamed(finished, names)
    path = write.run_page(run, table.lines(run), run / "page.html")
    page = Page(path)
    assert len([tag for tag, values in page.tags if tag == "script" and "type" not in values]) == 1
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.data("gallery")["names"][0] == HOSTILE[0]
    assert page.data("gallery")["titles"][2] == "\\u202eevil\\x1b[31m"
    assert not set("\u202e\x1b") & set(page.text)
    assert "{{ 7*7 }}" in page.text


def test_a_run_with_hard_labels_alone_shows_its_own_accuracy_first(finished: Path):
    lines = [line for line in table.lines(finished) if line.row != "distilled"]
    page = Page(write.run_page(finished, lines, finished / "page.html"))
    assert re.search(r'class="main"><dt>top-1, distilled, hard labels</dt>', page.text)
    assert page.text.count('<tr class="own">') == 1
    assert "labels" not in page.blocks
    assert "labels-section" not in page.text
    single = [replace(line, top1_std=None) for line in lines]
    text = write.run_page(finished, single, finished / "page.html").read_text()
    assert "of one student each" in text
    assert "± standard deviation" not in text.split("<footer>")[0]


def test_several_runs_have_a_page_each_and_one_that_compares_them(mini_run: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(mini_run, other)
    written = write.pages([mini_run, other], tmp_path / "page")
    assert [path.name for path in written] == ["index.html", "mini.html", "other.html"]
    page = Page(written[0])
    assert [run["label"] for run in page.data("runs")] == ["mini", "other"]
    assert page.text.count("<bdi>all real images</bdi>") == 1
    for number in (0, 1):
        assert page.data(f"r{number}-film")["steps"] == [4, 8, 12]
        assert page.data(f"r{number}-gallery")["own"] == 2
    assert {values["href"] for tag, values in page.tags if tag == "a"} >= {"mini.html", "other.html"}
    charts = [values["aria-label"] or "" for tag, values in page.tags if tag == "svg" and "aria-label" in values]
    (losses,) = (said for said in charts if said.startswith("Loss that the images minimise"))
    assert re.search(r": mini: from \S+ to \S+ over 12 iterations; other: from", losses)
    assert page.text.count('<polyline class="line c1 dash1"') == sum("iterations; other" in said for said in charts) > 1
    assert not any("crop" in said for said in charts)


def test_runs_with_other_classes_are_said_not_to_compare(mini_run: Path, tmp_path: Path, capsys):
    assert comparable.sentences([mini_run]) == []
    others, same = tmp_path / "others", tmp_path / "same"
    for run in (others, same):
        shutil.copytree(mini_run, run)
    renamed(others, [*"01234", *"abcde"])
    page = Page(write.pages([mini_run, others], tmp_path / "page")[0])
    assert (
        "These accuracies cannot be compared, because the runs have other classes (mini: 10 classes, 0, 1" in page.text
    )
    assert "5 classes are in all of them" in page.text
    assert page.data("r1-gallery")["names"][5:] == [*"abcde"]
    printed.report([mini_run, others], None, tmp_path / "page")
    assert "warning: These accuracies cannot be compared" in capsys.readouterr().out
    assert (tmp_path / "page" / "table.md").read_text().startswith("**These accuracies cannot be compared")
    assert comparable.sentences([mini_run, same]) == []
    manifest = same / "recover" / "manifest.json"
    edit_json(manifest, parents=json.loads(manifest.read_text())["parents"] | {"data": "0" * 64})
    (sentence,) = comparable.sentences([mini_run, same])
    assert "other real images of the same classes (mini: digits, 359 validation images; same: digits, 359" in sentence


def test_runs_with_hostile_names_have_plain_files():
    assert write._file_names(["../a b", "..", "index", "INDEX", "ä/b"]) == [
        "a-b.html", "run.html", "index-2.html", "INDEX-3.html", "b.html",
    ]  # fmt: skip


def test_a_gallery_of_many_classes_stays_small():
    blocks = gallery.gallery("gallery", many(10450, 64), None, {"class 7": (50.0, None)})
    content = json.loads(blocks[0].text)
    assert len(content["names"]) == 10450
    assert content["accuracy"][7] == [50.0, None]
    assert len(blocks) - 1 == -(-10450 // content["rows"])
    assert content["rows"] * content["side"] ** 2 <= 2**20
    assert sum(len(block.text) for block in blocks) < 40e6  # of noise, which is the largest


@pytest.mark.parametrize(("classes", "size"), [(10, 224), (1000, 224), (10450, 64), (21000, 32), (3, 8)])
def test_frames_keep_within_their_pixels(classes, size):
    for beside in (True, False):
        form = sheets.frame(classes, 50, beside, size)
        assert form.side <= size
        assert form.columns == form.own * (2 if beside else 1) >= 1
        assert form.side == min(size, 32) or classes * form.columns * form.side**2 <= sheets.MOST_PIXELS
        assert form.rows == 1 or form.rows * form.columns * form.side**2 <= 2**20


def test_data_cannot_end_its_block():
    text = of_json("a", {"</script>": "<!--&"}).text
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"</script>": "<!--&"}


def test_labels_that_are_too_large_are_not_read(mini_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "MOST_EPOCH_BYTES", 10)
    found, why = labels.blocks("labels", Distilled(mini_run / "distilled"), ["a"] * 10)
    assert not found
    assert "too large" in why


def test_labels_made_online_are_shown_too(mini_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = SimpleNamespace(to=lambda device: None, logits=lambda shown: shown.flatten(1)[:, :10])
    monkeypatch.setattr(Distilled, "_committee", teacher)
    shutil.copytree(mini_run / "distilled", tmp_path / "set")
    info = read_info(tmp_path / "set")
    write_info(tmp_path / "set", info.changed(labels=info.labels.changed(mode="online")))
    found, why = labels.blocks("labels", Distilled(tmp_path / "set"), ["a"] * 10)
    assert not why
    content = json.loads(found[0].text)
    assert (len(content["images"]), content["columns"]) == (10, 1 + 4)
    assert all(0 < share <= 1 for image in content["images"] for view in image["views"] for _, share in view["top"])


def test_chosen_real_images_and_teachers_have_their_names(mini_run: Path):
    own, *_, full = table.lines(mini_run)
    assert table.title_of(own, False) == "distilled"
    assert table.title_of(replace(own, method="herding"), False) == "herding, soft labels"
    assert table.title_of(replace(full, protocol="the teacher"), False) == "the teacher, on all real images"
    assert table.title_of(full, False) == "all real images"


@pytest.mark.parametrize(
    ("iterations", "kept"),
    [
        (4000, (100, 500, 1000, 2000)),
        (1000, (100, 500)),
        (500, (50, 125, 250)),
        (100, (10, 25, 50)),
        (3, (1,)),
        (0, ()),
    ],
)
def test_short_runs_have_a_film_too(iterations, kept):
    config = recipe_named("attar/cifar10-ipc10").recover.changed(snapshots=SNAPSHOTS)
    assert config.snapshots_within(iterations) == kept
    assert config.changed(snapshots=(3, 8)).snapshots_within(8) == (3,)
    assert config.changed(snapshots=()).snapshots_within(100) == ()
