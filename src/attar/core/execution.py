"""How a run is executed: the settings that ``core.device`` resolves, without PyTorch."""

from typing import Literal

from attar.core.config import Config


class Execution(Config):
    """How a run is executed. Of these only the precision may alter results, and it is recorded with them."""

    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:1'; auto takes this process's GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of networks; auto: bf16 where the device is clearly faster in it (CPUs are measured), else float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether recover's step and the training of networks are compiled; auto: where there is work enough to pay for it,
    and training on a GPU only."""
    threads: int = 0
    """CPU threads for tensor operations; 0 leaves PyTorch's own choice."""
    workers: int = -1
    """Processes that decode images which do not fit in memory; -1: one per core, at most 8."""
