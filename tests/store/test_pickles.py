"""Files of other people: read as tensors and numbers, or refused in the sentences of their kind."""

import fractions
import os
import pickle
from pathlib import Path

import pytest
import torch

from attar.core.errors import AttarError
from attar.store import pickles

KIND = pickles.Kind("no {path}", "{path} has {name}", "{path} is broken: {reason}", "no pickle")


class Ratio:
    """Stands in for Fraction."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers


class Runs:
    """Would leave a folder behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_what_is_stood_in_for_is_read(tmp_path: Path):
    path = tmp_path / "file"
    torch.save([torch.ones(2), fractions.Fraction(1, 3)], path)
    tensor, ratio = pickles.read(path, KIND, [(Ratio, "fractions.Fraction")])
    assert torch.equal(tensor, torch.ones(2))
    assert isinstance(ratio, Ratio)
    assert ratio.numbers == (1, 3)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_not_run(tmp_path: Path, zipped: bool):
    path, trace = tmp_path / "file", tmp_path / "trace"
    torch.save(Runs(trace), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AttarError, match=rf"^{path} has posix.mkdir$"):
        pickles.read(path, KIND, ())
    assert not trace.exists()


def test_a_stand_in_is_for_one_file_alone(tmp_path: Path):
    path = tmp_path / "file"
    torch.save(fractions.Fraction(1, 3), path)
    pickles.read(path, KIND, [(Ratio, "fractions.Fraction")])
    with pytest.raises(AttarError, match="file has fractions.Fraction"):
        pickles.read(path, KIND, ())


@pytest.mark.parametrize(("content", "reason"), [(b"", "it is empty"), (b"text", "no pickle")])
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AttarError, match=f"^{path} is broken: {reason}$"):
        pickles.read(path, KIND, ())


def test_a_cut_file_is_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "file"
    torch.save(torch.zeros(1000), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AttarError, match=f"^{path} is broken: .+$") as caught:
        pickles.read(path, KIND, ())
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(AttarError, match=f"^no {tmp_path / 'file'}$"):
        pickles.read(tmp_path / "file", KIND, ())


def test_plain_pickles_are_read_as_such_or_refused(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"a": Runs(tmp_path / "trace")}))
    with pytest.raises(AttarError, match=f"^{path} "):
        pickles.read(path, KIND, ())
    assert not (tmp_path / "trace").exists()
