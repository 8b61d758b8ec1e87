import json
import os
from pathlib import Path

import pytest
import torch

from attar.core.errors import AttarError
from attar.data.hierarchy import read

CLASSES = ("animal", "dog", "puppy", "rock")
EXPECTED = ((), (0,), (1, 0), ())


def test_lines_json_and_the_published_tree(tmp_path: Path) -> None:
    lines = "# a comment\ndog mammal\nmammal animal\npuppy dog\npuppy toy\nanimal thing\n\n"  # mammal is no class
    (tmp_path / "tree.txt").write_text(lines)
    (tmp_path / "tree.tsv").write_text(lines.replace(" ", "\t").replace("#\ta\tcomment\n", ""))
    tree = {"dog": "mammal", "mammal": "animal", "puppy": "dog", "rock": None}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    names = ["puppy", "rock", "animal", "dog"]
    chains = [[0, 3, 2], [1], [2], [3, 2]]
    published = {"class_list": names, "class_tree_list": chains, "class_description": {}}
    torch.save(published, tmp_path / "tree.pth")
    for name in ("tree.txt", "tree.tsv", "tree.json", "tree.pth"):
        assert read(tmp_path / name, CLASSES) == EXPECTED, name


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/attar-was-here",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "dog animal\nanimal dog\n", r"says that '(dog|animal)' lies above itself; remove that circle"),
        ("t.txt", "dog animal more\n", r"Line 1 of .* must have two names, CLASS PARENT; it has 3"),
        ("t.txt", "cat animal\n", r"no class of the data has another one above it, so there are no levels"),
        ("t.txt", b"\xff\xfe", r"cannot be read as a tree of classes"),
        ("t.json", "[1]", r"must hold one JSON object"),
        ("t.json", "{", r"cannot be read as a tree of classes"),
        ("t.pth", {"class_list": ["dog"]}, r"lacks class_list or class_tree_list"),
        ("t.pth", {"class_list": ["dog"], "class_tree_list": [[0, 7]]}, r"lacks class_list or class_tree_list"),
        ("t.pth", Evil(), r"refers to code \((posix|os|nt)\.system\), which attar does not run"),
        ("t.pth", b"text", r"cannot be read as a tree of classes \(it is not a file of torch.save\)"),
    ],
)
def test_refuses(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(AttarError, match=message):
        read(path, CLASSES)
    assert not Path("/tmp/attar-was-here").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AttarError, match=r"cannot be read \(No such file .*\); check --squeeze.semantic-tree\."):
        read(tmp_path / "tree.txt", CLASSES)
