"""What travels to a machine without a network and back: real images in portions, wheels, and a step's state in parts.

State comes back as at most ``MOST_PARTS`` files of ``PART_BYTES``. Weights travel in half precision: those of a teacher
that was rounded to it come back byte for byte, a checkpoint in the middle of a training comes back rounded.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from attar.core.errors import AttarError
from attar.models.teacher import Teacher
from attar.store import atomic, weights

PART_BYTES, MOST_PARTS = 15 * 2**20, 4
"""Four parts, a log and a table stay below eight files and 64 MiB, which is what comes back from one command."""
PORTION_BYTES = 50 * 2**20
"""Of real images a command: room is left for the code, for wheels and for state."""
IN_HALF = ("checkpoint.safetensors", "teacher.safetensors")
WHEELS = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    *("jaxtyping", "wadler-lindig", "datasets", "dill", "multiprocess"),
)
"""What attar needs beside PyTorch, torchvision, timm, safetensors, pyarrow, scikit-learn, rich and matplotlib."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def round_weights(found: Teacher) -> None:
    """Round every matrix and kernel of a teacher to half precision, in place, so that it travels in half unchanged."""
    with torch.no_grad():
        for name, value in found.module.state_dict().items():
            if value.dtype == torch.float32 and value.ndim >= 2:
                half = value.half()
                if not bool(half.isfinite().all()):
                    raise AttarError(f"The teacher's {name} is beyond half precision; train with more weight decay.")
                value.copy_(half)


def pack(folder: Path, files: Iterable[Path], state: Path, name: str) -> list[str]:
    """Write files of ``folder`` as parts ``NAME.K.part`` and an index ``NAME.parts.json`` into ``state``.

    ``files`` come in the order of their worth: those for which there is no room are left out, and returned.
    """
    stream, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in files:
            data, halved = _content(path)
            if stream.tell() + len(data) + 4096 > MOST_PARTS * PART_BYTES:
                left_out.append(str(path.relative_to(folder)))
                continue
            entry = tarfile.TarInfo(str(path.relative_to(folder)) + (".half" if halved else ""))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    whole = stream.getvalue()
    parts = [whole[start : start + PART_BYTES] for start in range(0, len(whole), PART_BYTES)]
    state.mkdir(parents=True, exist_ok=True)
    for old in state.glob(f"{name}.*.part"):
        old.unlink()
    for place, part in enumerate(parts):
        with atomic.replace(state / f"{name}.{place}.part") as temporary:
            temporary.write_bytes(part)
    index = {"parts": len(parts), "sha256": hashlib.sha256(whole).hexdigest(), "left_out": left_out}
    atomic.write_json(state / f"{name}.parts.json", index)
    return left_out


def unpack(states: Sequence[Path], name: str, folder: Path) -> bool:
    """Bring back what ``pack`` wrote, unless ``folder`` is there already; returns whether it was brought back.

    ``states`` are folders to look in, the last one first. Raises AttarError when a part is missing or damaged.
    """
    index = next((at / f"{name}.parts.json" for at in reversed(states) if (at / f"{name}.parts.json").is_file()), None)
    if folder.exists() or index is None:
        return False
    wanted = json.loads(index.read_text())
    parts = [index.with_name(f"{name}.{place}.part") for place in range(wanted["parts"])]
    missing = next((part for part in parts if not part.is_file()), None)
    if missing is not None:
        raise AttarError(f"{missing} is missing; carry all parts of {name}, or remove {index} to begin it anew.")
    whole = b"".join(part.read_bytes() for part in parts)
    if hashlib.sha256(whole).hexdigest() != wanted["sha256"]:
        raise AttarError(f"The parts of {name} in {index.parent} are damaged; carry them again.")
    beside = folder.with_name(f"{folder.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        archive.extractall(beside, filter="data")
    for half in beside.rglob("*.half"):
        _convert(half, half.with_suffix(""), torch.float16, torch.float32)
        half.unlink()
    beside.replace(folder)
    return True


def _content(path: Path) -> tuple[bytes, bool]:
    """A file's bytes, and whether they are in half precision."""
    if path.name not in IN_HALF:
        return path.read_bytes(), False
    half = path.with_name(f"{path.name}.half")
    _convert(path, half, torch.float32, torch.float16)
    data = half.read_bytes()
    half.unlink()
    return data, True


def _convert(source: Path, target: Path, before: torch.dtype, after: torch.dtype) -> None:
    """Copy a safetensors file with its matrices and kernels of one type made another."""
    tensors, metadata = weights.load_weights(source)
    converted = {
        name: value.to(after) if value.dtype == before and value.ndim >= 2 else value for name, value in tensors.items()
    }
    weights.save_weights(target, converted, dict(sorted(metadata.items())))  # the reader returns them in any order


def portions(source: Path, target: Path, name: str, portion_bytes: int = PORTION_BYTES) -> list[Path]:
    """Split a folder of Parquet files into folders NAME-0, NAME-1, ... that each fit one command; returns them.

    Rows keep their order and their bytes.
    """
    pieces: list[tuple[str, Any]] = []
    for path in sorted(source.glob("*.parquet")):
        split, table = path.name.split("-")[0], pq.read_table(path)
        count = -(-path.stat().st_size // (portion_bytes // 9))
        for place in range(count):
            start, stop = place * len(table) // count, (place + 1) * len(table) // count
            pieces.append((split, table.slice(start, stop - start)))
    if not pieces:
        raise AttarError(f"{source} holds no Parquet files to carry; name the folder that does.")
    for old in target.glob(f"{name}-*"):
        shutil.rmtree(old)
    folders: list[Path] = []
    numbers: dict[str, int] = {}
    room = 0
    for split, table in pieces:
        number = numbers[split] = numbers.get(split, -1) + 1
        beside = target / "writing.parquet"
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, beside, compression="zstd", row_group_size=1000)
        size = beside.stat().st_size
        if size > room:
            folders.append(target / f"{name}-{len(folders)}")
            folders[-1].mkdir()
            room = portion_bytes
        room -= size
        beside.replace(folders[-1] / f"{split}-{number:05d}.parquet")
    for folder in folders:
        atomic.write_json(folder / "portions.json", {"portions": len(folders)})
    return folders


def gathered(data: Path, name: str, target: Path) -> Path:
    """One folder with the files of all portions, as links; raises AttarError when a portion is not there yet."""
    found = sorted(data.glob(f"{name}-*/portions.json"))
    count = json.loads(found[0].read_text())["portions"] if found else 1
    missing = [f"{data / name}-{place}" for place in range(count) if not (data / f"{name}-{place}").is_dir()]
    if missing:
        raise AttarError(
            f"The images of {name} are not all here; make them with --prepare {name}=FOLDER, and carry {missing[0]}."
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in data.glob(f"{name}-*/*.parquet"):
        (target / path.name).symlink_to(path.resolve())
    return target


def download_wheels(target: Path) -> None:
    """Collect the wheels that the machine lacks, in the versions of constraints.txt where it names them."""
    constraints = Path(__file__).parents[1] / "constraints.txt"
    pins = dict(line.split("==") for line in constraints.read_text().splitlines() if "==" in line)
    known = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = [f"{name}=={known[name]}" if name in known else name for name in WHEELS]
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.whl"):
        old.unlink()
    where = ("--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp")
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *where, *platforms, "-d", str(target), *wanted]
    if subprocess.run(command, check=False).returncode:
        raise AttarError("pip could not bring the wheels; see its words above, and try again with a network.")
