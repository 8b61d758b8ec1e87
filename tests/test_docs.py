"""The pages say what is so: code blocks run, settings and links exist."""

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from attar.core import plugin
from attar.core.config import field_paths
from attar.models.build import build, check_forward
from attar.recipes.catalogue import ENTRIES
from attar.recipes.recipe import recipe_type
from attar.stages.protocols import PROTOCOLS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
KEYS = {key for name in plugin.names_in("attar.methods") for key in field_paths(recipe_type(name))}


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_readmes_code_runs(mini_run, tmp_path, monkeypatch):
    """Its three lines, on a run that is there."""
    (block,) = code_blocks(ROOT / "README.md")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(mini_run)
    monkeypatch.chdir(tmp_path)
    names = {"model": build("convnet3", 10, 8, seed=0)}
    exec(block, names)
    assert torch.isfinite(names["loss"])


def test_the_page_on_python_runs(mini_run, tmp_path, monkeypatch):
    """Block after block in one program; what would take minutes is checked up to its start."""
    import attar
    from attar import from_python, pipeline

    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(mini_run)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (40, 40), (index * 9, 99, 0)).save(tmp_path / "photos" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    begun = []

    def run(recipe, out, **more):
        begun.append((recipe.recover.ipc, recipe.data.source, Path(out).name))
        return pipeline.Result(mini_run, [])

    monkeypatch.setattr(attar, "run", run, raising=False)
    monkeypatch.setattr(from_python.pipeline, "run", run)
    names = {"model": build("convnet3", 10, 8, seed=0)}
    with torch.random.fork_rng():
        for block in code_blocks(ROOT / "docs" / "python.md"):
            exec(block, names)
    assert [source for _, source, _ in begun] == [str(tmp_path / "photos"), "python:my digits", "digits", "digits"]
    assert begun[2:] == [(5, "digits", "digits-5"), (20, "digits", "digits")]
    assert names["probabilities"].sum(1).allclose(torch.ones(1))
    assert names["label"] == 0


def test_the_method_in_the_guide_works(mini_run, tmp_path, monkeypatch):
    import shutil

    from attar import pipeline
    from attar.store import units
    from conftest import mini_recipe

    (block,) = code_blocks(ROOT / "docs" / "add-a-method.md")
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "whole_images.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(mini_run / "squeeze", tmp_path / "run" / "squeeze")
    recipe = mini_recipe().with_method("guide.whole_images")
    assert recipe.recover.iterations == 12
    pipeline.run(recipe, tmp_path / "run", stage="recover", quiet=True)
    assert (tmp_path / "run" / "recover" / "manifest.json").exists()
    assert [path.name.split("-")[0] for path in (tmp_path / "run" / "prepared").iterdir()] == ["mean"]
    result = units.load(tmp_path / "run" / "recover" / "units", units.plan(10, 0, 2, 100)[0])
    assert set(result.curves) == set(recipe.recover.metrics())
    assert float(result.curves["brightness"].abs().max()) > 0
    for name in [name for name in sys.modules if name.startswith("guide")]:
        monkeypatch.delitem(sys.modules, name)


def test_labels_in_a_table_are_sorted_as_the_page_says(tmp_path, monkeypatch):
    from attar.core.log import Log
    from attar.data import layout

    monkeypatch.chdir(tmp_path)
    Path("train_images").mkdir()
    for name in "abc":
        Image.new("RGB", (4, 4)).save(f"train_images/{name}.png")
    Path("train.csv").write_text("image_id,label\na.png,cat\nb.png,dog\nc.png,cat\n")
    block = code_blocks(ROOT / "docs" / "data.md")[0]
    exec(block, {})
    found = layout.read(Path("sorted"), Log(quiet=True))
    assert (found.classes, found.train.labels.tolist()) == (("cat", "dog"), [0, 0, 1])


def test_the_split_is_listed_as_the_page_says():
    names: dict[str, list[str]] = {}
    exec(code_blocks(ROOT / "docs" / "data.md")[1], names)
    assert (len(names["training"]), len(names["rows"])) == (1438, 1797)


def test_a_recipe_is_chosen_as_the_page_says(capsys):
    names = {}
    exec(code_blocks(ROOT / "docs" / "your-own-pictures.md")[0], names)
    assert (names["recipe"].method, names["recipe"].data.source, names["recipe"].seed) == ("dm", "digits", 1)
    assert "input size 8 x 8 pixels the size of all pictures" in capsys.readouterr().out


def test_the_own_network_in_the_guide_is_built(tmp_path, monkeypatch):
    block = code_blocks(ROOT / "docs" / "data.md")[2]
    (tmp_path / "mynets.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    check_forward(build("mynets:Net", 10, 8, seed=0), 8, 10)
    sys.modules.pop("mynets")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_named_in_a_page_exist(page):
    rooms = {key.split(".")[0] for key in KEYS if "." in key}
    named = set(re.findall(r"`(?:--)?((?:" + "|".join(sorted(rooms)) + r")\.[a-z_.-]+)", page.read_text()))
    files = (".py", ".md", ".json", ".yaml")
    unknown = {key for key in named if key.replace("-", "_") not in KEYS and not key.endswith(files)}
    assert not unknown


def test_every_published_flag_is_in_the_table():
    flags = [
        "--exp-name",
        "--syn-data-path",
        "--store-best-images",
        "--batch-size",
        "--iteration",
        "--lr",
        "--jitter",
        "--r-bn",
        "--first-bn-multiplier",
        "--arch-name",
        "--arch-path",
        "--verifier",
        "--verifier-arch",
        "--verifier-path",
        "--easy2hard-mode",
        "--milestone",
        "--G",
        "--ipc-start",
        "--ipc-end",
        "--wandb-key",
    ]
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "cda-flags.md").read_text().splitlines() if "| `--" in line]
    assert {flag for row in rows for flag in re.findall(r"`(--[\w-]+)`", row)} == set(flags)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    table, lists = index.split("```{toctree}", maxsplit=1)
    for name in NAMES[1:]:
        name = name.removeprefix("docs/")
        if name != "index.md":
            assert f"]({name})" in table, f"the table of docs/index.md lacks {name}"
            assert f"\n{name.removesuffix('.md')}\n" in lists, f"the lists in docs/index.md lack {name}"


def test_a_page_for_each_stage_says_what_it_does_and_what_can_go_wrong():
    for stage in ("squeeze", "recover", "relabel", "evaluate", "report"):
        text = (ROOT / "docs" / "concepts" / f"{stage}.md").read_text()
        found = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        assert [title.replace("options", "settings") for title in found] == [
            "What it does", "Main settings", "What it writes", "What can go wrong",
        ], stage  # fmt: skip


def test_all_recipes_and_protocols_are_on_their_page():
    text = (ROOT / "docs" / "recipes.md").read_text()
    covered = {
        f"{stem}{ipc}{ending}"
        for stem, all_ipc, ending in re.findall(r"`([\w+-]+/[\w-]+-ipc)\{([\d,]+)\}([\w-]*)`", text)
        for ipc in all_ipc.split(",")
    }
    assert covered | {"digits"} == set(ENTRIES)
    assert set(re.findall(r"^\| `([\w+-]+)` \| [^|]+ \| \d+ \| ", text, flags=re.MULTILINE)) == set(PROTOCOLS)
