"""Evaluation protocols as data: named, versioned, and never changed under a version once released."""

from typing import Literal

import pydantic
from jaxtyping import Float
from torch import Tensor

from attar.core import plugin
from attar.core.config import Config
from attar.ops.mixing import MixChoice
from attar.ops.replay import LookChoice
from attar.ops.targets import Targets, hard_loss, soft_loss
from attar.ops.training import Optimisation


class Protocol(Config):
    """How a student is trained on a small set of images."""

    name: str
    """The protocol's name; one whose settings were altered is shown as 'modified'."""
    version: int = pydantic.Field(default=1, ge=1)
    """Raised whenever a setting changes."""
    training: Optimisation
    """Optimiser, learning rate, epochs, batches."""
    views: LookChoice
    """Crops and flips; soft labels bring their own, drawn alike."""
    mix: MixChoice
    """How images are mixed; soft labels bring their own."""
    loss: Literal["soft", "hard"] = "soft"
    """'soft': Kullback-Leibler divergence from the teacher; 'hard': cross-entropy with the classes."""
    temperature: float = pydantic.Field(default=20.0, gt=0)
    """Divides logits before the soft loss."""
    temperature_squared: bool = False
    """Multiply the soft loss by the temperature's square."""

    def title(self) -> str:
        """Name and version, and whether it is still what that name says."""
        altered = PROTOCOLS.get(self.name) not in (None, self)
        return f"{self.name} v{self.version}{' modified' if altered else ''}"

    def value(self, logits: Float[Tensor, "image class"], targets: Targets, hard: bool = False) -> Float[Tensor, ""]:
        """The protocol's loss; ``hard`` asks for the one with classes in place of soft labels."""
        if hard or self.loss == "hard":
            return hard_loss(logits, targets)
        return soft_loss(logits, targets, self.temperature, self.temperature_squared)


_ADAMW = Optimisation(
    epochs=300, batch_size=128, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, decay_norms=False
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # ImageNet-1K: the published train_FKD with the batch of 128 that DD-Ranking lists for CDA; no T^2.
        Protocol(name="cda", training=_ADAMW, views=LookChoice(), mix=MixChoice(kind="cutmix")),
        # SRe2L's own: batches of 1024 in two accumulation steps.
        Protocol(
            name="sre2l",
            training=_ADAMW.changed(batch_size=1024, accumulation_steps=2),
            views=LookChoice(),
            mix=MixChoice(kind="cutmix"),
        ),
        # The published Tiny-ImageNet script: labels by the teacher during training, T^2, nothing mixed.
        Protocol(
            name="tiny",
            training=Optimisation(epochs=100, batch_size=256, learning_rate=0.2, weight_decay=1e-4, warmup_epochs=5),
            views=LookChoice(),
            mix=MixChoice(kind="none"),
            temperature_squared=True,
        ),
        # SRe2L's CIFAR-100 script.
        Protocol(
            name="cifar",
            training=_ADAMW.changed(epochs=400),
            views=LookChoice(crop="padded"),
            mix=MixChoice(kind="mixup", alpha=0.8),
            temperature=30.0,
        ),
        # ImageNet-21K-P, after the only published configuration (LPLD's), without its Cutout and logit smoothing.
        Protocol(
            name="imagenet-21k",
            training=_ADAMW.changed(batch_size=32, learning_rate=2e-3),
            views=LookChoice(),
            mix=MixChoice(kind="none"),
        ),
        # No teacher: what the images alone are worth.
        Protocol(name="hard-label", training=_ADAMW, views=LookChoice(), mix=MixChoice(kind="cutmix"), loss="hard"),
        # Attar's own, for 8-pixel digits on a CPU: small shifts, no mirrored digits.
        Protocol(
            name="digits",
            training=_ADAMW.changed(epochs=300, batch_size=50, learning_rate=3e-3),
            views=LookChoice(crop="padded", padding=1, flip=False),
            mix=MixChoice(kind="mixup", alpha=0.8),
            temperature=4.0,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """A built-in protocol; raises AttarError when there is none of this name."""
    if name not in PROTOCOLS:
        raise plugin.unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
