"""When and how functions are compiled, and what happens when they can't be."""

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from attar.core import log


@dataclass(frozen=True)
class Amount:
    """How much a function has to do, all its calls together."""

    operations: float
    """Floating-point operations."""
    values: float = 0.0
    """Numbers that convolutions and linear layers answer. What lies between these layers reads and writes each of them
    several times, and compiled only a few times."""
    num_layers: int = 0
    """Convolutions and linear layers in one call."""
    num_calls: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What compiling takes and saves, in seconds of one CPU thread."""

    function: float
    """That compiling any function takes."""
    layer: float
    """That it takes more for every layer."""
    saved_value: float
    """That is saved for every number that a layer answers."""
    saved_layer: float
    """That is saved for every layer in every call, however small it is."""

    def taken(self, amount: Amount) -> float:
        """Seconds that compiling takes."""
        return self.function + self.layer * amount.num_layers

    def saved(self, amount: Amount) -> float:
        """Seconds that all calls together save."""
        return self.saved_value * amount.values + self.saved_layer * amount.num_layers * amount.num_calls


CPU = Costs(25.0, 1.5, 3e-9, 6e-4)
"""Measured by 'python benchmarks/processor.py --compilation' (docs/decisions.md). They are written here and not
measured in a run, so that all runs and processes of a recipe decide alike."""
WORTHWHILE = {"cuda": 5e15}
"""Floating-point operations from which compilation pays on other devices: a guess, about 100 seconds of work."""
MOST_SHAPES = 64
"""Shapes that are compiled. PyTorch's own limit is 8, after which it goes on uncompiled and says no word: groups halved
for memory and views of several sizes get there."""


class Compiler:
    """Compiles functions where that pays, and runs them as they are where it does not or can't be done."""

    def __init__(
        self,
        choice: Literal["auto", "on", "off"] = "off",
        device: str = "cpu",
        say: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``device`` is its kind, 'cpu' or 'cuda'; ``say`` and ``warn`` take one line for the user."""
        self._choice, self._device = choice, device
        self._say, self._warn = say, warn
        self._said: set[str] = set()
        self.failed = False

    def wants(self, amount: Amount | float) -> bool:
        """Whether a function that has so much to do is to be compiled; a number alone is its operations."""
        amount = amount if isinstance(amount, Amount) else Amount(amount)
        if self.failed or self._choice == "off":
            return False
        if self._choice == "auto" and self._device == "cpu":
            return CPU.saved(amount) >= CPU.taken(amount)
        return self._choice == "on" or amount.operations >= WORTHWHILE.get(self._device, float("inf"))

    def reason(self, amount: Amount | float) -> str:
        """Why, in words."""
        amount = amount if isinstance(amount, Amount) else Amount(amount)
        if self.failed:
            return "not compiled, because that failed"
        if self._choice != "auto":
            return {"on": "compiled, as asked", "off": "not compiled, as asked"}[self._choice]
        compiled = "compiled" if self.wants(amount) else "not compiled"
        teras = amount.operations / 1e12
        work = f"{teras:,.0f} TFLOP to do" if teras >= 100 else f"{teras:.3g} TFLOP to do"
        if self._device == "cpu":
            taken, saved = (f"{round(seconds):,} s" for seconds in (CPU.taken(amount), CPU.saved(amount)))
            return f"{compiled} ({work}: compiling takes about {taken} of CPU time and saves about {saved})"
        return f"{compiled} ({work}" + ("" if self.wants(amount) else ", too little to pay") + ")"

    def __call__(
        self,
        use: Callable[..., Any],
        function: Callable[..., Any],
        amount: Amount | float,
        narrow: bool = False,
    ) -> Callable[..., Any]:
        """``use`` with its first argument given: the function, compiled if that pays for the ``amount``.

        ``narrow`` says that some feature maps have fewer channels than the widest vector instructions have lanes.
        When compilation fails (no C++ compiler, an unsupported graph, an old GPU), one warning is given and the
        function is used as it is.
        """
        plain = functools.partial(use, function)
        line = self.reason(amount)
        if line not in self._said:
            self._said.add(line)
            self._say(line)
        if not self.wants(amount):
            return plain
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA, on CPUs too
        # Without it, values kept in bf16 for the way back are not those of the way forth, and gradients suffer.
        options: dict[str, Any] = {"emulate_precision_casts": True}
        if narrow and self._device == "cpu":
            options["cpp.simdlen"] = 256  # half-filled 512-bit vectors are stored under a mask, which is slow
        compiled: list[Callable[..., Any]] = []
        seen: set[tuple[Any, ...]] = set()

        def guarded(*arguments: Any) -> Any:
            if self.failed:
                return plain(*arguments)
            shapes = tuple(each.shape for each in arguments if isinstance(each, torch.Tensor))
            compiles = log.doing("compiling") if shapes not in seen else contextlib.nullcontext()
            seen.add(shapes)
            try:
                if not compiled:
                    compiled.append(torch.compile(function, dynamic=False, options=options))
                with compiles, torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
                    return use(compiled[0], *arguments)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self.failed = True
                first = next(iter(str(error).strip().splitlines()), "no reason given")
                self._warn(f"could not compile and runs uncompiled, which is slower ({type(error).__name__}: {first})")
                return plain(*arguments)

        return guarded


def out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
