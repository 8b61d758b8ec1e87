"""stages/protocols.py: what each protocol says, and that a student can be trained by it."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attar.core.config import digest
from attar.core.errors import AttarError
from attar.models import build
from attar.ops.choices import AUGMENTATIONS
from attar.ops.pixels import Normalisation
from attar.ops.targets import Targets
from attar.stages.protocol import Protocol
from attar.stages.protocols import PROTOCOL_LABELS, PROTOCOLS, labels_named, protocol_named, protocol_title
from attar.training.loop import TrainingBatch, fit

# name: version, optimiser, learning rate, decay, epochs, batch, parts, schedule, stretch, moves, EMA, warm-up
TRAINING = {
    "cda": (1, "adamw", 1e-3, 0.01, 300, 128, 1, "cosine", 1.0, "step", 0.0, 0),
    "sre2l": (1, "adamw", 1e-3, 0.01, 300, 1024, 2, "cosine", 1.0, "step", 0.0, 0),
    "tiny": (1, "sgd", 0.2, 1e-4, 100, 256, 1, "cosine", 1.0, "step", 0.0, 5),
    "dwa-tiny": (2, "sgd", 0.2, 1e-4, 200, 64, 1, "cosine", 1.0, "step", 0.0, 5),
    "cifar": (2, "adamw", 1e-3, 0.01, 400, 128, 1, "cosine", 1.0, "step", 0.0, 0),
    "imagenet-21k": (1, "adamw", 2e-3, 0.01, 300, 32, 1, "cosine", 1.0, "step", 0.0, 0),
    "hard-label": (1, "adamw", 1e-3, 0.01, 300, 128, 1, "cosine", 1.0, "step", 0.0, 0),
    "rded": (1, "adamw", 1e-3, 0.01, 300, 100, 1, "cosine", 2.0, "epoch", 0.0, 0),
    "edc": (1, "adamw", 1e-3, 0.01, 300, 100, 1, "cosine", 2.0, "epoch", 0.99, 0),
    "edc-cifar10": (2, "adamw", 1e-3, 0.01, 1000, 25, 1, "multistep-halves", 1.0, "epoch", 0.99, 0),
    "attar-small": (1, "adamw", 1e-3, 0.01, 300, 25, 1, "multistep-halves", 1.0, "epoch", 0.99, 0),
    "edc-cifar100": (2, "adamw", 1e-3, 0.01, 1000, 50, 1, "cosine-linear", 2.0, "epoch", 0.99, 0),
    "edc-tiny": (2, "adamw", 1e-3, 0.01, 300, 100, 1, "cosine", 2.0, "epoch", 0.99, 0),
    "gvbsm": (1, "adamw", 1e-3, 0.01, 300, 1024, 1, "cosine", 1.0, "epoch", 0.0, 0),
    "gvbsm-tiny": (1, "sgd", 0.1, 5e-4, 100, 100, 2, "cosine", 1.0, "epoch", 0.0, 0),
    "gvbsm-cifar100": (1, "sgd", 0.1, 5e-4, 1000, 64, 1, "cosine", 1.0, "epoch", 0.0, 0),
    "gvbsm-cifar10": (1, "adamw", 1e-3, 0.0, 1000, 100, 1, "cosine", 1.0, "epoch", 0.0, 0),
    "delt": (2, "adamw", 1e-3, 0.01, 300, 100, 1, "cosine", 2.0, "epoch", 0.0, 0),
    "sre2l++": (1, "adamw", 1e-3, 0.01, 300, 16, 2, "cosine", 2.0, "epoch", 0.0, 0),
    "rd3": (2, "adamw", 1e-3, 0.01, 400, 50, 1, "cosine", 1.0, "epoch", 0.0, 0),
    "cim": (1, "adamw", 1e-3, 1e-4, 1000, 50, 1, "multistep", 1.0, "epoch", 0.0, 0),
    "cim-batch-10": (1, "adamw", 1e-3, 1e-4, 1000, 10, 1, "multistep", 1.0, "epoch", 0.0, 0),
    "cim-batch-100": (1, "adamw", 1e-3, 1e-4, 1000, 100, 1, "multistep", 1.0, "epoch", 0.0, 0),
    "cim-imagenet-batch-100": (1, "adamw", 1e-3, 1e-4, 300, 100, 1, "multistep", 1.0, "epoch", 0.0, 0),
    "cim-imagenet-batch-200": (1, "adamw", 1e-3, 1e-4, 300, 200, 1, "multistep", 1.0, "epoch", 0.0, 0),
    "dm": (1, "sgd", 0.01, 5e-4, 1000, 256, 1, "step-tenth", 1.0, "epoch", 0.0, 0),
    "mtt": (1, "sgd", 0.01, 5e-4, 1000, 256, 1, "step-tenth", 1.0, "epoch", 0.0, 0),
    **{
        name: (1, "adamw", 1e-3, 0.01, epochs, 128, 1, "fifths-halves", 1.0, "epoch", 0.0, 0)
        for name, epochs in (("ncfm", 8000), ("ncfm-tiny-ipc10", 1200), ("ncfm-tiny-ipc50", 160))
    },
    "attar": (1, "adamw", 1e-3, 0.01, 300, 10, 1, "cosine", 1.0, "step", 0.0, 0),
    "digits": (2, "adamw", 3e-3, 0.01, 150, 25, 1, "cosine", 1.0, "step", 0.0, 0),
}
# name: loss, temperature, squared, weight of the classes, crop, smallest area, flip, patches, mix, alpha, BatchNorm
SEEING = {
    "cda": ("soft", 20.0, False, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "sre2l": ("soft", 20.0, False, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "tiny": ("soft", 20.0, True, 0.0, "resized", 0.08, True, 1, "none", 1.0, "eval"),
    "dwa-tiny": ("soft", 20.0, True, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "cifar": ("soft", 30.0, False, 0.0, "padded", 0.08, True, 1, "mixup", 0.8, "train"),
    "imagenet-21k": ("soft", 20.0, False, 0.0, "resized", 0.08, True, 1, "none", 1.0, "eval"),
    "hard-label": ("hard", 20.0, False, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "rded": ("soft", 20.0, False, 0.0, "resized", 0.5, True, 2, "cutmix", 1.0, "eval"),
    "edc": ("mse", 20.0, False, 0.025, "resized", 0.5, True, 1, "cutmix", 1.0, "eval"),
    "edc-cifar10": ("mse", 20.0, False, 0.025, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "attar-small": ("mse", 20.0, False, 0.025, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "edc-cifar100": ("mse", 20.0, False, 0.025, "resized", 0.5, True, 1, "cutmix", 1.0, "eval"),
    "edc-tiny": ("mse", 20.0, False, 0.025, "resized", 0.5, True, 1, "cutmix", 1.0, "eval"),
    **{
        name: ("mse", 20.0, False, weight, "resized", 0.08, True, 1, "cutmix", 1.0, "eval")
        for name, weight in (
            *(("gvbsm", 0.1), ("gvbsm-tiny", 0.1)),
            *(("gvbsm-cifar100", 0.15), ("gvbsm-cifar10", 0.15)),
        )
    },
    "delt": ("soft", 20.0, False, 0.0, "resized", 0.25, True, 1, "cutmix", 1.0, "eval"),
    "sre2l++": ("soft", 20.0, False, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "train"),
    "rd3": ("soft", 20.0, False, 0.0, "resized", 0.5, True, 2, "cutmix", 1.0, "eval"),
    **dict.fromkeys(
        ("cim", "cim-batch-10", "cim-batch-100", "cim-imagenet-batch-100", "cim-imagenet-batch-200"),
        ("mse", 20.0, False, 0.0, "none", 0.08, False, 1, "none", 1.0, "eval"),
    ),
    "dm": ("hard", 20.0, False, 0.0, "none", 0.08, False, 1, "none", 1.0, "eval"),
    "mtt": ("hard", 20.0, False, 0.0, "none", 0.08, False, 1, "none", 1.0, "eval"),
    **dict.fromkeys(
        ("ncfm", "ncfm-tiny-ipc10", "ncfm-tiny-ipc50"),
        ("hard", 20.0, False, 0.0, "padded", 0.08, True, 1, "cutmix", 1.0, "eval"),
    ),
    "attar": ("soft", 20.0, False, 0.0, "resized", 0.08, True, 1, "cutmix", 1.0, "eval"),
    "digits": ("soft", 4.0, False, 0.0, "padded", 0.08, False, 1, "mixup", 0.8, "eval"),
}


def test_the_tables_are_of_all_protocols():
    assert set(TRAINING) == set(SEEING) == set(PROTOCOLS) == set(PROTOCOL_LABELS)


@pytest.mark.parametrize("name", TRAINING)
def test_how_a_protocol_trains(name: str):
    protocol = protocol_named(name)
    how = protocol.training
    assert (
        protocol.version, how.optimizer, how.learning_rate, how.weight_decay, how.epochs, how.batch_size,
        how.accumulation_steps, how.schedule, how.cosine_stretch, how.rate_moves, how.ema_decay, how.warmup_epochs,
    ) == TRAINING[name]  # fmt: skip
    assert (how.betas, how.momentum) == ((0.9, 0.999), 0.9)
    assert how.decay_norms == (
        name in ("tiny", "dwa-tiny", "cifar", "dm", "mtt") or name.startswith("ncfm") or name.startswith("cim")
    )
    assert protocol.label_smoothing == 0
    assert (labels_named(name).epochs, labels_named(name).temperature) == (how.epochs, protocol.temperature)


@pytest.mark.parametrize("name", SEEING)
def test_what_a_protocol_shows_and_asks_for(name: str):
    protocol = protocol_named(name)
    labels = labels_named(name)
    views, mix = labels.views, labels.mix
    assert (
        protocol.loss, protocol.temperature, protocol.temperature_squared, protocol.hard_weight, views.crop,
        views.min_scale, views.flip, views.patch_shuffle, mix.kind, mix.alpha, labels.batchnorm,
    ) == SEEING[name]  # fmt: skip
    assert labels.batchnorm_batch == (128 if name == "cifar" else 8)
    randaugment = (views.randaugment_ops, views.randaugment_magnitude, views.randaugment_std)
    if name.startswith("edc-"):
        assert (*randaugment, views.randaugment_set, views.randaugment_place) == (2, 3, 0, "torchvision", "before-crop")
    elif name == "delt":
        assert (*randaugment, views.randaugment_set, views.randaugment_place) == (2, 6, 1, "timm", "before-crop")
    else:
        assert views.randaugment_ops == 0
    assert views.padding == (1 if name == "digits" else 4)
    siamese = {
        "cim": (AUGMENTATIONS, "warp"),
        "dm": (AUGMENTATIONS, "one"),
        "mtt": (AUGMENTATIONS, "one"),
        "ncfm": (AUGMENTATIONS, "warp"),
    }
    assert (views.dsa, views.dsa_combine) == siamese.get(name.partition("-")[0], ((), "all"))
    assert views.part_probability == (1.0 if name.startswith("ncfm") else 0.75)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_goes_through_a_file_and_tells_when_it_was_altered(name: str):
    protocol = protocol_named(name)
    again = Protocol.of(protocol.plain(), "here")
    assert again == protocol
    assert digest(again.plain()) == digest(protocol.plain())
    assert protocol_title(again) == f"{name} v{protocol.version}"
    assert protocol_title(again.changed(label_smoothing=0.1)) == f"{name} v{protocol.version} modified"


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_student_learns_by_a_protocol(name: str, hard: bool):
    """Two epochs on random images, mixed as labels are: a finite loss that falls, whatever it is of."""
    protocol = protocol_named(name)
    stream = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 8, 8, generator=stream)
    labels = torch.randint(4, (64,), generator=stream)
    logits = 4 * F.one_hot(labels, 4) + torch.randn(64, 4, generator=stream)
    targets = Targets(labels, labels.flip(0), torch.full((64,), 0.8), logits)

    def batches(epoch: int) -> Iterator[TrainingBatch]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(8):
            yield images[index], targets.take(index)

    # The rates are for networks a hundred times as large.
    training = protocol.training.changed(
        epochs=2, batch_size=8, warmup_epochs=0, learning_rate=min(0.02, 10 * protocol.training.learning_rate)
    )
    losses: list[float] = []
    fit(
        build.build("convnet3", 4, 8, seed=0),
        Normalisation((0.5,) * 3, (0.25,) * 3),
        batches,
        lambda logits, targets: protocol.value(logits, targets, hard),
        training,
        64,
        contextlib.nullcontext,
        lambda epoch: losses.append(epoch.loss),
    )
    assert len(losses) == 2
    assert 0 < losses[1] < losses[0] < 100


LABELS = torch.tensor([0, 2, 1])
STUDENT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 2.0, -4.0]])
TEACHER = torch.tensor([[4.0, 0.0, -1.0], [-2.0, 1.0, 5.0], [0.5, 3.0, 0.0]])
MIXED = Targets(LABELS, torch.tensor([1, 1, 0]), torch.tensor([0.7, 0.25, 1.0]), TEACHER)


def mixed_entropy(smoothing: float) -> Tensor:
    """Cross-entropy with the mixed classes as one distribution."""
    assert MIXED.partner_labels is not None
    assert MIXED.weight is not None
    share = MIXED.weight[:, None]
    wanted = share * F.one_hot(LABELS, 3) + (1 - share) * F.one_hot(MIXED.partner_labels, 3)
    wanted = (1 - smoothing) * wanted + smoothing / 3
    return -(wanted * STUDENT.log_softmax(1)).sum(1).mean()


def divergence(temperature: float) -> Tensor:
    p, q = (TEACHER / temperature).softmax(1), (STUDENT / temperature).softmax(1)
    return (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [0.0, 0.025, 1.0])
def test_losses_are_the_sums_that_they_say(weight: float, smoothing: float):
    protocol = PROTOCOLS["cda"].changed(hard_weight=weight, label_smoothing=smoothing, temperature=5.0)
    entropy = mixed_entropy(smoothing)
    towards = {
        "soft": divergence(5.0) + weight * entropy,
        "mse": (STUDENT - TEACHER).square().sum() / 9 + weight * entropy,
        "hard": entropy,
    }
    for loss, expected in towards.items():
        changed = protocol.changed(loss=loss)
        torch.testing.assert_close(changed.value(STUDENT, MIXED), expected)
        torch.testing.assert_close(changed.value(STUDENT, MIXED, hard=True), entropy)
    squared = protocol.changed(temperature_squared=True)
    torch.testing.assert_close(squared.value(STUDENT, MIXED), 25 * divergence(5.0) + weight * entropy)


def test_edcs_loss():
    protocol, squared = PROTOCOLS["edc"], F.mse_loss(STUDENT, TEACHER)
    own = squared + 0.025 * F.cross_entropy(STUDENT, MIXED.labels)
    torch.testing.assert_close(protocol.value(STUDENT, MIXED), own)
    torch.testing.assert_close(
        protocol.changed(hard_classes="parts").value(STUDENT, MIXED), squared + 0.025 * mixed_entropy(0.0)
    )


def test_hard_labels_need_no_teacher():
    bare = Targets(MIXED.labels, MIXED.partner_labels, MIXED.weight)
    for protocol in PROTOCOLS.values():
        assert protocol.value(STUDENT, bare, hard=True) == protocol.value(STUDENT, MIXED, hard=True)


@pytest.mark.parametrize(
    ("student", "rate"),
    [
        ("resnet18", 1e-3), ("torchvision/resnet101", 1e-3), ("convnet3", 1e-3), ("timm/convnext_tiny", 1e-3),
        ("efficientnet_b0", 2e-3), ("timm/efficientnet_b0", 2e-3), ("torchvision/mobilenet_v2", 2.5e-3),
        ("timm/mobilenetv2_100", 2.5e-3), ("vgg11_bn", 5e-4), ("alexnet", 1e-4), ("torchvision/vit_b_16", 1e-4),
        ("timm/vit_tiny_patch16_224", 1e-4), ("swin_v2_t", 1e-4),
    ],
)  # fmt: skip
def test_rdeds_learning_rates(student: str, rate: float):
    protocol = PROTOCOLS["rded"]
    assert protocol.training_of(student) == protocol.training.changed(learning_rate=rate)


def test_the_first_learning_rate_that_fits_holds():
    protocol = PROTOCOLS["cda"].changed(learning_rates={"resnet1?": 0.5, "resnet*": 0.25, "*": 0.125})
    assert protocol.learning_rates == (("resnet1?", 0.5), ("resnet*", 0.25), ("*", 0.125))
    rates = [protocol.training_of(name).learning_rate for name in ("resnet18", "timm/resnet50", "vit_b_16")]
    assert rates == [0.5, 0.25, 0.125]
    with pytest.raises(AttarError, match=r"learning_rates\.0\.1 must be greater than 0"):
        Protocol.of(protocol.plain() | {"learning_rates": {"resnet*": 0}}, "here")


def test_students_have_cosines_of_their_own():
    protocol = PROTOCOLS["rd3"]
    stretches = [protocol.training_of(name).cosine_stretch for name in ("resnet18", "timm/resnet18", "resnet50")]
    assert stretches == [1.0, 1.0, 2.0]
    both = PROTOCOLS["rded"].changed(cosine_stretches={"vgg*": 1.5})
    assert both.training_of("vgg11") == both.training.changed(learning_rate=5e-4, cosine_stretch=1.5)
    assert PROTOCOLS["mtt"].changed(cosine_stretches={"*": 3.0}).training_of(
        "convnet3_in", {"student_learning_rate": 0.03}
    ) == PROTOCOLS["mtt"].training.changed(learning_rate=0.03, cosine_stretch=3.0)
    with pytest.raises(AttarError, match="greater than or equal to 1"):
        Protocol.of(protocol.plain() | {"cosine_stretches": {"*": 0.5}}, "here")


def test_a_wrong_name_is_answered_with_a_near_one():
    for find in (protocol_named, labels_named):
        with pytest.raises(AttarError, match="no protocol named 'rdde'; did you mean rded"):
            find("rdde")


def test_the_learned_rate_is_for_sets_that_have_one():
    learned = {"student_learning_rate": 0.03}
    plain, own = PROTOCOLS["dm"], PROTOCOLS["mtt"]
    assert own.training == plain.training
    assert own.training_of("convnet3_in", learned).learning_rate == 0.03
    assert own.training_of("convnet3_in").learning_rate == own.training_of("convnet3_in", {"other": 1.0}).learning_rate
    assert plain.training_of("convnet3_in", learned).learning_rate == 0.01
