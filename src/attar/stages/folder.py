"""A stage's folder: plan.json (the request, written first), manifest.json (the result, last), and their checks."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.core import ranks
from attar.core.config import Config, differences, digest, pruned
from attar.core.elapsed import Elapsed
from attar.core.errors import AttarError
from attar.core.precision import DTYPES, Precision
from attar.store import atomic, sealed

PLAN, MANIFEST = "plan.json", "manifest.json"
FORMAT = 1
"""Of manifests and plans; those without one are of this format, too."""
SOURCE = "source code"
"""Parent name for a source file outside attar; folders that record none are accepted."""
FEED = "feed"
"""Part of a request that says how real images are read; folders that do not record it are accepted."""
GROWN = "grown"
"""Key of the smaller results that a result was grown from."""
_PLAINLY = {
    "data": "real data that differ from the current ones",
    "teacher": "a teacher that is not the current one",
    "experts": "experts that are not the current ones",
    "committee": "a committee of teachers that is not the current one",
    "images": "images that are not the current ones",
    "labels": "imported labels that are not the current ones",
    "kept": "kept images that are not the current ones",
    "tree": "a hierarchy of classes (squeeze.semantic_tree) that is not the current one",
    SOURCE: "an earlier version of your source code",
}
"""How errors describe the former parent when a parent has changed."""
_ALSO_WITHOUT = {"committee", "tree"}
"""Parents for which being absent now also counts as a change."""
_OF_THE_MAKING = {"device", "processes", "versions", "finished"}
_PACKAGES = ("attar", "torchvision", "timm", "numpy", "pillow", "pyarrow", "safetensors")


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of one run. All processes of a run must call its methods in the same order."""

    path: Path
    stage: str
    request: Mapping[str, Any]
    """Everything that can change the result: configurations and plain values."""
    parents: dict[str, str]
    """Content hashes of the stage's inputs."""
    warn: Callable[[str], object] = lambda _: None
    """Called with a message when missing or damaged files are made again."""
    expected: Callable[[], Iterable[Path]] = tuple
    """Files that must exist when the manifest lists none; may raise AttarError."""
    again: bool = True
    """Whether missing or damaged files are made again; False: raise AttarError."""

    def finished(self) -> dict[str, Any] | None:
        """Return the manifest when this stage is finished; None when it must be started or continued.

        A stage with missing or damaged files is continued. Raises AttarError when the folder holds results of other
        settings or inputs; these are neither reused nor overwritten.
        """
        # In this order, for in a folder that runs share another one may be at work: plan, results, manifest, no plan.
        has_results, plan, manifest = self._has_results(), _read(self.path / PLAN), _read(self.path / MANIFEST)
        faults = [] if manifest is None else self._faults(manifest)
        ranks.wait()  # everyone has looked before anyone writes
        known = manifest or (plan if has_results else None)
        if known is None:
            if has_results:
                raise AttarError(
                    f"{self.path} holds results, but no {PLAN} or {MANIFEST} that describes them; choose another "
                    f"--out, or delete that folder to make it again."
                )
            return None
        if changed := self._changed(known):
            more = f"; and {len(changed) - 4} more" * (len(changed) > 4)
            raise AttarError(
                f"{self.path} was made with other settings ({'; '.join(changed[:4])}{more}); set them back, choose "
                f"another --out, or delete that folder to make it again."
            )
        if stale := self._stale(known):
            raise AttarError(
                f"{self.path} was made from {_PLAINLY.get(stale[0], f'another {stale[0]}')}; "
                f"choose another --out, or delete that folder to make it again."
            )
        if faults and not self.again:
            raise AttarError(
                f"{faults[0]}; restore the file, or delete the folder {self.path} and run the same command again "
                f"to make it again."
            )
        for fault in faults[:1]:
            more = f", and so are {len(faults) - 1} more" * (len(faults) > 1)
            self.warn(f"{fault}{more}; the stage continues and makes it again")
        return None if faults else manifest

    def _faults(self, manifest: dict[str, Any]) -> list[str]:
        if "files" in manifest:
            return sealed.faults(self.path, listed(manifest, self.path))
        try:  # an older attar's, which lists no files
            return [f"{path} is missing" for path in self.expected() if not path.is_file()]
        except AttarError as error:
            return [str(error).partition("; ")[0]]

    @property
    def identity(self) -> str:
        """Return the hash that all files of this stage carry. A continued stage keeps its first hash.

        Earlier versions did not record it; there it is the hash of everything in the plan.
        """
        known = None
        with contextlib.suppress(AttarError):  # a damaged one is refused by ``finished``, and evaluate writes it anew
            known = _read(self.path / PLAN) or _read(self.path / MANIFEST)
        if known is None or self._changed(known) or self._stale(known):
            return digest([self.stage, self._plain(lambda one: one.identity()), self.parents])
        return known.get("made_for") or self._hash_of(known)

    def _hash_of(self, known: dict[str, Any]) -> str:
        return digest([known.get("stage"), known["request"], known.get("parents", {})])

    def begin(self) -> None:
        """Write the plan, so that a later run can tell whether it may continue."""
        if ranks.is_first():
            sealed.write_json(self.path / PLAN, self._asked())
        ranks.wait()

    def differs_only_in(self, known: dict[str, Any], key: str) -> bool:
        """Return whether a manifest is of this work but for the setting ``key``."""
        changed = self._changed(known)
        return len(changed) == 1 and changed[0].startswith(f"{key} ") and not self._stale(known)

    def reopen(self, known: dict[str, Any], grown: list[dict[str, Any]]) -> None:
        """Turn a manifest into the plan of a larger result, of which the finished files are a part."""
        identity = known.get("made_for") or self._hash_of(known)
        sealed.write_json(self.path / PLAN, {**self._asked(), "made_for": identity, GROWN: grown})
        (self.path / MANIFEST).unlink()

    def grown(self) -> list[dict[str, Any]]:
        """Return what the plan, or else the manifest, says of the smaller results that this one was grown from."""
        known = None
        with contextlib.suppress(AttarError):  # as for the identity: evaluate writes a damaged manifest anew
            known = _read(self.path / PLAN) or _read(self.path / MANIFEST)
        return list((known or {}).get(GROWN, ()))

    def _asked(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "stage": self.stage,
            "request": self._plain(lambda one: one.recorded()),  # every setting with its value
            "identity": self._plain(lambda one: one.identity()),  # those that are not at their default
            "parents": self.parents,
            "made_for": self.identity,
        } | ({GROWN: grown} if (grown := self.grown()) else {})

    def _plain(self, say: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
        return {key: say(value) if isinstance(value, Config) else value for key, value in self.request.items()}

    def _changed(self, known: dict[str, Any]) -> list[str]:
        """Return the settings that differ from a plan or manifest, as ``key old -> new``."""
        made, telling, lines = known["request"], known.get("identity", {}), list[str]()
        for key, asked in self.request.items():
            if isinstance(asked, Config):
                lines += asked.unlike(made.get(key), key) + asked.gone(telling.get(key), key)
            elif key != FEED:
                lines += differences(pruned(made.get(key), asked), asked, key)
            elif made.get(key, asked) != asked:
                name = "data.window_images" if "window" in made[key] + asked else "data.resident"
                lines.append(f"{name}: real images were {made[key]} and are now {asked}")
        return lines

    def _stale(self, known: dict[str, Any]) -> list[str]:
        """Return the inputs that differ from those in a plan or manifest."""
        parents = known.get("parents", {})
        return [
            name
            for name, identity in (dict.fromkeys(_ALSO_WITHOUT & parents.keys()) | self.parents).items()
            if parents.get(name) != identity and (name in parents or name != SOURCE)
        ]

    def finish(
        self, result: dict[str, Any], elapsed: Elapsed | float, device: str, files: Iterable[Path] = ()
    ) -> dict[str, Any]:
        """Write the manifest; the first process calls this once, when every file of the stage is written.

        If a manifest with these results is there already, it stays, with its time and versions: nothing was made anew.
        ``elapsed`` may be wall seconds only, when processor seconds were not measured. The manifest lists the hashes of
        ``files``: they are checked when opened, and made again when missing.
        """
        took = elapsed if isinstance(elapsed, Elapsed) else Elapsed(elapsed, None)
        manifest = {
            **self._asked(),
            "result": result,
            "files": {name: entry.plain() for name, entry in sealed.entries(self.path, files).items()},
            "device_seconds": took.plain()["seconds"],  # on the wall clock, of all processes together
            "processor_seconds": took.plain()["processor_seconds"],
            "device": device,
            "processes": ranks.world_size(),
            "versions": versions(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        known = None
        with contextlib.suppress(AttarError):  # a damaged one is written anew
            known = _read(self.path / MANIFEST)
        if known is not None and _result(known) == _result(manifest):
            manifest = known
        else:
            sealed.write_json(self.path / MANIFEST, manifest)
        atomic.remove(self.path / PLAN)
        return manifest

    def _has_results(self) -> bool:
        """Return whether the folder has results; a plan without results may be replaced."""
        kept = (path for path in self.path.rglob("*") if path.name != PLAN and path.suffix not in (".jsonl", ".tmp"))
        return any(path.is_file() for path in kept)


def _result(manifest: Mapping[str, Any]) -> Any:
    """Return what a manifest says of the result, as JSON: not when, where and with which versions it was made."""
    kept = {key: value for key, value in manifest.items() if key not in _OF_THE_MAKING}
    return json.loads(json.dumps(kept))


def manifest_of(folder: Path, made_by: str) -> dict[str, Any]:
    """Return the manifest of a finished stage; raises AttarError when it is unfinished or of another stage."""
    manifest = _read(folder / MANIFEST)
    if manifest is None:
        raise AttarError(f"{folder} is not finished; run 'attar {made_by}' (or 'attar run') with the same --out first.")
    if (made_by != "run" and manifest.get("stage") != made_by) or not isinstance(manifest.get("result"), dict):
        raise AttarError(
            f"{folder / MANIFEST} is not a manifest of {made_by}; delete the folder {folder} to make it again."
        )
    return manifest


def listed(manifest: dict[str, Any], folder: Path) -> dict[str, sealed.SealedFile]:
    """Return the files that a manifest lists, by path in its folder; none in manifests of older versions."""
    return sealed.read_entries(manifest.get("files", {}), folder / MANIFEST)


def identity_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the identifying settings of finished work; for older versions the whole request."""
    return manifest.get("identity", manifest["request"])


def recorded_parents(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return those of the named inputs that a stage's manifest or plan records; none for a damaged one."""
    for name in (MANIFEST, PLAN):
        with contextlib.suppress(AttarError):  # the stage itself raises it
            parents = (_read(folder / name) or {}).get("parents")
            if isinstance(parents, dict):
                return {key: parents[key] for key in names if key in parents}
    return {}


def precision_of(folder: Path) -> Precision | None:
    """Return the precision recorded in a stage's folder; None when it records none.

    Returns None for an unreadable folder, too; the stage itself raises the error.
    """
    for name in (MANIFEST, PLAN):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((folder / name).read_text())["request"]["precision"]
            if found in DTYPES:
                return found
    return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change results."""
    found = {"python": platform.python_version(), "torch": torch.__version__}  # with its build, as in 2.15.0+cu130
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def logged(folder: Path, event: str) -> Elapsed:
    """Sum the time of all events of this name in the logs of all processes; each ``name`` counts once."""
    found: dict[str, tuple[float, float | None]] = {}
    for path in sorted(folder.glob("log*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill, or damaged
                entry = json.loads(line)
                if entry["event"] == event:
                    processor = entry.get("processor_seconds")
                    found[entry["name"]] = float(entry["seconds"]), None if processor is None else float(processor)
    return total(Elapsed(*values) for values in found.values())


def total(parts: Iterable[Elapsed]) -> Elapsed:
    """Return the sum; processor seconds are None unless all parts have them."""
    known = list(parts)
    processor = [part.processor_seconds for part in known if part.processor_seconds is not None]
    return Elapsed(sum(part.seconds for part in known), sum(processor) if len(processor) == len(known) else None)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = sealed.read_json(path, f"delete the folder {path.parent} to make it again")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if isinstance(made := found.get("format", FORMAT), int) and made > FORMAT:
        raise AttarError(
            f"{path} was written by a newer attar (format {made}, and this one reads {FORMAT}); update attar."
        )
    if not isinstance(found.get("request"), dict):
        raise AttarError(f"{path} is damaged ('request' is missing); delete the folder {path.parent} to make it again.")
    return _upgraded(found)


def _upgraded(found: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest or plan of recover with today's name of the method of imported images, formerly 'given'."""
    if found.get("stage") != "recover":
        return found
    parts = {name: part for name in ("request", "identity", "result") if isinstance(part := found.get(name), dict)}
    renamed = {name: {**part, "method": "imported"} for name, part in parts.items() if part.get("method") == "given"}
    return {**found, **renamed}
