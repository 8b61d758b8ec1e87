"""Other people's pickled files, read without running anything that is in them."""

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
"""What is taken in place of a class or function, and the full name under which a file asks for that."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, in the sentences that refuse one of it; ``{path}``, ``{name}`` and ``{reason}`` are filled in."""

    missing: str
    code: str
    """The file asks for ``{name}``, which is neither allowed nor stood in for."""
    damaged: str
    not_readable: str
    """The reason where the file is no pickle that may be read."""

    def refusal(self, path: Path, reason: str) -> AttarError:
        """The error for a damaged file."""
        reason = reason.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        return AttarError(self.damaged.format(path=path, reason=reason))


def read(path: Path, kind: Kind, stand_ins: Sequence[StandIn]) -> Any:
    """What ``torch.save`` wrote: tensors, plain containers and numbers, and placeholders for other harmless objects.

    Raises AttarError, in the sentences of ``kind``, on a file that is missing, damaged, or asks for code.
    """
    try:
        if not path.stat().st_size:
            raise kind.refusal(path, "it is empty")
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):  # pyright: ignore[reportArgumentType]
            warnings.simplefilter("ignore")  # on other protocols of pickle; they are refused or read
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
    except Exception as error:  # a damaged file fails anywhere in the reader
        readable = isinstance(error, RuntimeError | OSError | EOFError)  # other messages name internals of the reader
        raise kind.refusal(path, str(error) if readable else kind.not_readable) from error
