"""Settings of the methods that optimise in several stretches (fadrm, delt). Nothing here imports PyTorch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pydantic

from attar.synthesis.choices import Pixels, equal_blocks
from attar.synthesis.method import Stretch, UnitShape

_OF_ROUNDS = ("round_iterations", "late_rates")


class Blocks(Pixels):
    """Optimise in blocks of different image sizes, and mix part of the start back in between blocks (FADRM)."""

    block_sizes: tuple[Annotated[float, pydantic.Field(gt=0, le=1)], ...] = (1.0, 1.0, 1.0, 1.0)
    """Image side in each block, as fractions of the stored side; the images themselves are resized. Blocks get equal
    shares of the iterations; the last must be 1.0. At 224 pixels '0.893 1.0 0.893 1.0' is 200, 224, 200, 224."""
    residual: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Share of the start that is mixed into the images after each block but the last (alpha)."""
    antialias: bool = False
    """Average pixels when images or their starts shrink from one block to the next; FADRM's script does not."""

    @pydantic.model_validator(mode="after")
    def _sizes(self) -> Self:
        if not self.block_sizes or self.block_sizes[-1] != 1.0:
            raise ValueError("the last of block_sizes must be 1.0, the size at which images are stored")
        if len(self.block_sizes) > self.iterations:
            raise ValueError(
                f"block_sizes has {len(self.block_sizes)} blocks for {self.iterations} iterations; raise "
                f"iterations, or give fewer sizes"
            )
        if self.view_sizes != (1.0,):
            raise ValueError("view_sizes cannot be combined with block_sizes; set view_sizes to 1.0")
        return self

    def idle(self) -> dict[str, str]:
        """The share of the start, if there is one block; how images shrink, if no block is smaller."""
        found = super().idle() | ({} if len(self.block_sizes) > 1 else {"residual": "several --block-sizes"})
        return found | ({"antialias": "--block-sizes below 1"} if set(self.block_sizes) == {1.0} else {})

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """One stretch per block, even for neighbours of one size, because the optimiser restarts between blocks."""
        passes = self.passes(unit.num_teachers)
        return tuple(
            Stretch(count, side, teachers=passes) for side, count in equal_blocks(self.iterations, self.block_sizes)
        )


class EarlyLate(Pixels):
    """Let groups of slots join the optimisation one after the other, so that early ones are optimised longer (DELT)."""

    rounds: int = pydantic.Field(default=8, ge=1)
    """Groups into which a unit's slots are divided; at most as many as there are slots."""
    round_iterations: int = pydantic.Field(default=0, ge=0)
    """Iterations after which the next group joins; 0: the iterations divided by the rounds."""
    late_rates: Literal["shared", "own"] = "shared"
    """Learning rate of groups that join late. 'shared': that of all images, which falls over all iterations, as in the
    released code; 'own': it begins at learning_rate and falls over the iterations that are left."""

    def idle(self) -> dict[str, str]:
        """When groups join and with which rate, if there is one."""
        return super().idle() | ({} if self.rounds > 1 else dict.fromkeys(_OF_ROUNDS, "--rounds above 1"))

    def cost(self, unit: UnitShape) -> tuple[Stretch, ...]:
        """A stretch for each group: all that have joined take part."""
        rounds = min(self.rounds, unit.num_slots, self.iterations)
        each = self.round_iterations or self.iterations // min(self.rounds, self.iterations)
        passes, (few, more) = self.passes(unit.num_teachers), divmod(unit.num_slots, rounds)
        joined = [few * (place + 1) + min(more, place + 1) for place in range(rounds)]
        counts = [each] * (rounds - 1) + [self.iterations - (rounds - 1) * each]
        return tuple(Stretch(count, slots=slots, teachers=passes) for count, slots in zip(counts, joined, strict=True))

    @pydantic.model_validator(mode="after")
    def _rounds(self) -> Self:
        if (self.rounds - 1) * self.round_iterations >= self.iterations:
            raise ValueError(
                f"{self.rounds} rounds that start {self.round_iterations} iterations apart do not fit into "
                f"{self.iterations} iterations"
            )
        return self
