"""Find modules by name: a file name for attar's own plug-ins, a dotted path for code outside attar."""

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from attar.core.errors import AttarError

SHOWN = 12
"""How many known names an error lists when no name is similar."""
_MUCH_FARTHER = 0.2
"""A suggestion's similarity (0 to 1) may be at most this much below that of the best suggestion."""


def names_in(package: str) -> list[str]:
    """Return the sorted names of the modules directly inside ``package``."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def resolve(package: str, name: str, kind: str) -> ModuleType:
    """Import the module ``name``: a file of ``package``, or a dotted path to a module elsewhere.

    Raises AttarError when there is no such module, with the nearest known names, or when it cannot be imported.
    """
    if name in names_in(package):
        return importlib.import_module(f"{package}.{name}")
    if "." in name:
        try:
            return importlib.import_module(name)
        except Exception as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name)
            if not absent:
                raise AttarError(
                    f"The {kind} '{name}' cannot be imported ({type(error).__name__}: {' '.join(str(error).split())}); "
                    f"correct its file."
                ) from error
        raise AttarError(
            f"There is no module '{name}' for the {kind}; start attar in the folder that holds "
            f"{name.partition('.')[0]}, or add that folder to PYTHONPATH."
        )
    if Path(f"{name}.py").is_file():
        raise AttarError(
            f"attar has no {kind} named '{name}'; to use {name}.py of this folder, move it into a folder and give the "
            f"dotted path, FOLDER.{name}."
        )
    raise unknown(kind, name, names_in(package))


def reach_working_folder() -> None:
    """Make imports search the working folder first, as ``python -m`` does.

    Call it only for dotted paths that the user typed, in a flag or a recipe, never for a name read from another file.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)


def source_sha256(path: str) -> str:
    """Return the SHA-256 of a source file outside attar; '' if there is none.

    ``path`` is package.module or package.module:name, as the user typed it. Files that it imports are not included.
    """
    try:
        spec = importlib.util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError):
        return ""
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def refuse_outside(package: str, name: str, kind: str, path: Path, flag: str) -> None:
    """Raise AttarError when the file at ``path`` names code that is not part of ``package``: only users may do that."""
    if name not in names_in(package):
        raise AttarError(
            f"{path} names the {kind} '{name}', which is code outside attar. attar runs such code only if you name it "
            f"yourself; if you trust it, add {flag} {name}."
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> AttarError:
    """Return the error for a name that is not in ``known``; it suggests the most similar names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in near]
    near = [one for one, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - _MUCH_FARTHER]
    if near:
        return AttarError(f"There is no {kind} named '{name}'; did you mean {' or '.join(near)}?")
    shown = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
    return AttarError(f"There is no {kind} named '{name}'; known names: {shown}.")
