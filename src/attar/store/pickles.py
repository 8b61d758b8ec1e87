"""Read other people's pickled files without running any code in them."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.core.errors import AttarError

StandIn = tuple[object, str]
"""A harmless replacement for a class or function, and the full name of what it replaces."""


@dataclass(frozen=True)
class Kind:
    """The error sentences for one kind of file; ``{path}``, ``{name}`` and ``{reason}`` are filled in."""

    missing: str
    code: str
    """The file refers to ``{name}``, which is neither allowed nor replaced."""
    damaged: str
    not_readable: str
    """The reason if the file is not a pickle that may be read."""

    def refusal(self, path: Path, reason: str) -> AttarError:
        """Return the error for a damaged file."""
        reason = reason.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        return AttarError(self.damaged.format(path=path, reason=reason))


def read(path: Path, kind: Kind, stand_ins: Sequence[StandIn]) -> Any:
    """Read a file written by ``torch.save``: tensors, plain containers and numbers, and the stand-ins.

    Raises AttarError, with the sentences of ``kind``, when the file is missing, damaged or refers to code.
    """
    try:
        if not path.stat().st_size:
            raise kind.refusal(path, "it is empty")
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):  # pyright: ignore[reportArgumentType]
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except AttarError:
        raise
    except FileNotFoundError:
        raise AttarError(kind.missing.format(path=path)) from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise kind.refusal(path, kind.not_readable) from error
        raise AttarError(kind.code.format(path=path, name=refused[1])) from error
    except Exception as error:  # a damaged file can raise any error in the reader
        readable = isinstance(error, RuntimeError | OSError | EOFError)  # other messages are about PyTorch's internals
        raise kind.refusal(path, str(error) if readable else kind.not_readable) from error
