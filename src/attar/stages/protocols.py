"""Evaluation protocols as data: named, versioned, and never changed under a version once released.

A protocol has two halves. ``ProtocolLabels`` says which labels it asks for: they become a recipe's ``relabel``.
``Protocol`` says how students are trained on them: it becomes ``evaluate.protocol``. A recipe that names a protocol
takes both; label options that the recipe sets itself stay.
"""

from typing import Any, Literal

from attar.core import plugin
from attar.ops.choices import AUGMENTATIONS, LookChoice, MixChoice
from attar.stages.protocol import Protocol, ProtocolLabels
from attar.training.choices import Optimisation

_ADAMW = Optimisation(
    epochs=300, batch_size=128, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, decay_norms=False
)

_RDED = _ADAMW.changed(batch_size=100, cosine_stretch=2.0, rate_moves="epoch")
_RATES_OF_RDED = (
    ("vgg11*", 5e-4),
    ("efficientnet_b0", 2e-3),
    ("mobilenet_v2", 2.5e-3),
    ("mobilenetv2_100", 2.5e-3),
    ("alexnet", 1e-4),
    ("vit_*", 1e-4),
    ("swin_*", 1e-4),
)
_SGD: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
_HALVES = LookChoice(min_scale=0.5, patch_shuffle=2)

_CUTMIX = MixChoice(kind="cutmix")


def _with_labels(
    training: Protocol,
    views: LookChoice = LookChoice(),  # noqa: B008 (frozen)
    mix: MixChoice = _CUTMIX,
    batchnorm: Literal["eval", "train"] = "eval",
    batchnorm_batch: int = 8,
) -> tuple[Protocol, ProtocolLabels]:
    """Return both halves of a protocol; labels get the training's epochs and the loss's temperature."""
    epochs, temperature = training.training.epochs, training.temperature
    labels = ProtocolLabels(
        epochs=epochs,
        views=views,
        mix=mix,
        temperature=temperature,
        batchnorm=batchnorm,
        batchnorm_batch=batchnorm_batch,
    )
    return training, labels


def _randaugmented(min_scale: float, **settings: Any) -> LookChoice:
    """Two operations of RandAugment on the stored image, then a crop."""
    return LookChoice(min_scale=min_scale, randaugment_ops=2, randaugment_place="before-crop", **settings)


def _edc_small(name: str, min_scale: float, **training: Any) -> tuple[Protocol, ProtocolLabels]:
    """EDC on small images, with torchvision's RandAugment as it is by default: two operations at 9 of 30.

    Version 1 applied it after the crop.
    """
    how = _RDED.changed(ema_decay=0.99, **training)
    return _with_labels(
        Protocol(name=name, version=2, training=how, loss="mse", hard_weight=0.025, hard_classes="own"),
        views=_randaugmented(min_scale, randaugment_magnitude=3.0, randaugment_std=0.0),
    )


_DM = Protocol(
    name="dm",
    training=Optimisation(
        epochs=1000,
        batch_size=256,
        learning_rate=0.01,
        schedule="step-tenth",
        rate_moves="epoch",
        weight_decay=5e-4,
    ),
    loss="hard",
)

_BUILT_IN = (
    # ImageNet-1K: the published train_FKD with the batch of 128 that DD-Ranking lists for CDA; no T^2.
    _with_labels(Protocol(name="cda", training=_ADAMW)),
    # SRe2L's own: batches of 1024 in two accumulation steps.
    _with_labels(Protocol(name="sre2l", training=_ADAMW.changed(batch_size=1024, accumulation_steps=2))),
    # The published Tiny-ImageNet script: labels by the teacher during training, T^2, nothing mixed.
    _with_labels(
        Protocol(
            name="tiny",
            training=Optimisation(epochs=100, batch_size=256, learning_rate=0.2, weight_decay=1e-4, warmup_epochs=5),
            temperature_squared=True,
        ),
        mix=MixChoice(kind="none"),
    ),
    # DWA's Tiny-ImageNet script (arXiv 2409.17612): images are mixed. Version 1 had the temperature of the script's
    # first release, 1, which the authors corrected to 20, with T^2.
    _with_labels(
        Protocol(
            name="dwa-tiny",
            version=2,
            training=Optimisation(epochs=200, batch_size=64, learning_rate=0.2, weight_decay=1e-4, warmup_epochs=5),
            temperature_squared=True,
        )
    ),
    # SRe2L's CIFAR-100 script. It never puts the teacher into evaluation mode, so BatchNorm labels by the statistics of
    # its batches of 128, and it decays normalisation layers and biases, too. Version 1 did neither; for labels in
    # evaluation mode use --relabel.committee.batchnorm eval.
    _with_labels(
        Protocol(
            name="cifar",
            version=2,
            training=_ADAMW.changed(epochs=400, decay_norms=True),
            temperature=30.0,
        ),
        views=LookChoice(crop="padded"),
        mix=MixChoice(kind="mixup", alpha=0.8),
        batchnorm="train",
        batchnorm_batch=128,
    ),
    # ImageNet-21K-P, after the only published configuration (LPLD's), without its Cutout and logit smoothing.
    _with_labels(
        Protocol(name="imagenet-21k", training=_ADAMW.changed(batch_size=32, learning_rate=2e-3)),
        mix=MixChoice(kind="none"),
    ),
    # No teacher: what the images alone are worth.
    _with_labels(Protocol(name="hard-label", training=_ADAMW, loss="hard")),
    # RDED (arXiv 2312.03526), its published validation: the batch is that of ImageNet-1K at 10 images per class and
    # of Tiny-ImageNet; it is 20 and 200 for 1 and 50 on ImageNet-1K, 10, 50 and 100 for 1, 10 and 50 of 10 classes.
    # The learning rate stops at half its peak. On CIFAR and Tiny-ImageNet it takes images whole: use
    # --relabel.views.patch-shuffle 1 --relabel.views.min-scale 1 there.
    _with_labels(
        Protocol(
            name="rded",
            training=_RDED,
            learning_rates=_RATES_OF_RDED,
        ),
        views=_HALVES,
    ),
    # EDC (arXiv 2404.13733) on ImageNet-1K and Tiny-ImageNet; its patch shuffle does nothing as published, and its
    # cross-entropy takes a mixed image for one of its own class.
    _with_labels(
        Protocol(name="edc", training=_RDED.changed(ema_decay=0.99), loss="mse", hard_weight=0.025, hard_classes="own"),
        views=LookChoice(min_scale=0.5),
    ),
    # The same on CIFAR-10, with the paper's batch of 25, and on CIFAR-100 and Tiny-ImageNet.
    _edc_small("edc-cifar10", 0.08, epochs=1000, batch_size=25, schedule="multistep-halves", cosine_stretch=1.0),
    _edc_small("edc-cifar100", 0.5, epochs=1000, batch_size=50, schedule="cosine-linear"),
    _edc_small("edc-tiny", 0.5),
    # attar's for small images: EDC's loss, averages and small batches, without RandAugment.
    _with_labels(
        Protocol(
            name="attar-small",
            training=_RDED.changed(
                batch_size=25, schedule="multistep-halves", cosine_stretch=1.0, ema_decay=0.99, rate_moves="epoch"
            ),
            loss="mse",
            hard_weight=0.025,
            hard_classes="own",
        )
    ),
    # G-VBSM (arXiv 2311.17950) on ImageNet-1K, Tiny-ImageNet, CIFAR-100 and CIFAR-10: logits as they are, and
    # cross-entropy with the class of the unmixed image.
    *(
        _with_labels(
            Protocol(
                name=name,
                training=_ADAMW.changed(rate_moves="epoch", **training),
                loss="mse",
                hard_weight=hard_weight,
                hard_classes="own",
            )
        )
        for name, hard_weight, training in (
            ("gvbsm", 0.1, {"batch_size": 1024}),
            ("gvbsm-tiny", 0.1, {"epochs": 100, "batch_size": 100, "accumulation_steps": 2} | _SGD),
            ("gvbsm-cifar100", 0.15, {"epochs": 1000, "batch_size": 64} | _SGD),
            ("gvbsm-cifar10", 0.15, {"epochs": 1000, "batch_size": 100, "weight_decay": 0.0}),
        )
    ),
    # DELT (arXiv 2411.19946): RDED's students with timm's RandAugment 'rand-m6-n2-mstd1.0', and whole images in place
    # of shuffled patches. Version 1 had torchvision's operations, always applied, after the crop.
    _with_labels(
        Protocol(name="delt", version=2, training=_RDED, learning_rates=_RATES_OF_RDED),
        views=_randaugmented(0.25, randaugment_magnitude=6.0, randaugment_std=1.0, randaugment_set="timm"),
    ),
    # SRe2L++ (CV-DD, arXiv 2501.07575) on ImageNet-1K at 1 and 10 images per class; at 50 the stretch is 1. Its
    # label batches of 16 go through the teacher in halves.
    _with_labels(
        Protocol(name="sre2l++", training=_RDED.changed(batch_size=16, accumulation_steps=2)), batchnorm="train"
    ),
    # RD3 (arXiv 2509.19743): one protocol for all methods. Version 1 trained every student as ResNet-18.
    _with_labels(
        Protocol(
            name="rd3",
            version=2,
            training=_RDED.changed(epochs=400, batch_size=50, cosine_stretch=1.0),
            cosine_stretches=(("resnet18", 1.0), ("*", 2.0)),
        ),
        views=_HALVES,
    ),
    # CIM (arXiv 2607.00916), its published evaluation: the batch follows from the number of stored images, and on
    # ImageNet-1K it trains 300 epochs. It asks one teacher of the student's architecture during training. Its
    # students see views in normalised units and one warp a batch; here the warp is drawn for each image.
    *(
        _with_labels(
            Protocol(
                name=name,
                training=Optimisation(
                    epochs=epochs,
                    batch_size=batch_size,
                    optimizer="adamw",
                    learning_rate=1e-3,
                    schedule="multistep",
                    rate_moves="epoch",
                    weight_decay=1e-4,
                ),
                learning_rates=(("swin_*", 1e-4), ("vit_*", 1e-4), ("efficientnet_b0", 2e-3)),
                loss="mse",
            ),
            views=LookChoice(crop="none", flip=False, dsa=AUGMENTATIONS, dsa_combine="warp"),
            mix=MixChoice(kind="none"),
        )
        for name, epochs, batch_size in (
            ("cim", 1000, 50),
            ("cim-batch-10", 1000, 10),
            ("cim-batch-100", 1000, 100),
            ("cim-imagenet-batch-100", 300, 100),
            ("cim-imagenet-batch-200", 300, 200),
        )
    ),
    # DM (arXiv 2110.04181), and with it the papers on matching gradients, distributions and trajectories: no teacher, a
    # ConvNet with InstanceNorm. Their students see one kind of augmentation a batch; here it is drawn for each image.
    _with_labels(
        _DM,
        views=LookChoice(crop="none", flip=False, dsa=AUGMENTATIONS, dsa_combine="one"),
        mix=MixChoice(kind="none"),
    ),
    # MTT (arXiv 2203.11932) and TESLA (arXiv 2211.10586): the same, but with the learning rate learned with the images.
    _with_labels(
        _DM.changed(name="mtt", learned_rate=True),
        views=LookChoice(crop="none", flip=False, dsa=AUGMENTATIONS, dsa_combine="one"),
        mix=MixChoice(kind="none"),
    ),
    # NCFM (arXiv 2502.20653), its published evaluation: an epoch there shows each of the four parts of a stored image,
    # here one of them at random, so there are four times as many epochs: 8,000 on CIFAR and for one image per class,
    # 1,200 and 160 on Tiny-ImageNet for 10 and 50. It mixes half of the batches, here every image is mixed.
    *(
        _with_labels(
            Protocol(
                name=name,
                training=Optimisation(
                    epochs=epochs,
                    batch_size=128,
                    optimizer="adamw",
                    learning_rate=1e-3,
                    schedule="fifths-halves",
                    rate_moves="epoch",
                    weight_decay=0.01,
                ),
                loss="hard",
            ),
            views=LookChoice(crop="padded", dsa=AUGMENTATIONS, dsa_combine="warp", part_probability=1.0),
        )
        for name, epochs in (("ncfm", 8000), ("ncfm-tiny-ipc10", 1200), ("ncfm-tiny-ipc50", 160))
    ),
    # Attar's own, chosen on images held out of the training split of ten Tiny-ImageNet classes, 10 images a class,
    # one setting at a time from a batch of 25 (results/choose-tiny-imagenet-10.csv).
    _with_labels(Protocol(name="attar", training=_ADAMW.changed(batch_size=10))),
    # Attar's own, for 8-pixel digits on a CPU: small shifts, no mirrored digits. Version 1 took 300 epochs of
    # batches of 50: as many steps on twice the images, and no better.
    _with_labels(
        Protocol(
            name="digits",
            version=2,
            training=_ADAMW.changed(epochs=150, batch_size=25, learning_rate=3e-3),
            temperature=4.0,
        ),
        views=LookChoice(crop="padded", padding=1, flip=False),
        mix=MixChoice(kind="mixup", alpha=0.8),
    ),
)

PROTOCOLS = {training.name: training for training, _ in _BUILT_IN}
"""Training options by protocol name."""
PROTOCOL_LABELS = {training.name: labels for training, labels in _BUILT_IN}
"""Label options by protocol name."""


def protocol_named(name: str) -> Protocol:
    """Return the training options of a built-in protocol; raises AttarError for an unknown name."""
    if name not in PROTOCOLS:
        raise plugin.unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def labels_named(name: str) -> ProtocolLabels:
    """Return the label options of a built-in protocol; raises AttarError for an unknown name."""
    return PROTOCOL_LABELS[protocol_named(name).name]


def protocol_title(protocol: Protocol) -> str:
    """Return name and version, with 'modified' when settings differ from the named protocol."""
    altered = PROTOCOLS.get(protocol.name) not in (None, protocol)
    return f"{protocol.name} v{protocol.version}{' modified' if altered else ''}"
