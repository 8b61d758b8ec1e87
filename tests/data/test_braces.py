import time
from pathlib import Path

import pytest

from attar.core.errors import AttarError
from attar.data import braces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("{t-{0..1},v}.tar", ["t-0.tar", "v.tar", "t-1.tar"]),
    ],
)
def test_expand(text: str, expected: list[str]) -> None:
    assert braces.expand(text) == expected


@pytest.mark.parametrize("text", ["{9..1}.tar", "{0..99999999}.tar", "{0..999}{0..999}{0..9}.tar"])
def test_expand_refuses_endless_ranges(text: str) -> None:
    with pytest.raises(AttarError, match=r"must count upwards|more than 100,000 files"):
        braces.expand(text)


def test_paths(tmp_path: Path) -> None:
    for name in ("a-0.tar", "a-1.tar", "b.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in braces.paths(f"{tmp_path}/{{b,a-*}}.tar")] == ["b.tar", "a-0.tar", "a-1.tar"]
    with pytest.raises(AttarError, match=r"There is no file .*a-2.tar, which .* names; check the range and the path\."):
        braces.paths(f"{tmp_path}/a-{{0..2}}.tar")
    with pytest.raises(AttarError, match=r"There is no file .*c\*.tar; check the path\."):
        braces.paths(f"{tmp_path}/c*.tar")


def test_patterns_name_the_same_files_here_and_in_a_store(tmp_path: Path) -> None:
    names = ["a/0.tar", "a/1.tar", "a/b/0.tar", "a/.0.tar", "c/0.tar", ".h/0.tar", "a[1]/0.tar"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for text, expected in {
        "*/0.tar": ["a/0.tar", "a[1]/0.tar", "c/0.tar"],
        "a/?.tar": ["a/0.tar", "a/1.tar"],
        "{c,a}/{0..1}.tar": None,
        "{c/*,a[1]/0}.tar": ["c/0.tar", "a[1]/0.tar"],
        "*.tar": None,
    }.items():
        found = [fitting for _, fitting in braces.fitting(text, names)]
        assert ([name for one in found for name in one] if all(found) else None) == expected
        if expected is None:
            with pytest.raises(AttarError, match="There is no file"):
                braces.paths(f"{tmp_path}/{text}")
        else:
            assert [path.relative_to(tmp_path).as_posix() for path in braces.paths(f"{tmp_path}/{text}")] == expected


def test_many_names_are_found_quickly() -> None:
    names, begun = [f"train-{number:06}.tar" for number in range(50_000)], time.process_time()
    assert all(fitting == [wanted] for wanted, fitting in braces.fitting("train-{000000..049999}.tar", names))
    assert time.process_time() - begun < 5  # comparing each with each takes a quarter of an hour


def test_names_files(tmp_path: Path) -> None:
    (tmp_path / "one.tar").touch()
    assert braces.names_files(f"{tmp_path}/one.tar")
    assert braces.names_files("x/{0..3}.tar")
    assert braces.names_files("x/*.parquet")
    assert not braces.names_files(f"{tmp_path}/two.tar")
    assert not braces.names_files("digits")
