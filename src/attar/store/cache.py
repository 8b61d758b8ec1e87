"""The folder of this machine in which attar keeps what it can fetch or compute again."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from attar.core.errors import AttarError, disk_full, first_line


def cache_folder() -> Path:
    """Return the folder: $ATTAR_CACHE, else ``attar`` in $XDG_CACHE_HOME, which is ~/.cache where it is not set.

    Raises AttarError when no variable names it and the user has no home.
    """
    if named := os.environ.get("ATTAR_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "attar"
    try:
        return Path.home() / ".cache" / "attar"
    except RuntimeError:
        raise AttarError("This user has no home folder; set ATTAR_CACHE to a folder for cached data.") from None


@contextlib.contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Turn system errors about a folder of the cache, also those that ``atomic`` explains, into one with the mend."""
    try:
        yield
    except OSError as error:
        raise _unusable(folder, error) from error
    except AttarError as error:
        if isinstance(error.__cause__, OSError):
            raise _unusable(folder, error.__cause__) from error.__cause__
        raise


def _unusable(folder: Path, error: OSError) -> AttarError:
    if disk_full(error):
        return AttarError(
            f"The disk is full while writing {folder}; free some space, or set ATTAR_CACHE to a folder of another disk."
        )
    reason = error.strerror or first_line(error)
    return AttarError(f"The cache folder {folder} cannot be used ({reason}); set ATTAR_CACHE to a folder of yours.")
