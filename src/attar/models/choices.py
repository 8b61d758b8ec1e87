"""What a recipe may say of how a network is built, without PyTorch."""

from typing import Literal

Stem = Literal["auto", "small", "standard"]
"""First layers of a torchvision ResNet."""
