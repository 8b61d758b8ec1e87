"""'attar doctor': say what this machine has, what 'auto' would choose on it, and what would stop a run.

PyTorch and what needs it are imported where they are examined, so that a broken installation is reported, too.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.log import readable_bytes
from attar.core.parser import Parser
from attar.store.cache import cache_folder

LEAST_DISK, LITTLE_DISK = 50 * 10**6, 2 * 10**9
"""Bytes of disk below which no run fits (the smallest, 'digits', leaves 5 MB), and below which few do."""
LITTLE_MEMORY = 2 * 10**9
"""Bytes of free memory below which training a ResNet-18 on small images may end for lack of memory."""
LITTLE_SHARED = 256 * 2**20
"""Bytes of /dev/shm below which processes that decode images may end; containers often have 64 MiB."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;\s*extra\s*==\s*['\"]([^'\"]+)['\"])?\s*$")


@dataclass
class Diagnosis:
    """What was found, in groups, each a mapping of names and values."""

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What would stop a run, one sentence each, with the mend."""
    notes: list[str] = field(default_factory=list)
    """What would make a run slow or may stop some runs."""

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {**self.groups, "problems": self.problems, "notes": self.notes}

    def lines(self) -> list[str]:
        """Return everything as lines of text."""
        lines = []
        for title, group in self.groups.items():
            for place, (name, value) in enumerate(group.items()):
                plain = name.removesuffix("_bytes").replace("_", " ")
                lines.append(f"{'' if place else title:<9} {plain:<19} {_words(name, value)}".rstrip())
        lines += [f"note: {text}" for text in self.notes] + [f"problem: {text}" for text in self.problems]
        return [*lines, "A run would stop here; see above." if self.problems else "Nothing here would stop a run."]


def main(arguments: Sequence[str]) -> None:
    """Print the diagnosis; ends with exit code 1 when something would stop a run."""
    parser = Parser("attar doctor", "Say what this machine has, what 'auto' would choose, and what would stop a run.")
    out = "the folder where runs would go [runs]"
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help=out)
    parser.add_argument("--compile", action="store_true", help="also compile a small function, which takes a minute")
    parser.add_argument("--json", action="store_true", help="print it for programs")
    options = parser.parsed(list(arguments))
    found = examine(options.out, options.compile)
    if options.json:
        print(json.dumps(found.plain(), indent=2))
    else:
        console = SafeConsole(highlight=False)
        for line in found.lines():
            style = {"problem": "bold red", "note": "yellow"}.get(line.partition(":")[0], "")
            console.print(line, style=style, markup=False, soft_wrap=True)
    if found.problems:
        raise SystemExit(1)


def examine(out: Path, tries_compiler: bool = False) -> Diagnosis:
    """Examine this machine and return what was found; ``out`` is where runs would go, and nothing is left in it."""
    found = Diagnosis()
    _packages(found)
    _system(found, out)
    with contextlib.suppress(ImportError, OSError):  # reported with the packages
        _devices(found)
        _choices(found)
        _compiler(found, tries_compiler)
    return found


def _packages(found: Diagnosis) -> None:
    versions: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    extras: dict[str, list[str]] = {}
    for name, wanted, extra in _requirements():
        version = _version(name)
        if extra == "dev":
            continue
        if extra:
            extras.setdefault(extra, []).extend([name] * (version is None))
            continue
        versions[name] = version or "missing"
        if version is None:
            found.problems.append(f"The package {name} is not installed; run pip install '{name}{wanted}'.")
        elif not _fits(version, wanted):
            found.notes.append(f"{name} {version} is outside the tested range {wanted}; pip install '{name}{wanted}'.")
    for name in ("torch", "torchvision", "timm", "sklearn", "pyarrow"):
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation raises anything
            first = (str(error).splitlines() or [""])[0]
            found.problems.append(f"{name} cannot be imported ({type(error).__name__}: {first}); install it again.")
    found.groups["versions"] = {"attar": _version("attar") or "from source", **versions}
    if extras:
        lacking = {extra: f"no: pip install 'attar[{extra}]'" if names else "yes" for extra, names in extras.items()}
        found.groups["extras"] = dict(lacking)


def _system(found: Diagnosis, out: Path) -> None:
    memory = {"free_bytes": free_memory(), "cores": _cores()}
    if memory["free_bytes"] is not None and memory["free_bytes"] < LITTLE_MEMORY:
        found.notes.append(
            f"Only {readable_bytes(memory['free_bytes'])} of memory are free; use small units "
            f"(--recover.unit-classes) and batches, or end other programs."
        )
    found.groups["memory"] = memory
    disks: dict[str, Any] = {}
    places = [("runs", out, "give another --out")]
    with contextlib.suppress(AttarError):
        places.append(("cache", cache_folder(), "set ATTAR_CACHE to another folder"))
    for name, folder, mend in places:
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        disks[name] = str(folder.absolute())
        disks[f"{name}_free_bytes"] = free
        if not _is_writable(there):
            found.problems.append(f"{there} cannot be written; {mend} or change its permissions.")
        elif free < LEAST_DISK:
            found.problems.append(f"Only {readable_bytes(free)} are free where {folder} lies; {mend} or free some.")
        elif free < LITTLE_DISK:
            found.notes.append(f"Only {readable_bytes(free)} are free where {folder} lies; labels may need more.")
    shared = Path("/dev/shm")
    if shared.is_dir():
        disks["shared_memory_free_bytes"] = shutil.disk_usage(shared).free
        if disks["shared_memory_free_bytes"] < LITTLE_SHARED:
            found.notes.append(
                "/dev/shm is small, so processes that decode images may end; start the container with a larger one "
                "(docker run --shm-size 2g), or use --execution.workers 0."
            )
    found.groups["disk"] = disks


def _devices(found: Diagnosis) -> None:
    import torch

    from attar.core.device import Execution, computes_bf16, resolve

    group: dict[str, Any] = {"cpu": resolve(Execution(device="cpu", precision="fp32")).describe()}
    group["cpu_bf16"] = computes_bf16(torch.device("cpu"))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        one, name = torch.device("cuda", index), f"cuda:{index}"
        free, total = torch.cuda.mem_get_info(one)
        capability = ".".join(map(str, torch.cuda.get_device_capability(one)))
        group |= {name: f"{torch.cuda.get_device_name(one)}, compute capability {capability}"}
        group |= {f"{name}_free_bytes": free, f"{name}_total_bytes": total}
        try:
            torch.ones(2, device=one).sum().item()
        except RuntimeError as error:
            first = (str(error).splitlines() or [""])[0]
            found.problems.append(f"{name} does not work ({first}); use --execution.device cpu, or mend the driver.")
    if torch.version.cuda and not torch.cuda.is_available():
        group["cuda"] = "this PyTorch supports CUDA, but finds no GPU"
    if not torch.version.cuda and shutil.which("nvidia-smi"):
        found.notes.append("There is an NVIDIA driver, but this PyTorch is for CPUs only; see pytorch.org.")
    found.groups["devices"] = group


def _choices(found: Diagnosis) -> None:
    from attar.core.compiling import CPU, WORTHWHILE
    from attar.core.device import Execution, resolve

    device = resolve(Execution())
    pays = f"recover, if that saves more than it takes ({CPU.function:.0f} s and {CPU.layer:g} s a layer)"
    if device.device.type != "cpu":
        pays = f"recover and training with {WORTHWHILE[device.device.type] / 1e12:,.0f} TFLOP or more to do"
    import torch

    found.groups["auto"] = {
        "device": str(device.device),
        "precision": f"{device.precision}, {device.why}",
        "compile": pays,
        "threads": torch.get_num_threads(),
        "workers": device.workers,
    }
    if device.device.type == "cpu" and torch.get_num_threads() > _cores():
        found.notes.append(
            f"PyTorch would use {torch.get_num_threads()} threads on {_cores()} cores; set --execution.threads "
            f"{_cores()}."
        )


def _compiler(found: Diagnosis, tries: bool) -> None:
    import torch

    wanted = os.environ.get("CXX", "")
    compiler = next(filter(None, map(shutil.which, filter(None, (wanted, "g++", "clang++", "c++")))), None)
    header = (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()
    triton = importlib.util.find_spec("triton") is not None
    group: dict[str, Any] = {"c++": compiler or "none", "python_headers": header, "triton": triton}
    lacking = []
    if compiler is None:
        lacking.append("a C++ compiler, such as g++")
    if not header:
        lacking.append("Python's headers (python3-dev)")
    if torch.cuda.is_available() and not triton:
        lacking.append("triton")
    if lacking:
        found.notes.append(f"Nothing can be compiled, so runs are slower; install {' and '.join(lacking)}.")
    if tries:
        group["trial"] = _trial()
        if group["trial"].startswith("failed"):
            found.notes.append(
                f"Compiling {group['trial']}; runs work uncompiled (--execution.compile off), but slower."
            )
    found.groups["compiler"] = group


def _trial() -> str:
    """Compile a small function with an empty cache, and say how long it took or why it failed."""
    import torch

    def function(values: torch.Tensor) -> torch.Tensor:
        return (values.sin() * 2 + 1).sum()

    values, started, before = torch.linspace(0, 1, 1000), time.perf_counter(), os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if torch.cuda.is_available():
        values = values.cuda()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        try:
            answer = torch.compile(function)(values)
        except Exception as error:
            return f"failed ({type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no reason given')})"
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
    if not torch.allclose(answer, function(values), rtol=1e-3):
        return "failed (the compiled function returns other values)"
    return f"compiled in {time.perf_counter() - started:.0f} s"


def free_memory() -> int | None:
    """Return the bytes of memory that are free for this process, within the limit of its container; None if unknown."""
    free: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # 'max' without a limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return min(free, default=None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _requirements() -> list[tuple[str, str, str]]:
    """Return the packages that attar requires: name, versions, and the extra that needs it or ''."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found = [_REQUIREMENT.match(line) for line in importlib.metadata.requires("attar") or ()]
        parts = [(each[1], each[2].strip(), each[3] or "") for each in found if each]
        return [part for part in parts if part[0] != "attar"]
    return []


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _fits(version: str, wanted: str) -> bool:
    """Return whether a version is in a range such as '>=2.11,<2.16'; bounds of other kinds are not looked at."""
    one = _numbers(version)
    bounds = [(sign, _numbers(bound)) for sign, bound in re.findall(r"(>=|<(?!=))\s*([\d.]+)", wanted)]
    return all(one >= bound if sign == ">=" else one < bound for sign, bound in bounds)


def _numbers(version: str) -> list[int]:
    """Return the numbers that a version begins with, as [2, 15, 0] of '2.15.0+cu130'."""
    begins = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in begins[0].split(".")] if begins else []


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unknown"
    return readable_bytes(value) if name.endswith("bytes") else str(value)
