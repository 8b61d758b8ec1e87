"""ops/codec.py: what comes back of encoded logits, against slow formulas, and what it takes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.ops import codec as codecs
from attar.ops.codec import NOTHING, Codec

SHAPES = [(7, 5, 3), (6, 300, 20), (3, 40_000, 10)]


def logits_of(count: int, num_classes: int) -> Tensor:
    return 4 * torch.randn(count, num_classes, generator=torch.Generator().manual_seed(num_classes))


def there_and_back(logits: Tensor, codec: Codec) -> Tensor:
    return codecs.decode(codecs.encode(logits, codec), logits.shape[1])


@pytest.mark.parametrize(("count", "num_classes", "k"), SHAPES)
@pytest.mark.parametrize("values", ["fp16", "int8"])
@pytest.mark.parametrize("remainder", ["spread", "drop"])
def test_bytes_are_as_announced(count: int, num_classes: int, k: int, values: str, remainder: str):
    codec = Codec.of({"kind": "topk", "k": k, "values": values, "remainder": remainder}, "the test")
    for each in (codec, Codec(), codec.changed(k=num_classes)):
        parts = codecs.encode(logits_of(count, num_classes), each)
        found = sum(part.numel() * part.element_size() for part in parts.values())
        assert found == count * each.record_bytes(num_classes)


@pytest.mark.parametrize(("count", "num_classes", "k"), SHAPES)
@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_the_largest_logits_come_back(count: int, num_classes: int, k: int, values: str):
    logits = logits_of(count, num_classes)
    found = there_and_back(logits, Codec.of({"kind": "topk", "k": k, "values": values}, "the test"))
    largest, classes = logits.topk(k)
    span = (largest[:, 0] - largest[:, -1])[:, None]
    allowed = largest.abs().max() * 2**-11 + (span / 255 / 2 + span * 2**-10 if values == "int8" else 0)
    assert ((found.gather(1, classes) - largest).abs() <= allowed + 1e-6).all()
    assert torch.equal(found.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_spread_keeps_the_probability_of_the_others_at_its_temperature(temperature: float):
    logits = logits_of(6, 300)
    found = there_and_back(logits, Codec(kind="topk", k=20, temperature=temperature))
    kept = logits.topk(20).indices
    exact, rebuilt = (F.softmax(each / temperature, 1) for each in (logits, found))
    torch.testing.assert_close(rebuilt.gather(1, kept), exact.gather(1, kept), rtol=2e-2, atol=1e-5)
    for row in range(6):
        others = [rebuilt[row, place].item() for place in range(300) if place not in kept[row].tolist()]
        assert max(others) - min(others) < 1e-7
        assert math.isclose(sum(others), 1 - exact[row, kept[row]].sum().item(), rel_tol=2e-2, abs_tol=1e-5)


def test_dropped_classes_have_no_share_and_harm_no_gradient():
    logits = logits_of(4, 10)
    found = there_and_back(logits, Codec(kind="topk", k=3, remainder="drop"))
    student = logits_of(4, 10).flip(1).requires_grad_()
    for temperature in (1.0, 20.0, 30.0):
        share = F.softmax(found / temperature, 1)
        assert torch.equal((share > 0).sum(1), torch.full((4,), 3))
        target = F.log_softmax(found / temperature, 1)
        loss = F.kl_div(F.log_softmax(student / temperature, 1), target, reduction="batchmean", log_target=True)
        (slope,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert slope.isfinite().all()
    assert found.min() == NOTHING


def test_all_logits_kept_are_dense_again():
    logits = logits_of(5, 4)
    torch.testing.assert_close(there_and_back(logits, Codec(kind="topk", k=9)), logits.half().float())
    assert there_and_back(logits, Codec()).dtype == torch.float16


def test_logits_beyond_half_precision_and_equal_ones_are_stored():
    wild = torch.tensor([[1e6, -1e6, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    for codec in (Codec(), Codec(kind="topk", k=2), Codec(kind="topk", k=2, values="int8")):
        found = there_and_back(wild, codec).float()
        assert found.isfinite().all()
        assert found[0, 0] == 65504
        torch.testing.assert_close(found[1].max(), torch.tensor(2.0))


def test_titles_tell_codecs_apart():
    ways = [
        Codec(),
        *(Codec(kind="topk", k=5, values=v, remainder=r) for v in ("fp16", "int8") for r in ("spread", "drop")),
    ]
    assert len({way.title() for way in ways}) == 5
