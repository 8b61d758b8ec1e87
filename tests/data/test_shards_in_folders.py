"""Which shards of a folder belong together: the same rules for tar and Parquet files, here and in folders below."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.data.choice import DataChoice
from attar.data.load import load
from attar.data.source import RealData

Write = Callable[..., None]


@pytest.fixture(params=["tar", "parquet"])
def write(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    write_tar: Callable[..., Path],
    write_parquet: Callable[..., object],
    encoded: Callable[..., bytes],
) -> Callable[..., str]:
    """Writes a shard of four images under a name without ending; returns the ending."""

    def make(*names: str) -> str:
        for name in names:
            path = tmp_path / f"{name}.{request.param}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if request.param == "parquet":
                write_parquet(path, [0, 1, 0, 1])
            else:
                members = [(f"{n}.png", encoded(n)) for n in range(4)] + [
                    (f"{n}.cls", b"%d" % (n % 2)) for n in range(4)
                ]
                write_tar(path, members)
        return request.param

    return make


def opened(source: object, log: Log) -> RealData:
    return load(DataChoice(source=str(source)), 0, log)


def count(real: RealData) -> int:
    return len(real.train) + len(real.val)


def test_files_of_one_name_are_for_training(tmp_path: Path, write: Write, log: Log) -> None:
    write("birds-0", "birds-1")
    assert count(opened(tmp_path, log)) == 8


@pytest.mark.parametrize("names", [("birds-0", "cats-0"), ("birds-train-0", "cats-train-0")])
def test_files_of_several_names_are_joined_by_a_pattern_only(
    tmp_path: Path, write: Write, log: Log, names: tuple[str, str]
) -> None:
    ending = write(*names)
    with pytest.raises(AttarError, match=r"holds (tar|Parquet) files of several names \(birds.*, cats.*\)") as error:
        opened(tmp_path, log)
    named = re.search("--data.source '(.*)'", str(error.value))
    assert named is not None
    assert count(opened(named[1], log)) == 4
    assert count(opened(f"{tmp_path}/*.{ending}", log)) == 8


def test_shards_in_folders_below_are_left_out_and_that_is_said(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train-0")
    assert count(opened(tmp_path, Log())) == 4
    assert "below it" not in capsys.readouterr().err
    write("more/train-1")
    assert count(opened(tmp_path, Log())) == 4
    assert f"attar reads the files in {tmp_path}, and not those in folders below it" in capsys.readouterr().err


def test_a_folder_for_each_split(tmp_path: Path, write: Write, log: Log) -> None:
    write("train/0", "train/1", "val/0")
    real = opened(tmp_path, log)
    assert (len(real.train), len(real.val)) == (8, 4)


@pytest.mark.parametrize("inside", ["birds", "birds/new", "birds/data", "birds/train"])
def test_the_only_dataset_below_a_folder_is_read(
    tmp_path: Path, write: Write, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(f"{inside}/train-0", f"{inside}/train-1")
    assert count(opened(tmp_path, Log())) == 8
    place = "birds/new" if inside == "birds/new" else "birds"
    assert f"{tmp_path} holds nothing but {place}, which is read" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "all/"])
def test_of_several_datasets_below_a_folder_one_must_be_named(
    tmp_path: Path, write: Write, log: Log, inside: str
) -> None:
    write(f"{inside}birds/train-0", f"{inside}cats/data/train-0")
    told = rf"holds several datasets, in the folders {inside}birds, {inside}cats; choose one, as in --data.source '"
    with pytest.raises(AttarError, match=told) as error:
        opened(tmp_path, log)
    named = re.search("--data.source '(.*?)'", str(error.value))
    assert named is not None
    assert count(opened(named[1], log)) == 4


def test_archives_beside_class_folders_are_no_shards(
    tmp_path: Path, write: Write, class_folders: Callable[..., object], log: Log
) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 2})
    if write("cat/images") == "tar":
        write("images")
    assert opened(tmp_path, log).classes == ("cat", "dog")
