"""attar's own networks for small images: CIFAR ResNets, a wide one, and the ConvNet of dataset condensation."""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut: the identity, or a 1x1 projection where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(
        self, maps: Float[Tensor, "image channels height width"]
    ) -> Float[Tensor, "image out_channels out_height out_width"]:
        inner = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps))


class SmallResNet(nn.Module):
    """ResNet for small images (He et al., 2016, arXiv 1512.03385, section 4.2): three stages, 6n + 2 layers deep.

    Shortcuts that change the shape are projections with their own BatchNorm (the paper's option B; its CIFAR table uses
    option A, zero padding). Weights are initialised as in the paper (He et al., 2015, fan-out).
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        per_stage = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], per_stage, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], per_stage, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], per_stage, stride=2)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.fc(maps.mean((2, 3)))


class WideBlock(nn.Module):
    """Pre-activation block of a wide ResNet; if the shape changes, the shortcut projects the activated input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(
        self, maps: Float[Tensor, "image channels height width"]
    ) -> Float[Tensor, "image out_channels out_height out_width"]:
        active = F.relu(self.bn1(maps))
        inner = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + (maps if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Wide ResNet for small images (Zagoruyko and Komodakis, 2016, arXiv 1605.07146).

    It has three stages and 6n + 4 layers, and is ``widen`` times as wide as a ResNet. No dropout. Weights are
    initialised as in He et al., 2015, fan-out.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        num_blocks, channels = (depth - 4) // 6, WIDTHS[0]
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for stage, width in enumerate(WIDTHS):
            for place in range(num_blocks):
                blocks.append(WideBlock(channels, widen * width, 2 if stage and not place else 1))
                channels = widen * width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        return self.fc(F.relu(self.bn(self.blocks(self.conv1(images)))).mean((2, 3)))


class ConvNet(nn.Module):
    """The ConvNet of dataset condensation: ``depth`` blocks of convolution, normalisation, ReLU and pooling, one layer.

    ``norm`` is BatchNorm, or InstanceNorm as in papers that match gradients, distributions and trajectories. The last
    map is flattened, so the last layer's size depends on ``image_size``, the side of the images in pixels. Pooling
    stops at a map of 1x1; the maps of images of other sizes are averaged to the same size. Source: Gidaris and
    Komodakis, 2018, arXiv 1804.09458; Zhao et al., 2021, arXiv 2006.05929.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        image_size: int,
        width: int = 128,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width if i else 3, width, 3, padding=1), _norm(norm, width), nn.ReLU())
            for i in range(depth)
        )
        self.map_size = max(1, image_size // 2**depth)
        self.fc = nn.Linear(width * self.map_size**2, num_classes)

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        maps = images
        for block in self.blocks:
            maps = block(maps)
            if min(maps.shape[-2:]) > 1:
                maps = F.avg_pool2d(maps, 2)
        if maps.shape[-2:] != (self.map_size, self.map_size):
            maps = F.adaptive_avg_pool2d(maps, self.map_size)
        return self.fc(maps.flatten(1))


class InstanceNorm(nn.GroupNorm):
    """InstanceNorm with a scale and a shift for each channel; unlike nn.InstanceNorm2d it accepts maps of one pixel.

    One group per channel is InstanceNorm. But on a CPU PyTorch's kernels for bf16 groups take up to twenty times as
    long as its BatchNorm when the channels of a pixel lie side by side in memory. There the maps become a matrix with
    a row for each pixel and a column for each channel of each image, and BatchNorm normalises the columns. In float32
    this saves nothing, and compiled code does not use these kernels.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, input: Float[Tensor, "image channel height width"]) -> Tensor:
        maps = input  # named as in nn.GroupNorm
        count, channels, height, width = maps.shape
        slow = maps.device.type == "cpu" and maps.dtype is torch.bfloat16 and not torch.compiler.is_compiling()
        by_pixel = maps.is_contiguous(memory_format=torch.channels_last)
        if not slow or not by_pixel or height * width == 1 or not count:
            return super().forward(maps)
        columns = maps.permute(2, 3, 0, 1).reshape(height * width, count * channels)
        scale, shift = self.weight.repeat(count), self.bias.repeat(count)
        normal = F.batch_norm(columns, None, None, scale, shift, training=True, eps=self.eps)
        found = normal.view(height, width, count, channels).permute(2, 3, 0, 1)
        return found.contiguous(memory_format=torch.channels_last)


def _norm(kind: Literal["batch", "instance"], width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else InstanceNorm(width)


def _stage(channels_in: int, channels_out: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(num_blocks - 1)))


def _resnet(num_classes: int, image_size: int, *, depth: int) -> nn.Module:
    return SmallResNet(depth, num_classes)


def _wide_resnet(num_classes: int, image_size: int, *, depth: int, widen: int) -> nn.Module:
    return WideResNet(depth, widen, num_classes)


def _convnet(
    num_classes: int, image_size: int, *, depth: int, width: int = 128, norm: Literal["batch", "instance"] = "batch"
) -> nn.Module:
    return ConvNet(depth, num_classes, image_size, width, norm)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    **{f"resnet{depth}": functools.partial(_resnet, depth=depth) for depth in (20, 32, 44, 56)},
    "wrn_16_2": functools.partial(_wide_resnet, depth=16, widen=2),
    **{f"convnet{depth}": functools.partial(_convnet, depth=depth) for depth in range(1, 9)},
    "convnet3_w32": functools.partial(_convnet, depth=3, width=32),
    **{f"convnet{depth}_w64": functools.partial(_convnet, depth=depth, width=64) for depth in (3, 4, 5)},
    **{f"convnet{depth}_in": functools.partial(_convnet, depth=depth, norm="instance") for depth in range(1, 7)},
    "convnet3_w64_in": functools.partial(_convnet, depth=3, width=64, norm="instance"),
}
"""Factories by name; a factory takes the number of classes and the side of the images in pixels."""
