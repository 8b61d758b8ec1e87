"""Where and how tensors are computed: device, threads, precision."""

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from attar.core import precision
from attar.core.errors import AttarError
from attar.core.execution import Execution
from attar.core.precision import Precision


@dataclass(frozen=True)
class Device:
    """A resolved device, and the precision that networks use on it."""

    device: torch.device
    precision: Precision
    compile: Literal["auto", "on", "off"]
    workers: int
    why: str = "as asked"
    """Why this precision was chosen; printed after its name and a comma."""
    name: str = ""
    """The hardware, if other processes do the work; '': that of ``device``."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context for training networks and for labelling."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def describe(self) -> str:
        """Return the name of the hardware, for manifests and tables."""
        if self.name:
            return self.name
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        count = torch.get_num_threads()
        return f"{_cpu_name()}, {count} thread{'s' if count > 1 else ''}"


_agreed: tuple[Precision, str, str] | None = None
"""The precision that all processes of a cluster use, why, and the name of their hardware."""


@contextlib.contextmanager
def agreed(precision: Precision, why: str, name: str = "") -> Iterator[None]:
    """Use this precision during the block where the settings leave it open, as the other processes of a cluster do.

    ``name`` is the hardware that works for this process, if it is not its own.
    """
    global _agreed
    before = _agreed
    _agreed = precision, why, name
    try:
        yield
    finally:
        _agreed = before


def resolve(execution: Execution) -> Device:
    """Choose the device; raises AttarError when the named device does not exist.

    A process for which others work (``agreed`` with their name) takes its own device if it lacks the named one.
    """
    if execution.threads:
        torch.set_num_threads(execution.threads)
    worker = "" if _agreed is None else _agreed[2]
    device = _existing(_own() if execution.device == "auto" else execution.device)
    if device is None and worker:
        device = _existing(_own())
    if device is None:
        raise AttarError(f"This machine has no device '{execution.device}'; use --execution.device cpu or auto.")
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # the same pixels on every run
    workers = min(8, os.cpu_count() or 1) if execution.workers < 0 else execution.workers
    if execution.precision != "auto":
        return Device(device, execution.precision, execution.compile, workers, name=worker)
    precision, why = _faster(device) if _agreed is None else _agreed[:2]
    return Device(device, precision, execution.compile, workers, why, worker)


def _own() -> str:
    """Return the name of this process's GPU, or else of the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _existing(name: str) -> torch.device | None:
    """Return the device of this name; None if this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        return None
    return device


def _faster(device: torch.device) -> tuple[Precision, str]:
    """Return the precision that is clearly faster on the device, and why."""
    if not computes_bf16(device):
        return "fp32", "because this device has no bf16 arithmetic"
    if device.type != "cpu":
        return "bf16", "which this device supports"
    # A CPU may list bf16 instructions and still be slower with them, for example an Intel Xeon with AMX disabled.
    speeds = precision.measured()
    return speeds.choice(), speeds.reason()


def computes_bf16(device: torch.device) -> bool:
    """Return whether the device has native bfloat16 instructions; they may still be slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = set(_cpu_info("flags").split()) | {f"arm_{name}" for name in _cpu_info("Features").split()}
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16", "arm_bf16"} & flags)


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """Return Linux's value for the first CPU; an empty text on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
