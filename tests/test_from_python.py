"""attar.distil: data in memory, folders, recipes, own teachers."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import attar
from attar import from_python
from attar.core.errors import AttarError
from attar.report import card
from conftest import mini_recipe


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = load_digits(return_X_y=True)
    return torch.from_numpy(values).float().reshape(-1, 1, 8, 8)[:400] / 16, torch.from_numpy(labels)[:400]


@pytest.fixture
def asked(monkeypatch) -> list:
    """What would be run."""
    found = []
    monkeypatch.setattr(from_python.pipeline, "run", lambda recipe, out, **more: found.append((recipe, out, more)))
    return found


def quick() -> attar.Recipe:
    recipe = mini_recipe()
    return recipe.changed(evaluate=recipe.evaluate.changed(rows=("distilled",), num_seeds=1)).with_method("random")


def test_tensors_are_distilled_and_the_call_can_be_repeated(digits, tmp_path):
    result = attar.distil(digits, out=tmp_path / "run", recipe=quick(), ipc=3, name="my digits", quiet=True)
    distilled = result.distilled()
    assert len(distilled) == 30
    assert distilled.info.source == "my digits"
    assert distilled.classes == tuple("0123456789")
    real = {image.numpy().tobytes() for image in (digits[0] * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)}
    assert all(image.numpy().tobytes() in real for image in distilled.images)
    (page,) = (tmp_path / "run" / "report").glob("*.html")
    assert "<code>attar.distil(DATA, out=&#39;runs/again&#39;, recipe=&#39;recipe.yaml&#39;)</code>" in page.read_text()
    recipe = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "is the recipe: `attar.distil(DATA, out='runs/again', recipe=" in card.text(
        distilled.info, [], recipe=recipe
    )
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "squeeze").iterdir()}
    attar.distil(digits, out=tmp_path / "run", recipe=quick(), ipc=3, name="my digits", quiet=True)
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    other = digits[0].flip(0), digits[1]
    with pytest.raises(AttarError, match="real data that differ"):
        attar.distil(other, out=tmp_path / "run", recipe=quick(), ipc=3, name="my digits", quiet=True)


def test_a_recipe_is_chosen_for_data_in_memory(digits, asked, tmp_path):
    attar.distil(digits, out=tmp_path / "run", ipc=2, quiet=True)
    recipe, out, _ = asked[0]
    assert (recipe.data.source, recipe.data.size, recipe.recover.ipc) == ("python:data", 8, 2)
    assert out == tmp_path / "run"
    assert (tmp_path / "run" / "chosen.yaml").is_file()


@pytest.mark.parametrize("budget", [30_000, "30kB"])
def test_a_folder_is_named_and_a_budget_is_kept(budget, asked, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index}.png")
    attar.distil(tmp_path / "pets", out=tmp_path / "run", budget=budget, size=32, quiet=True)
    recipe, _, _ = asked[0]
    assert (recipe.data.source, recipe.data.size) == (str(tmp_path / "pets"), 32)
    assert 1 <= recipe.recover.ipc < 10


def test_own_teachers_replace_the_chosen_ones(digits, asked, tmp_path):
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    attar.distil(digits, out=tmp_path / "run", teacher=network, ipc=1, quiet=True)
    recipe, _, more = asked[0]
    assert more["teacher"] is network
    assert recipe.squeeze.members == ()


def test_the_bytes_of_an_own_teacher_decide_on_labels(asked, tmp_path, capsys):
    draws = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (120, 3, 32, 32), generator=draws, dtype=torch.uint8), torch.arange(120) % 2
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1000), nn.Linear(1000, 2))
    attar.distil(pictures, out=tmp_path / "free", teacher=network)
    assert asked[0][0].relabel.mode == "online"
    attar.distil(pictures, out=tmp_path / "bound", teacher=network, budget="30kB")
    assert asked[1][0].relabel.mode == "none"
    reasons = (tmp_path / "bound" / "chosen.yaml").read_text()
    assert "# teacher: 1 of your own (shows what" in reasons
    assert "# labels: hard (labels by your own teacher would take 3.08 MB, and a set may take 30 kB)" in reasons
    assert "attar.distil(DATA, out=FOLDER, recipe='chosen.yaml')" in reasons
    printed = " ".join(capsys.readouterr().err.split())
    assert "change it and give it to attar.distil as its recipe" in printed
    with pytest.raises(AttarError, match="teacher must be a torch.nn.Module or a list of them, not a str"):
        attar.distil(pictures, out=tmp_path / "no", teacher="resnet18")  # pyright: ignore[reportArgumentType]


def test_a_folder_of_another_budget_is_continued_from_python(digits, asked, tmp_path):
    attar.distil(digits, out=tmp_path / "run", budget=50_000, quiet=True)
    (tmp_path / "run" / "squeeze").mkdir()
    (tmp_path / "run" / "squeeze" / "teacher.safetensors").write_bytes(b"begun")
    with pytest.raises(AttarError, match=r"continue it with recipe='.*chosen.yaml' \(ipc=N adds images\)"):
        attar.distil(digits, out=tmp_path / "run", budget=60_000, quiet=True)
    attar.distil(digits, out=tmp_path / "run", recipe=str(tmp_path / "run" / "chosen.yaml"), quiet=True)
    assert asked[-1][0].plain() == asked[0][0].plain()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"recipe": "digits", "budget": 1000}, "budget is for the recipe that attar chooses"),
        ({"classes": ["a"]}, "validation and classes are for data in memory"),
    ],
)
def test_arguments_that_contradict_are_refused(more, words, tmp_path):
    with pytest.raises(AttarError, match=words):
        attar.distil("digits", out=tmp_path / "run", quiet=True, **more)
