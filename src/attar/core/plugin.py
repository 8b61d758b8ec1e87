"""Finding modules by name: the file's name is the plug-in's name, a dotted path reaches code outside attar."""

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
"""Names listed when none is near."""
_MUCH_FARTHER = 0.2
"""How much less similar than the nearest name a further suggestion may be, out of 1."""


def names_in(package: str) -> list[str]:
    """The names of the modules directly inside ``package``, sorted."""
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
    """Let imports look in the working folder first, as ``python -m`` does.

    Only for dotted paths that the user typed, in a flag or a recipe; never for a name read from another file.
    """
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)


def source_sha256(path: str) -> str:
    """The SHA-256 of the file of code outside attar, by its dotted path; '' where there is no such file.

    ``path`` is package.module or package.module:name, as the user typed it. What the file imports is not looked at.
    """
    try:
        spec = importlib.util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError):
        return ""
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def refuse_outside(package: str, name: str, kind: str, path: Path, flag: str) -> None:
    """Raise AttarError when the file at ``path`` names code that is no file of ``package``: only users may do that."""
    if name not in names_in(package):
        raise AttarError(
            f"{path} names the {kind} '{name}', which is code outside attar, and no file of results may name code; it "
            f"was not run. Where you trust it, name it yourself: {flag} {name}."
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> AttarError:
    """The error for a name that is not among ``known``, with the nearest ones as the mend."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in near]
    near = [one for one, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - _MUCH_FARTHER]
    if near:
        return AttarError(f"There is no {kind} named '{name}'; did you mean {' or '.join(near)}?")
    shown = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
    return AttarError(f"There is no {kind} named '{name}'; there are {shown}.")
