import pytest
import torch

from attar.core import device
from attar.core.device import Execution, resolve
from attar.core.errors import AttarError


def test_auto_takes_what_is_there():
    found = resolve(Execution())
    assert found.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found.workers >= 1


@pytest.mark.parametrize(("flags", "precision"), [("fpu avx2 avx512_bf16", "bf16"), ("fpu avx2", "fp32")])
def test_auto_is_bf16_where_the_cpu_computes_in_it(flags, precision, monkeypatch):
    monkeypatch.setattr(device, "_cpu_info", lambda key: flags)
    found = resolve(Execution(device="cpu"))
    assert found.precision == precision
    with found.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == (
            torch.bfloat16 if precision == "bf16" else torch.float32
        )


def test_a_precision_asked_for_is_taken():
    found = resolve(Execution(device="cpu", precision="bf16"))
    assert found.precision == "bf16"
    assert resolve(Execution(device="cpu", precision="fp32")).precision == "fp32"


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(AttarError, match=f"no device '{name}' here; use --execution.device cpu or auto"):
        resolve(Execution(device=name))


def test_the_hardware_is_described():
    assert resolve(Execution(device="cpu", threads=1)).describe().endswith(", 1 thread")
    assert resolve(Execution(device="cpu", threads=2)).describe().endswith(", 2 threads")
