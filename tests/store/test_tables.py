"""store/tables.py: parts become one file; damaged files and those of other work are noticed."""

from pathlib import Path

import pytest
import torch

from attar.core.errors import AttarError
from attar.store import tables

BLOCKS = [range(0, 2), range(2, 3)]
TABLES = {"means": torch.arange(6.0).reshape(3, 2), "counts": torch.tensor([4, 5, 6])}


def save(folder: Path, made_for: str = "this") -> None:
    for rows in BLOCKS:
        part = {name: table[rows.start : rows.stop] for name, table in TABLES.items()}
        tables.save(folder, part, rows, made_for)


def test_parts_become_one_file_and_are_removed(tmp_path: Path):
    save(tmp_path)
    assert [tables.fault(tmp_path, rows, "this") for rows in BLOCKS] == ["", ""]
    tables.join(tmp_path, BLOCKS, "this")
    found = tables.load(tmp_path, range(3), "this")
    assert found.keys() == TABLES.keys()
    assert all(torch.equal(found[name], table) for name, table in TABLES.items())
    assert [path.name for path in tmp_path.iterdir()] == [tables.TABLE]


def test_another_works_file_and_other_rows_are_refused(tmp_path: Path):
    save(tmp_path, "other")
    assert "belongs to another run" in tables.fault(tmp_path, BLOCKS[0], "this")
    save(tmp_path)
    assert tables.fault(tmp_path, range(0, 3), "this")
    tables.join(tmp_path, BLOCKS, "this")
    with pytest.raises(AttarError, match="belongs to another run"):
        tables.load(tmp_path, range(3), "other")


@pytest.mark.parametrize("place", [0, 10, 300, -1])
def test_every_damage_is_noticed(tmp_path: Path, place: int):
    save(tmp_path)
    path = tables.path_of(tmp_path, BLOCKS[0])
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert str(path) in tables.fault(tmp_path, BLOCKS[0], "this")
    with pytest.raises(AttarError):
        tables.join(tmp_path, BLOCKS, "this")
    assert not tables.path_of(tmp_path).exists()
