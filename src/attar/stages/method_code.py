"""Run the code of a method: turn its mistakes into one sentence, and check its results before they are stored."""

import contextlib
import traceback
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any, NoReturn, cast

from torch import Tensor

from attar.core.compiling import out_of_memory
from attar.core.errors import AttarError
from attar.stages.methods import METHODS
from attar.synthesis.method import MethodConfig
from attar.synthesis.task import RealImages, Recovered

GUIDE = "see docs/add-a-method.md"
_ROUNDING = 1e-3
"""Largest excess of a pixel over [0, 1] that counts as rounding."""


@contextlib.contextmanager
def run_by(module: ModuleType) -> Iterator[None]:
    """Turn an exception in a method outside attar into an AttarError that names the method's file and line.

    AttarErrors, operating system errors, too little memory, and exceptions of attar's own methods pass unchanged. The
    original exception is the AttarError's cause.
    """
    try:
        yield
    except (AttarError, OSError, MemoryError):
        raise
    except Exception as error:
        if _is_own(module.__name__) or out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {_one_line(error)}{_where(error, module)}"
        raise AttarError(
            f"The method {module.__name__} failed with {what}; correct it ({GUIDE}) and run the same command again."
        ) from error


def check(recovered: Any, shape: tuple[int, int], size: int, unit: str) -> None:
    """Raise AttarError unless a method returned finite images of the right number and size, in [0, 1], and, where it
    returned soft labels, probabilities of this ``shape``: images and classes."""
    if not isinstance(recovered, Recovered):
        raise AttarError(f"The method's recover returned {type(recovered).__name__}, not Recovered(images); {GUIDE}.")
    images, due = recovered.images, (shape[0], 3, size, size)
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
    if recovered.soft_labels is not None:
        _check_labels(recovered.soft_labels, shape)


def check_metrics(config: MethodConfig, reported: Collection[str]) -> None:
    """Raise AttarError unless the reported metrics are those that ``Config.metrics`` declares."""
    declared = set(config.metrics())
    if declared == set(reported):
        return
    missing, extra = sorted(declared - set(reported)), sorted(set(reported) - declared)
    wrong = [f"declares metrics that it does not report ({', '.join(missing)})"] * bool(missing)
    wrong += [f"reports metrics that it does not declare ({', '.join(extra)})"] * bool(extra)
    raise AttarError(
        f"The method {type(config).__module__} {', and '.join(wrong)}; return the names of all reported "
        f"metrics, and no others, from Config.metrics() ({GUIDE})."
    )


def real_for(module: str, config: MethodConfig, real: RealImages | None) -> RealImages | None:
    """Return the real images for code in ``module``; code outside attar must have declared that it reads them.

    Without that declaration any use of the returned object raises AttarError.
    """
    declared = config.needs().real_images or _is_own(module) or module.startswith("attar.synthesis.")
    return real if declared else cast(RealImages, _Undeclared(type(config).__module__))


class _Undeclared:
    """Stands in for real images that a method does not declare; every use raises AttarError."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __getattr__(self, name: str) -> NoReturn:
        raise AttarError(
            f"The method {self._method} reads real images and does not declare it; return super().needs() | "
            f"Needs(real_images=True) from Config.needs() ({GUIDE})."
        )


def _is_own(module: str) -> bool:
    """Return whether a module is one of attar's methods."""
    return module.startswith(f"{METHODS}.")


def _check_labels(labels: Any, shape: tuple[int, int]) -> None:
    found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
    if found != shape:
        raise AttarError(f"The method's recover returned soft labels of shape {found} and not {shape}; {GUIDE}.")
    total = labels.detach().float().sum(1)
    if not bool((labels >= 0).all() and ((total - 1).abs() < _ROUNDING).all()):
        raise AttarError(
            f"The method's recover returned soft labels that are no probabilities (rows sum to "
            f"{float(total.min()):.3g} to {float(total.max()):.3g}); {GUIDE}."
        )


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or "no message"


def _where(error: Exception, module: ModuleType) -> str:
    """Return the last line of the method's own file in the traceback; '' if it has none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == module.__file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
