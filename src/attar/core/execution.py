"""Settings of device, precision and threads. ``core/device.py`` resolves them; nothing here imports PyTorch."""

from typing import Annotated, Literal

import pydantic

from attar.core.config import Config


def _gpus(count: float) -> float:
    if count != -1 and (count < 0 or (count > 1 and count % 1)):
        raise ValueError("give a whole number of GPUs, a fraction of one such as 0.5, or -1")
    return count


class Execution(Config):
    """Device, precision and threads of a run. Only the precision may change results, which manifests record, and
    data-parallel training changes them by rounding."""

    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:1'; auto: this process's GPU, or the CPU if there is none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of networks; auto: bf16 if the device is clearly faster with it (CPUs are measured), else float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile recover's iterations and the training of networks; auto: if that saves time in all, and training only on
    GPUs."""
    threads: int = 0
    """CPU threads for tensor operations; 0: PyTorch's default."""
    workers: int = -1
    """Processes that decode images that do not fit in memory; -1: one per core, at most 8."""
    data_parallel: Literal["auto", "on", "off"] = "auto"
    """With several processes, let all of them train each network together, each on its part of every batch; auto: if
    there are fewer networks than processes and each is much work. Otherwise each process trains networks of its own."""
    sync_batchnorm: bool = False
    """In data-parallel training, compute BatchNorm statistics over the whole batch, not over each process's part; only
    on GPUs."""
    job_cpus: float = pydantic.Field(default=1.0, gt=0)
    """With --launcher ray, the CPUs of one job; it computes with as many threads, unless 'threads' says otherwise."""
    job_gpus: Annotated[float, pydantic.AfterValidator(_gpus)] = -1.0
    """With --launcher ray, the GPUs of one job; below 1, jobs share a GPU; -1: one if the cluster has any."""
    train_workers: int = pydantic.Field(default=1, ge=1)
    """With --launcher ray, the processes that train one network together, if 'data_parallel' says so."""
    mirror: str = ""
    """Folder in an object store (s3://BUCKET/FOLDER) to which finished stages are sent; those that --out lacks are
    fetched from it first. Empty: none."""
