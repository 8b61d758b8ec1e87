"""Sets travel to the Hub and back bit for bit; what cannot travel is refused with one sentence."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

import attar
import hub_server
from attar import share
from attar.core.errors import AttarError
from attar.report import card
from attar.stages.dataset_info import read_info, write_info
from attar.store import hub as client

NAME = "my-name/digits-distilled"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of the Hub that the client of this process uses, with a token."""
    with hub_server.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        disable_progress_bars()
        yield running


def test_a_set_comes_back_bit_for_bit(mini_run, hub, tmp_path):
    lines = share.push(mini_run, NAME)
    files = hub.repositories[NAME].files
    assert f"datasets/{NAME}: 20 images of 10 classes" in lines[0]
    assert set(files) == {
        ".gitattributes", "README.md", "dataset.json", "recipe.yaml", "data/train-00000-of-00001.parquet",
        "labels/labels.json", "labels/epochs-00000-00005.safetensors",
    }  # fmt: skip
    share.pull(NAME, tmp_path / "pulled")
    here, there = attar.load(mini_run), attar.load(tmp_path / "pulled")
    again = attar.load(NAME)
    assert here.info == there.info == again.info
    for epoch in range(2):
        for one, two, three in zip(*(each.batches(epoch, 8) for each in (here, there, again)), strict=True):
            assert torch.equal(one[0], two[0])
            assert torch.equal(one[1].logits, two[1].logits)
            assert torch.equal(one[1].logits, three[1].logits)
    for path in (mini_run / "distilled").rglob("*/*"):
        assert path.is_dir() or (tmp_path / "pulled" / path.relative_to(mini_run / "distilled")).read_bytes() == (
            path.read_bytes()
        )
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == {
        "README.md", "dataset.json", "recipe.yaml", "data", "labels",
    }  # fmt: skip


def test_the_card_has_what_the_viewer_and_readers_need(mini_run, hub):
    share.push(mini_run, NAME)
    text = hub.repositories[NAME].files["README.md"].decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert front["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {str(n): str(n) for n in range(10)}
    assert front["dataset_info"]["splits"][0]["num_examples"] == 20
    assert f'attar.load("{NAME}")' in text
    assert "random real, hard labels" in text
    assert "| distilled" in text
    assert "CC BY 4.0" in text
    assert "[arXiv 2311.18838](https://arxiv.org/abs/2311.18838)" in text
    assert "attar run recipe.yaml" in text


def test_the_names_of_very_many_classes_are_in_the_image_files_alone(mini_run):
    info = read_info(mini_run / "distilled")
    many = info.model_copy(update={"classes": tuple(f"class {number}" for number in range(1001))})
    assert "class_label" in card.text(info, [])
    assert "class_label" not in card.text(many, [])


def test_datasets_opens_what_is_pushed(mini_run, hub, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    share.push(mini_run, NAME)
    folder = client.fetch(NAME)
    opened = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "datasets"))
    assert list(opened) == ["train"]
    assert len(opened["train"]) == 20
    assert opened["train"].features["label"].names == [str(n) for n in range(10)]
    assert opened["train"][3]["image"].size == (8, 8)


def test_an_upload_that_broke_off_continues(mini_run, hub):
    hub.break_after = 1
    with pytest.raises(AttarError, match=f"The Hub refuses to change '{NAME}'"):
        share.push(mini_run, NAME)
    assert len(hub.puts) == 1
    assert set(hub.repositories[NAME].files) == {".gitattributes", "dataset.json"}
    hub.break_after = None
    share.push(mini_run, NAME)
    assert len(hub.puts) == len(set(hub.puts)) == 2
    before = list(hub.puts)
    share.push(mini_run, NAME)
    assert hub.puts == before


def test_a_pull_that_broke_off_continues(mini_run, hub, tmp_path, monkeypatch):
    share.push(mini_run, NAME)
    repository, out = hub.repositories[NAME], tmp_path / "pulled"
    whole = dict(repository.files)
    del repository.files["labels/labels.json"]
    with pytest.raises(AttarError, match="labels.json is missing"):
        share.pull(NAME, out)
    repository.commit(whole)
    hub.sent.clear()
    share.pull(NAME, out)
    assert hub.sent == ["labels/labels.json"]
    with pytest.raises(AttarError, match="exists and is not empty"):
        share.pull(NAME, out)


def test_what_another_set_left_is_removed(mini_run, hub):
    share.push(mini_run, NAME)
    repository = hub.repositories[NAME]
    repository.commit(repository.files | {"data/train-00001-of-00002.parquet": b"old", "notes.txt": b"mine"})
    share.push(mini_run, NAME)
    assert "data/train-00001-of-00002.parquet" not in repository.files
    assert repository.files["notes.txt"] == b"mine"


def test_the_revision_of_a_set_can_be_chosen(mini_run, hub, tmp_path):
    share.push(mini_run, NAME)
    repository = hub.repositories[NAME]
    first = repository.commits[-1][0]
    repository.commit({"README.md": b"gone"})
    assert attar.load(NAME, revision=first).info == attar.load(mini_run).info
    with pytest.raises(AttarError, match="A folder has no revisions"):
        attar.load(mini_run, revision=first)
    with pytest.raises(AttarError, match="has no such revision"):
        attar.load(f"hf:{NAME}", revision="v9")
    with pytest.raises(AttarError, match=r"dataset\.json is missing"):
        attar.load(NAME)


@pytest.mark.parametrize("name", ["digits", "a/b/c", "me/-x", "me/x--y", "me/x.git", "me/x y", "me/", "/x", "é/x"])
def test_a_malformed_name_is_refused(mini_run, hub, name):
    with pytest.raises(AttarError, match="is not a name on the Hub"):
        share.push(mini_run, name)
    assert not hub.repositories


def test_a_folder_is_answered_with_its_address(mini_run, hub, tmp_path):
    with pytest.raises(AttarError, match=f"write its address, file://{tmp_path}/shared"):
        share.push(mini_run, str(tmp_path / "shared"))


def test_an_unfinished_or_damaged_set_is_refused(mini_run, hub, tmp_path):
    run = tmp_path / "run"
    for stage in ("recover", "squeeze"):  # a run that asks no teacher begins with its images
        shutil.copytree(mini_run / stage, run / stage)
        with pytest.raises(AttarError, match="distilled is not finished; run 'attar relabel'"):
            share.push(run, NAME)
    shutil.copytree(mini_run / "distilled", run / "distilled")
    next((run / "distilled" / "labels").glob("epochs*")).unlink()
    with pytest.raises(AttarError, match="has no file epochs-00000-00005"):
        share.push(run, NAME)
    with pytest.raises(AttarError, match="is not a distilled dataset"):
        share.push(tmp_path / "nothing", NAME)
    assert not hub.repositories


def test_no_token_no_network_and_no_rights_are_told_apart(mini_run, hub, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.delenv("HF_TOKEN")
        with pytest.raises(AttarError, match="log in with 'hf auth login'"):
            share.push(mini_run, NAME)
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(AttarError, match="HF_HUB_OFFLINE is set, so nothing can be sent"):
            share.push(mini_run, NAME)
        with pytest.raises(AttarError, match="There is no folder '.*HF_HUB_OFFLINE is set, and .* is not whole"):
            attar.load(NAME)
    hub.refused_owner = "other"
    with pytest.raises(AttarError, match="refuses to change 'other/set'.*use a token that may write there"):
        share.push(mini_run, "other/set")
    with monkeypatch.context() as closed:
        closed.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(AttarError, match="The Hub cannot be reached for"):
            share.push(mini_run, NAME)
    with pytest.raises(AttarError, match="The Hub has no dataset 'my-name/nothing' that you may use"):
        attar.load("hf:my-name/nothing")


def test_what_is_in_the_cache_is_loaded_offline(mini_run, hub, monkeypatch):
    share.push(mini_run, NAME)
    attar.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert len(attar.load(NAME)) == 20


def test_private_sets_stay_private(mini_run, hub, monkeypatch):
    share.push(mini_run, NAME, private=True)
    assert hub.repositories[NAME].private
    monkeypatch.setenv("HF_TOKEN", "hf_somebody_else")
    with pytest.raises(AttarError, match="has no dataset"):
        attar.load(NAME)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    share.push(mini_run, "my-name/open")
    with pytest.raises(AttarError, match="exists on the Hub and is public"):
        share.push(mini_run, "my-name/open", private=True)


def test_a_dataset_that_is_not_attars_is_left_alone(mini_run, hub):
    repository = hub.repositories[NAME] = hub_server.Repository(private=False)
    for files in ({"data/train-00000-of-00001.parquet": b"photographs"}, {"dataset.json": b'{"classes": 3}'}):
        repository.commit(files)
        with pytest.raises(AttarError, match="holds files that attar did not write"):
            share.push(mini_run, NAME)
        assert repository.files == files


def test_neither_token_nor_paths_of_this_machine_are_sent(mini_run, hub, finished, capsys):
    recipe = finished / "recipe.yaml"
    recipe.write_text(re.sub(r"  source: digits", "  source: /home/jane/secret/photos", recipe.read_text()))
    info = read_info(finished / "distilled")
    write_info(
        finished / "distilled", info.changed(name="~/secret/photos", recover={**info.recover, "verifier": "/x/y"})
    )
    share.push(finished, NAME)
    sent = hub.repositories[NAME].files
    assert yaml.safe_load(sent["recipe.yaml"])["data"]["source"] == "photos"
    for data in sent.values():
        assert hub_server.TOKEN.encode() not in data
        assert b"secret" not in data
        assert str(Path.home()).encode() not in data
    captured = capsys.readouterr()
    assert hub_server.TOKEN not in captured.out + captured.err


def test_a_set_without_its_run_keeps_its_card(mini_run, hub, tmp_path):
    shutil.copytree(mini_run / "distilled", tmp_path / "set")
    share.push(tmp_path / "set", NAME)
    assert hub.repositories[NAME].files["README.md"] == (tmp_path / "set" / "README.md").read_bytes()


def test_the_verbs_print_where_the_set_is(mini_run, hub, tmp_path, capsys):
    from attar import cli

    cli.main(["push", str(mini_run), NAME])
    cli.main(["pull", NAME, "--out", str(tmp_path / "pulled")])
    printed = capsys.readouterr()
    assert f'Open it with attar.load("{NAME}")' in printed.out
    assert "8 pixels" in printed.out
    assert "push      6 files, " in printed.err
    assert f"pull      the Hub's dataset {NAME} into " in printed.err.replace("\n", "")
    with pytest.raises(SystemExit):
        cli.main(["pull", NAME])
    assert "add --out FOLDER" in capsys.readouterr().err
