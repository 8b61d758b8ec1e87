"""Compile functions when that saves time; run them uncompiled when compilation fails."""

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
    """The work of all calls of a function together."""

    operations: float
    """Floating-point operations."""
    values: float = 0.0
    """Number of outputs of convolutions and linear layers. Uncompiled, the operations between these layers read and
    write each output many times; compiled, only a few times."""
    num_layers: int = 0
    """Convolutions and linear layers in one call."""
    num_calls: float = 0.0


@dataclass(frozen=True)
class Costs:
    """How long compiling takes and how much time it saves, in seconds of one CPU thread."""

    function: float
    """Time to compile any function."""
    layer: float
    """Additional time per layer."""
    saved_value: float
    """Time saved per output value of a layer."""
    saved_layer: float
    """Time saved per layer and call, independent of the layer's size."""

    def taken(self, amount: Amount) -> float:
        """Return the seconds that compiling takes."""
        return self.function + self.layer * amount.num_layers

    def saved(self, amount: Amount) -> float:
        """Return the seconds that compiling saves in all calls together."""
        return self.saved_value * amount.values + self.saved_layer * amount.num_layers * amount.num_calls


CPU = Costs(25.0, 1.5, 3e-9, 6e-4)
"""Measured by 'python benchmarks/processor.py --compilation' (docs/decisions.md). They are constants, not measured in
each run, so that all runs and processes of a recipe make the same choice."""
WORTHWHILE = {"cuda": 5e15}
"""Minimum floating-point operations for compilation on other devices: a guess, about 100 seconds of work."""
MAX_SHAPES = 64
"""How many input shapes of a function are compiled. PyTorch's own limit is 8; above it PyTorch silently continues
uncompiled. Groups halved for memory and views of several sizes reach that limit."""


class Compiler:
    """Compiles functions if that saves time and works; otherwise runs them uncompiled."""

    def __init__(
        self,
        choice: Literal["auto", "on", "off"] = "off",
        device: str = "cpu",
        say: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
        decides_only: bool = False,
        network: str = "",
    ) -> None:
        """``device`` is the device type, 'cpu' or 'cuda'; ``say`` and ``warn`` print one line for the user.

        With ``decides_only`` it says what it would compile, and compiles nothing. ``network`` is the name of the
        network whose functions it compiles.
        """
        self.by = f" by {network}" if network else ""
        """Words that name the network, to follow what a function computes."""
        self._choice, self._device, self._decides_only = choice, device, decides_only
        self._say, self._warn = say, warn
        self._said: set[str] = set()
        self.failed = False

    def wants(self, amount: Amount | float) -> bool:
        """Return whether to compile a function with this amount of work; a plain number means its operations."""
        amount = amount if isinstance(amount, Amount) else Amount(amount)
        if self.failed or self._choice == "off":
            return False
        if self._choice == "auto" and self._device == "cpu":
            return CPU.saved(amount) >= CPU.taken(amount)
        return self._choice == "on" or amount.operations >= WORTHWHILE.get(self._device, float("inf"))

    def reason(self, amount: Amount | float) -> str:
        """Return in words why ``wants`` decides as it does."""
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
        what: str = "",
    ) -> Callable[..., Any]:
        """Return ``use`` with ``function`` as its first argument, compiled if that saves time for ``amount``.

        ``what`` names in words what the function computes. Whether it is compiled, and why, is said once for each.
        Set ``narrow`` if some feature maps have fewer channels than the widest vector instructions have lanes. If
        compilation fails (no C++ compiler, an unsupported graph, an old GPU), it prints one warning and uses the
        function uncompiled.
        """
        plain = functools.partial(use, function)
        line = f"{what}: {self.reason(amount)}" if what else self.reason(amount)
        if decision(line) not in self._said:
            self._said.add(decision(line))
            self._say(line)
        if self._decides_only or not self.wants(amount):
            return plain
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns about CUDA on CPUs, too
        # Otherwise the bf16 values of the backward pass differ from those of the forward pass: worse gradients.
        options: dict[str, Any] = {"emulate_precision_casts": True}
        if narrow and self._device == "cpu":
            options["cpp.simdlen"] = 256  # half-filled 512-bit vectors are stored under a mask, which is slow
        compiled: list[Callable[..., Any]] = []
        seen: set[tuple[Any, ...]] = set()

        def guarded(*arguments: Any) -> Any:
            if self.failed:
                return plain(*arguments)
            shapes = tuple(each.shape for each in arguments if isinstance(each, torch.Tensor))
            compiles = log.activity("compiling") if shapes not in seen else contextlib.nullcontext()
            seen.add(shapes)
            try:
                if not compiled:
                    compiled.append(torch.compile(function, dynamic=False, options=options))
                with compiles, torch._dynamo.config.patch(recompile_limit=MAX_SHAPES):
                    return use(compiled[0], *arguments)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self.failed = True
                first = next(iter(str(error).strip().splitlines()), "no reason given")
                self._warn(f"compilation failed, running uncompiled, which is slower ({type(error).__name__}: {first})")
                return plain(*arguments)

        return guarded


def decision(line: str) -> str:
    """Return what a compiler said without its reasons: for what, and whether it is compiled."""
    return line.partition(" (")[0]


def out_of_memory(error: BaseException) -> bool:
    """Return whether the error means that the device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
