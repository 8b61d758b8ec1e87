"""A dataset of the Hub in place of a recipe, from a local stand-in of the Hub: chosen, planned and run."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_digits

import hub_server
from attar import pipeline
from attar.cli import main
from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.survey import survey
from attar.report import publish
from attar.stages.run import Run

datasets = pytest.importorskip("datasets")
NAMES = [f"digit {number}" for number in range(10)]
QUICK = ["--squeeze.training.epochs", "1", "--recover.iterations", "1", "--evaluate.num-seeds", "1", "--quiet"]
QUICK += ["--evaluate.protocol.training.epochs", "1", "--execution.threads", "1", "--execution.precision", "fp32"]


def table(rows: range, image: str, label: str, kind: str = "png") -> bytes:
    """A Parquet file of digits, with a second column of classes that are not asked for."""
    digits: Any = load_digits()
    files = []
    for row in rows:
        file = io.BytesIO()
        Image.fromarray((digits.images[row] * 15).astype("uint8")).save(file, kind)
        files.append({"bytes": file.getvalue(), "path": f"{row}.{kind}"})
    classes = [int(digits.target[row]) for row in rows]
    names = datasets.ClassLabel(names=NAMES), datasets.ClassLabel(names=["even", "odd"])
    features = datasets.Features({image: datasets.Image(), label: names[0], "coarse_label": names[1]})
    columns = {image: files, label: classes, "coarse_label": [number % 2 for number in classes]}
    written = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(written)
    return written.getvalue()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory):
    """The stand-in, used by ``datasets`` and the Hub's client of this process, with caches of its own."""
    from huggingface_hub import constants

    cache = tmp_path_factory.mktemp("cache")
    datasets.disable_progress_bars()
    with hub_server.running() as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", running.url)
        address = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_ENDPOINT", running.url)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        yield running


def held(hub: hub_server.Hub, name: str, files: dict[str, bytes]) -> str:
    """Put a dataset on the stand-in, and return how attar calls it."""
    hub.repositories[name] = hub_server.Repository(private=False)
    hub.repositories[name].commit({".gitattributes": b"*.parquet filter=lfs\n", **files})
    return f"hf:{name}"


def test_a_dataset_of_the_hub_is_planned_and_run(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    files = {
        "data/train-00000-of-00001.parquet": table(range(200), "img", "fine_label", "jpeg"),
        "data/validation-00000-of-00001.parquet": table(range(200, 260), "img", "fine_label", "jpeg"),
        "README.md": b"---\nlicense: mit\n---\n",
    }
    source = held(hub, "org/with-val", files)
    monkeypatch.setattr(pipeline.forecast, "lines", lambda work: [])  # measured elsewhere
    main(["plan", source, "--execution.threads", "1", "--quiet"])
    said = capsys.readouterr().out
    assert "Real data: org/with-val, 10 classes, 200 training and 60 validation images" in said
    assert "the dataset has a validation split" in said
    monkeypatch.setattr(publish.figures, "write_all", lambda *_, **__: [])  # drawn elsewhere
    monkeypatch.setattr(publish.write, "run_page", lambda *_: None)
    weak = ["--recover.accept-weak-teacher", "True"]
    main(["run", source, "--out", str(tmp_path / "run"), "--ipc", "2", *QUICK, *weak])
    run = Run(tmp_path / "run")
    assert run.images.classes == tuple(NAMES)
    assert run.scores.rows
    assert "The licence of the source applies: mit." in (tmp_path / "run" / "distilled" / "README.md").read_text()
    assert (tmp_path / "run" / "chosen.yaml").read_text().startswith(f"# Chosen by attar for: {source} --ipc 2\n")


def test_without_a_validation_split_pictures_are_held_out(hub):
    source = held(hub, "org/train-only", {"data/train-00000-of-00001.parquet": table(range(100), "image", "label")})
    found = survey(DataChoice(source=source), Log(quiet=True))
    assert (found.classes, sum(found.counts), found.num_val, found.grey) == (tuple(NAMES), 100, None, True)


@pytest.mark.parametrize("configuration", ["", ":a"])
def test_a_dataset_of_the_hub_is_read_in_parts(
    hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    below = "a/" if configuration else "data/"
    files = {f"{below}train-0000{n}.parquet": table(range(40 * n, 40 * n + 40), "image", "label") for n in range(2)}
    source = held(hub, f"org/parts{len(configuration)}", files | {"README.md": b"words"}) + configuration
    hub.sent.clear()
    choice = DataChoice.of({"source": source, "cache_bytes": "20MB"}, "the test")
    real = load(choice, 0, Log(quiet=True))
    assert real.classes == tuple(NAMES)
    assert (len(real.train) + len(real.val), real.train.image(3).size) == (80, (8, 8))
    assert set(hub.sent) == set(files)
    assert len(list((tmp_path / "attar" / "rows").iterdir())) == 2


def test_a_configuration_is_named(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    card = b"---\nconfigs:\n- config_name: a\n  data_files: a/*\n- config_name: b\n  data_files: b/*\n---\n"
    files = {f"{name}/train.parquet": table(range(rows), "image", "label") for name, rows in (("a", 50), ("b", 60))}
    source = held(hub, "org/several", {"README.md": card, **files})
    assert sum(survey(DataChoice(source=f"{source}:b"), Log(quiet=True)).counts) == 60
    with pytest.raises(
        AttarError, match=r"several datasets, in the folders a, b; choose one, as in .* '?hf:org/several:a'"
    ):
        survey(DataChoice.of({"source": source, "cache_bytes": "20MB"}, "the test"), Log(quiet=True))
    for wrong in (source, f"{source}:c"):
        with pytest.raises(AttarError, match="'hf:org/several' has the configurations a, b; name one"):
            survey(DataChoice(source=wrong), Log(quiet=True))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf:org/none", "The Hub has no dataset 'org/none' that you may use; check the name"),
        ("hf:org//none", "'hf:org//none' is not a dataset of the Hub; write hf:ORG/NAME"),
        ("hf:", "'hf:' is not a dataset of the Hub; write hf:ORG/NAME"),
    ],
)
def test_what_the_hub_does_not_hold_is_one_sentence(source: str, sentence: str, hub):
    with pytest.raises(AttarError, match=sentence):
        survey(DataChoice(source=source), Log(quiet=True))
