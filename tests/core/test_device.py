import pytest
import torch

from attar.core import device
from attar.core.device import Execution, resolve
from attar.core.errors import AttarError
from attar.core.precision import Speeds


def test_auto_takes_what_is_there():
    found = resolve(Execution())
    assert found.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found.workers >= 1


def speeds(product: float, convolution: float) -> Speeds:
    """Of a processor that computes so many times as fast in bf16 as in float32."""
    return Speeds({"fp32": 1e11, "bf16": product * 1e11}, {"fp32": 2e11, "bf16": convolution * 2e11})


def processor(monkeypatch: pytest.MonkeyPatch, found: Speeds, **info: str) -> None:
    """Pretend to run on one, with what Linux says of it."""
    monkeypatch.setattr(device, "_cpu_info", lambda key: info.get(key, ""))
    monkeypatch.setattr(device.precision, "measured", lambda: found)


@pytest.mark.parametrize(
    ("gains", "precision", "why"),
    [
        ((2.1, 1.8), "bf16", "which runs 2.1x as fast as float32 on matrix products, 1.8x on convolutions"),
        ((1.25, 1.25), "bf16", "which runs 1.2x as fast as float32 on matrix products, 1.2x on convolutions"),
        ((0.7, 0.7), "fp32", "because bf16 runs 0.7x as fast as float32 on matrix products, 0.7x on convolutions"),
        ((2.1, 1.1), "fp32", "because bf16 runs 2.1x as fast as float32 on matrix products, 1.1x on convolutions"),
        ((1.2, 1.8), "fp32", "because bf16 runs 1.2x as fast as float32 on matrix products, 1.8x on convolutions"),
    ],
)
@pytest.mark.parametrize("info", [{"flags": "fpu avx2 avx512_bf16"}, {"flags": "amx_bf16"}, {"Features": "asimd bf16"}])
def test_auto_is_bf16_where_the_cpu_is_clearly_faster_in_it(info, gains, precision, why, monkeypatch):
    processor(monkeypatch, speeds(*gains), **info)
    found = resolve(Execution(device="cpu"))
    assert (found.precision, found.why) == (precision, why)
    with found.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == (
            torch.bfloat16 if precision == "bf16" else torch.float32
        )


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16"])
def test_nothing_is_measured_where_it_could_decide_nothing(asked, monkeypatch):
    """Without instructions for bf16, and where the recipe says what to take."""
    flags = "fpu avx2" if asked == "auto" else "fpu avx512_bf16"
    monkeypatch.setattr(device, "_cpu_info", lambda key: flags if key == "flags" else "")
    monkeypatch.setattr(device.precision, "measured", lambda: pytest.fail("it was measured"))
    found = resolve(Execution(device="cpu", precision=asked))
    if asked == "auto":
        assert (found.precision, found.why) == ("fp32", "because this device has no bf16 arithmetic")
    else:
        assert (found.precision, found.why) == (asked, "as asked")


def test_a_precision_asked_for_is_taken():
    found = resolve(Execution(device="cpu", precision="bf16"))
    assert found.precision == "bf16"
    assert resolve(Execution(device="cpu", precision="fp32")).precision == "fp32"


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(AttarError, match=f"This machine has no device '{name}'; use --execution.device cpu or auto"):
        resolve(Execution(device=name))


def test_a_machine_for_which_others_work_need_not_have_their_device():
    with device.agreed("bf16", "as on the GPU", "NVIDIA H100"):
        found = resolve(Execution(device="cuda:99"))
    assert found.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (found.precision, found.why, found.describe()) == ("bf16", "as on the GPU", "NVIDIA H100")
    with device.agreed("bf16", "as on the GPU"), pytest.raises(AttarError, match="no device 'cuda:99'"):
        resolve(Execution(device="cuda:99"))


def test_the_hardware_is_described():
    assert resolve(Execution(device="cpu", threads=1)).describe().endswith(", 1 thread")
    assert resolve(Execution(device="cpu", threads=2)).describe().endswith(", 2 threads")
