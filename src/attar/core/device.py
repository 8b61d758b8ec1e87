"""Where and how tensors are computed: device, threads, precision."""

import contextlib
import os
import platform
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
    """A resolved device with the precision of networks on it."""

    device: torch.device
    precision: Precision
    compile: Literal["auto", "on", "off"]
    workers: int
    why: str = "as asked"
    """Why this precision, in words that follow its name and a comma."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which networks are trained and label."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def describe(self) -> str:
        """The hardware in words, for manifests and tables."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        count = torch.get_num_threads()
        return f"{_cpu_name()}, {count} thread{'s' if count > 1 else ''}"


def resolve(execution: Execution) -> Device:
    """Choose the device; raises AttarError when the named one is not there."""
    if execution.threads:
        torch.set_num_threads(execution.threads)
    name = execution.device
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise AttarError(f"There is no device '{name}' here; use --execution.device cpu or auto.") from None
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # the same pixels on every run
    workers = min(8, os.cpu_count() or 1) if execution.workers < 0 else execution.workers
    if execution.precision != "auto":
        return Device(device, execution.precision, execution.compile, workers)
    faster, why = _faster(device)
    return Device(device, faster, execution.compile, workers, why)


def _faster(device: torch.device) -> tuple[Precision, str]:
    """The precision in which the device is clearly faster, and why."""
    if not computes_bf16(device):
        return "fp32", "for this device has no arithmetic in bf16"
    if device.type != "cpu":
        return "bf16", "which this device computes in"
    # A processor may name the instructions and yet be slower with them, as an Intel Xeon whose AMX is hidden.
    speeds = precision.measured()
    return speeds.choice(), speeds.reason()


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than only emulating it; not whether they are fast."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = set(_cpu_info("flags").split()) | {f"arm_{name}" for name in _cpu_info("Features").split()}
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16", "arm_bf16"} & flags)


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """What Linux says of its first processor; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
