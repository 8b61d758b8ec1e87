"""Where and how tensors are computed: device, threads, precision."""

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from attar.core.errors import AttarError
from attar.core.execution import Execution


@dataclass(frozen=True)
class Device:
    """A resolved device with the precision of networks on it."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    compile: Literal["auto", "on", "off"]
    workers: int

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
    precision = ("bf16" if _computes_bf16(device) else "fp32") if execution.precision == "auto" else execution.precision
    workers = min(8, os.cpu_count() or 1) if execution.workers < 0 else execution.workers
    return Device(device, precision, execution.compile, workers)


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, rather than only emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool({"avx512_bf16", "amx_bf16"} & set(_cpu_info("flags").split()))


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(key: str) -> str:
    """What Linux says of its first processor; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""
