"""Small datasets on disk, in every layout that attar reads."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attar.core.log import Log


@pytest.fixture
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log whose file is not among the pictures."""
    return Log(tmp_path_factory.mktemp("log") / "log.jsonl", quiet=True)


@pytest.fixture
def events(log: Log) -> Callable[[str], list[dict]]:
    """The events of one kind that were logged."""

    def read(event: str) -> list[dict]:
        if log.path is None or not log.path.exists():
            return []
        lines = [json.loads(line) for line in log.path.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    return read


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """An RGB picture of random pixels."""

    def make(seed: int, width: int = 12, height: int = 10) -> Image.Image:
        values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(values)

    return make


@pytest.fixture
def class_folders(noise: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write so many pictures of each class into a folder per class."""

    def make(path: Path, counts: dict[str, int], seed: int = 0, inner: str = "", **size: int) -> Path:
        for place, (name, count) in enumerate(counts.items()):
            folder = path / name / inner
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                noise(seed + 1000 * place + index, **size).save(folder / f"{name}_{index}.png")
        return path

    return make


@pytest.fixture
def encoded(noise: Callable[..., Image.Image]) -> Callable[..., bytes]:
    """A random picture as PNG bytes."""

    def make(seed: int, **size: int) -> bytes:
        file = io.BytesIO()
        noise(seed, **size).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def write_parquet(encoded: Callable[..., bytes]) -> Callable[..., list[bytes]]:
    """Write a Parquet file with these labels, in row groups of three; returns the encoded pictures."""

    def write(
        path: Path,
        labels: Sequence[int],
        names: Sequence[str] | None = None,
        columns: tuple[str, str] = ("image", "label"),
        raw: bool = False,
        seed: int = 0,
    ) -> list[bytes]:
        pictures = [encoded(seed + index) for index in range(len(labels))]
        cells = pictures if raw else [{"bytes": part, "path": f"{i}.png"} for i, part in enumerate(pictures)]
        kind = pa.binary() if raw else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({columns[0]: pa.array(cells, kind), columns[1]: pa.array(labels, pa.int64())})
        if names:
            features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=3)
        return pictures

    return write


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    """Write a tar file of these members, names to bytes; ``change`` alters each header before it is written."""

    def write(
        path: Path, members: Sequence[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] = lambda _: None
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in members:
                about = tarfile.TarInfo(name)
                about.size = len(data)
                change(about)
                tar.addfile(about, io.BytesIO(data) if about.isreg() else None)
        return path

    return write
