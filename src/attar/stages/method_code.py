"""Running the code of a method: its mistakes end in one sentence, and its results are checked before they are kept."""

import contextlib
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import Tensor

from attar.core.compiling import out_of_memory
from attar.core.errors import AttarError
from attar.stages.methods import METHODS
from attar.synthesis.task import Recovered

GUIDE = "see docs/methods.md"
_ROUNDING = 1e-3
"""How far beyond 0 and 1 pixels may lie by rounding."""


@contextlib.contextmanager
def run_by(module: ModuleType) -> Iterator[None]:
    """Within, an exception in a method from outside attar becomes an AttarError that names its file and line.

    A full disk, too little memory and sentences of attar pass through, and so does every exception of attar's own
    methods. Python callers find the original exception as the error's cause.
    """
    try:
        yield
    except (AttarError, OSError, MemoryError):
        raise
    except Exception as error:
        if module.__name__.startswith(f"{METHODS}.") or out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {_one_line(error)}{_where(error, module)}"
        raise AttarError(
            f"The method {module.__name__} failed with {what}; correct it ({GUIDE}) and run the same command again."
        ) from error


def check(recovered: Any, num_images: int, size: int, unit: str) -> None:
    """Raise AttarError unless a method returned finite images of the right number and size, in [0, 1]."""
    if not isinstance(recovered, Recovered):
        raise AttarError(f"The method's recover returned {type(recovered).__name__}, not Recovered(images); {GUIDE}.")
    images, due = recovered.images, (num_images, 3, size, size)
    if not isinstance(images, Tensor) or tuple(images.shape) != due:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise AttarError(f"The method's recover returned images of shape {found} and not {due}; {GUIDE}.")
    if not bool(images.isfinite().all()):
        raise AttarError(
            f"Recovering {unit} diverged (its pixels are not finite); lower --recover.learning-rate or "
            f"--recover.bn-weight."
        )
    low, high = (float(end) for end in images.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise AttarError(
            f"The method's recover returned pixels from {low:.3g} to {high:.3g}, and images lie in [0, 1]; {GUIDE}."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _where(error: Exception, module: ModuleType) -> str:
    """The last line of the method's own file on the way to the error; '' where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == module.__file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
