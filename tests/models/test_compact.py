"""models/compact.py: weights in half precision and in 8-bit integers."""

from pathlib import Path

import pytest
import torch

from attar.core.errors import AttarError
from attar.models import compact, teacher
from attar.models.build import build
from attar.models.committee import Committee
from attar.models.foreign import read_checkpoint
from attar.models.teacher import Teacher
from attar.ops.pixels import Normalisation
from attar.store.weights import load_weights, save_weights

CLASSES = ("ant", "bee", "cat")
IMAGES = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HERE = Path("teacher.safetensors")


def make() -> Teacher:
    network = build("convnet2", len(CLASSES), 16, seed=1)
    return Teacher(network, "convnet2", "standard", CLASSES, Normalisation((0.5,) * 3, (0.2,) * 3), 16)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_stored_teacher_answers_as_before_but_for_rounding(tmp_path: Path, precision):
    one = make()
    one.save(tmp_path, precision)
    two = teacher.load(tmp_path)
    before, after = one.logits(IMAGES), two.logits(IMAGES)
    allowed = {"fp32": 0.0, "fp16": 1e-3, "int8": 2e-2}[precision] * float(before.std())
    assert (before - after).pow(2).mean().sqrt() <= allowed
    assert {value.dtype for value in two.module.parameters()} == {torch.float32}
    state, _ = read_checkpoint(tmp_path / teacher.WEIGHTS)  # also as a checkpoint for --squeeze.weights
    assert all(torch.equal(state[name].float(), value.float()) for name, value in two.module.state_dict().items())


def test_bytes_are_halved_and_quartered(tmp_path: Path):
    committee, sizes = Committee([make(), make()]), {}
    for precision in ("fp32", "fp16", "int8"):
        committee.save(tmp_path / precision, precision)
        sizes[precision] = sum(path.stat().st_size for path in (tmp_path / precision).rglob("*.safetensors"))
    assert sizes["fp16"] < 0.52 * sizes["fp32"]
    assert sizes["int8"] < 0.28 * sizes["fp32"]


def test_integers_are_the_nearest_on_the_scale_of_their_row():
    kernel = (
        torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(2))
        * torch.logspace(-6, 4, 5)[:, None, None, None]
    )
    kernel[3] = 0
    found = compact.decoded(compact.encoded({"kernel": kernel}, "int8"), "int8", HERE)["kernel"]
    step = kernel.flatten(1).abs().amax(1)[:, None, None, None] / 127
    assert bool(((kernel - found).abs() <= step * 0.5001).all())
    assert bool((found[3] == 0).all())


def test_what_half_precision_cannot_hold_stays_as_it_is():
    state = {"wide": torch.tensor([[1e6, 1.0]]), "bias": torch.tensor([1e6]), "count": torch.tensor([[3]])}
    for precision in ("fp16", "int8"):
        found = compact.decoded(compact.encoded(state, precision), precision, HERE)
        assert all(
            torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items()
        )


def test_a_lost_scale_and_an_unknown_precision_are_refused(tmp_path: Path):
    make().save(tmp_path, "int8")
    path = tmp_path / teacher.WEIGHTS
    state, metadata = load_weights(path)
    name = next(name for name in state if name.endswith("-scale"))
    save_weights(path, {key: value for key, value in state.items() if key != name}, metadata)
    with pytest.raises(AttarError, match="has no scale"):
        teacher.load(tmp_path)
    save_weights(path, state, metadata | {compact.KEY: "int3"})
    with pytest.raises(AttarError, match="'int3', which this version of attar does not know"):
        teacher.load(tmp_path)
