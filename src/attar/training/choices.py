"""Settings of the training loop, for teachers and students. Nothing here imports PyTorch."""

from typing import Literal

import pydantic

from attar.core.config import Config
from attar.ops.schedule import Schedule


class Optimisation(Config):
    """How a network is trained: optimiser, learning rate over time, batches."""

    epochs: int = pydantic.Field(default=100, ge=1)
    """Passes over the images."""
    batch_size: int = pydantic.Field(default=128, ge=2)
    """Images in one optimiser step, over all accumulation steps."""
    accumulation_steps: int = pydantic.Field(default=1, ge=1)
    """Parts into which a batch is cut to save memory; BatchNorm sees one part at a time."""
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """'sgd' with momentum, 'adam' (its decay is part of the gradient), 'adamw', or 'muon' for matrices and convolutions
    with Adam for the rest."""
    learning_rate: float = pydantic.Field(default=0.1, gt=0)
    """Peak learning rate. Muon's steps are scaled to AdamW's, so start with the same value for both."""
    schedule: Schedule = "cosine"
    """Learning rate over time. 'cosine'; 'cosine-linear': a cosine, then from 5/6 of training a line to 0 (EDC's
    'cos2'); 'multistep': divided by 5 at 2/3 and again at 5/6 of training; 'multistep-halves': halved at 4/5, 9/10
    and 19/20 of training; 'fifths-halves': halved at each fifth; 'step-tenth': divided by 10 at half of training;
    'thirds-tenth': divided by 10 at 1/3 and again at 2/3; 'one-cycle': a cosine up from 1/20 in a tenth of training,
    then one down to 0; 'constant'."""
    cosine_stretch: float = pydantic.Field(default=1.0, ge=1)
    """Length of the half cosine as a multiple of training: 1 ends at 0, 2 at half the peak (papers' zeta or eta)."""
    rate_moves: Literal["step", "epoch"] = "step"
    """Update the learning rate at every optimiser step, or once per epoch as in most published scripts."""
    warmup_epochs: float = pydantic.Field(default=0.0, ge=0)
    """Epochs at the start in which the learning rate rises linearly to its peak."""
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD and Muon."""
    betas: tuple[float, float] = (0.9, 0.999)
    """The two decay rates of Adam and AdamW, and of the Adam that 'muon' uses for other parameters."""
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    """Weight decay."""
    decay_norms: bool = True
    """Apply weight decay to biases and normalisation layers too."""
    ema_decay: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the parameters, which is evaluated instead of them; 0: no average."""

    def idle(self) -> dict[str, str]:
        """The settings of other optimisers, and the length of a cosine that there is not."""
        found = {} if self.optimizer in ("sgd", "muon") else {"momentum": "--optimizer sgd or muon"}
        found |= {"betas": "--optimizer adam, adamw or muon"} if self.optimizer == "sgd" else {}
        cosine = self.schedule in ("cosine", "cosine-linear")
        return super().idle() | found | ({} if cosine else {"cosine_stretch": "--schedule cosine or cosine-linear"})
