"""Figures on disk: a figure is drawn again only when what it shows, its files, or the drawing code changed."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

import attar
from attar.core.config import digest
from attar.core.errors import AttarError
from attar.store import atomic, sealed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "figures.json"
"""File beside the figures that records what each was drawn from, and the hashes of its files."""
ENDINGS = ("png", "svg")
"""Every figure has a file of each kind."""


class Figures:
    """The figures of one folder.

    A figure is recorded with a digest of all values that it was drawn from. ``save`` keeps its files while the digest
    and the files' hashes are the recorded ones, so a kept figure is the one that would be drawn. Figures are drawn
    with matplotlib, which is imported only for one that is not kept.
    """

    def __init__(self, folder: Path, *, again: bool) -> None:
        """``again`` draws every figure, also unchanged ones."""
        self.written: list[Path] = []
        """Files of the figures that were saved or kept, in their order."""
        self._folder = folder
        self._before = {} if again else _recorded(folder / RECORD)
        self._now: dict[str, Any] = {}

    def save(self, name: str, draw: Callable[..., "Figure"], *values: Any) -> None:
        """Write ``draw(*values)`` as NAME.png and NAME.svg, unless the same figure is there."""
        shown = digest([_code(), f"{draw.__module__}.{draw.__qualname__}", _plain(values)])
        files, before = self._files(name), self._before.get(name)
        if before is None or before != {"shown": shown, "files": _hashes(files)}:
            write(draw(*values), self._folder / name)
        self._now[name] = {"shown": shown, "files": _hashes(files)}
        self.written += files

    def finish(self, names: Sequence[str]) -> None:
        """Record the figures, and remove those of ``names`` that were not saved: an earlier report left them."""
        for name in names:
            for file in self._files(name) if name not in self._now else ():
                atomic.remove(file)
        sealed.write_json(self._folder / RECORD, self._now)

    def _files(self, name: str) -> list[Path]:
        return [self._folder / f"{name}.{ending}" for ending in ENDINGS]


def write(figure: "Figure", path: Path, *, dpi: int = 80, tight: bool = True) -> list[Path]:
    """Write a figure as PNG and as SVG; ``path`` has no ending. ``tight`` cuts off empty margins."""
    from matplotlib import rc_context

    margins: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.05} if tight else {}
    written = [path.with_name(f"{path.name}.{ending}") for ending in ENDINGS]
    for file in written:
        ending = file.suffix.removeprefix(".")
        with atomic.replace(file) as temporary, rc_context({"svg.hashsalt": file.name}):  # the same file every time
            dated = {"Date": None} if ending == "svg" else None
            figure.savefig(temporary, format=ending, dpi=dpi, metadata=dated, **margins)
    return written


def _recorded(path: Path) -> dict[str, Any]:
    """Return what the record says; nothing if there is none, or if it is damaged."""
    with contextlib.suppress(OSError, AttarError):
        return sealed.read_json(path, "")
    return {}


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    """Return the hashes of the files that are there; each is read anew, for a damaged one may look untouched."""
    return {file.name: atomic.sha256_of(file) for file in files if file.is_file()}


def _plain(value: Any) -> Any:
    """Return a figure's value as JSON; tensors are hashed."""
    if isinstance(value, Tensor):
        content = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        return ["tensor", str(value.dtype), list(value.shape), content]
    if is_dataclass(value):
        return [type(value).__name__, *(_plain(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, Mapping):
        return ["mapping", *([_plain(key), _plain(one)] for key, one in value.items())]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a figure cannot be drawn from {type(value).__name__}")


@functools.cache
def _code() -> list[str]:
    """Return versions and a hash of the code that draws: any change of attar or of matplotlib draws figures anew."""
    found = hashlib.sha256()
    for file in _sources():
        found.update(file.read_bytes())
    return [attar.__version__, metadata.version("matplotlib"), found.hexdigest()]


def _sources() -> Iterator[Path]:
    yield from sorted(Path(attar.__file__).parent.rglob("*.py"))
