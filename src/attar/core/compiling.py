"""When and how functions are compiled, and what happens when they can't be."""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal

import torch

WORTHWHILE = {"cpu": 2e13, "cuda": 5e15}
"""Floating-point operations from which compilation pays: about 100 seconds of uncompiled work, where compiling takes
up to 40."""
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

    def wants(self, operations: float) -> bool:
        """Whether a function that will do so many floating-point operations in all is to be compiled."""
        if self.failed or self._choice == "off":
            return False
        return self._choice == "on" or operations >= WORTHWHILE.get(self._device, float("inf"))

    def reason(self, operations: float) -> str:
        """Why, in words."""
        if self.failed:
            return "not compiled, because that failed"
        if self._choice != "auto":
            return {"on": "compiled, as asked", "off": "not compiled, as asked"}[self._choice]
        work = f"{operations / 1e12:,.3g} TFLOP to do"
        return f"compiled ({work})" if self.wants(operations) else f"not compiled ({work}, too little to pay)"

    def __call__(
        self,
        use: Callable[..., Any],
        function: Callable[..., Any],
        operations: float,
        narrow: bool = False,
    ) -> Callable[..., Any]:
        """``use`` with its first argument given: the function, compiled if that pays for ``operations`` in all.

        ``narrow`` says that some feature maps have fewer channels than the widest vector instructions have lanes.
        When compilation fails (no C++ compiler, an unsupported graph, an old GPU), one warning is given and the
        function is used as it is.
        """
        plain = functools.partial(use, function)
        line = self.reason(operations)
        if line not in self._said:
            self._said.add(line)
            self._say(line)
        if not self.wants(operations):
            return plain
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA, on CPUs too
        # Without it, values kept in bf16 for the way back are not those of the way forth, and gradients suffer.
        options: dict[str, Any] = {"emulate_precision_casts": True}
        if narrow and self._device == "cpu":
            options["cpp.simdlen"] = 256  # half-filled 512-bit vectors are stored under a mask, which is slow
        compiled: list[Callable[..., Any]] = []

        def guarded(*arguments: Any) -> Any:
            if self.failed:
                return plain(*arguments)
            try:
                if not compiled:
                    compiled.append(torch.compile(function, dynamic=False, options=options))
                with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
                    return use(compiled[0], *arguments)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self.failed = True
                first = next(iter(str(error).strip().splitlines()), "no reason given")
                self._warn(f"could not compile, so it goes on without, slower ({type(error).__name__}: {first})")
                return plain(*arguments)

        return guarded


def out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
