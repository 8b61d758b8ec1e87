"""A stage's folder: what was asked (plan.json, first), what came out (manifest.json, last), and when to refuse."""

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
from attar.core.errors import AttarError
from attar.core.precision import DTYPES, Precision
from attar.core.spent import Spent
from attar.store import sealed

PLAN, MANIFEST = "plan.json", "manifest.json"
FORMAT = 1
"""Of manifests and plans; those without one are of this format, too."""
SOURCE = "source code"
"""The parent that stands for a file of code outside attar; a folder that does not tell of one is taken as it is."""
FEED = "feed"
"""The part of a request that says how real images are read; a folder that does not tell is taken as it is."""
_PLAINLY = {
    "data": "other real data than those there are now",
    "teacher": "another teacher than the one there is now",
    "committee": "another committee of teachers than the one there is now",
    "images": "other images than those there are now",
    "labels": "other imported labels than those there are now",
    SOURCE: "an earlier state of your source code",
}
"""What a stage was made from, where one of its parents has changed."""
_ALSO_WITHOUT = {"committee"}
"""Parents whose absence now is a change too."""
_PACKAGES = ("attar", "torchvision", "timm", "numpy", "pillow", "pyarrow", "safetensors")


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage of one run. All processes of a run must call its methods alike."""

    path: Path
    stage: str
    request: Mapping[str, Any]
    """Everything that can alter the result: configurations, and plain values."""
    parents: dict[str, str]
    """Identities (content hashes) of what the stage starts from."""
    warn: Callable[[str], object] = lambda _: None
    """Told what is made again because it is missing or damaged."""
    expected: Callable[[], Iterable[Path]] = tuple
    """Files that must be there, for manifests that list none; may raise AttarError."""
    again: bool = True
    """Whether what is missing or damaged is made again; else it is refused."""

    def finished(self) -> dict[str, Any] | None:
        """The manifest, when this very work is done already; None when it is to be done or continued.

        Work of which files are missing or damaged is to be continued. Raises AttarError when the folder holds other
        work: it is neither reused nor overwritten.
        """
        # In this order, for in a folder that runs share another one may be at work: plan, results, manifest, no plan.
        has_results, plan, manifest = self._has_results(), _read(self.path / PLAN), _read(self.path / MANIFEST)
        faults = [] if manifest is None else self._faults(manifest)
        ranks.wait()  # everyone has looked before anyone writes
        known = manifest or (plan if has_results else None)
        if known is None:
            if has_results:
                raise AttarError(
                    f"{self.path} holds results, and neither {PLAN} nor {MANIFEST} says of what; choose another --out, "
                    f"or delete that folder to make it anew."
                )
            return None
        if changed := self._changed(known):
            more = f"; and {len(changed) - 4} more" * (len(changed) > 4)
            raise AttarError(
                f"{self.path} was made with other settings ({'; '.join(changed[:4])}{more}); set them back, choose "
                f"another --out, or delete that folder to make it anew."
            )
        if stale := self._stale(known):
            raise AttarError(
                f"{self.path} was made from {_PLAINLY.get(stale[0], f'another {stale[0]}')}; "
                f"choose another --out, or delete that folder to make it anew."
            )
        if faults and not self.again:
            raise AttarError(
                f"{faults[0]}; copy it there again, or delete the folder {self.path} and run the same command again, "
                f"which makes it anew."
            )
        for fault in faults[:1]:
            more = f", and so are {len(faults) - 1} more" * (len(faults) > 1)
            self.warn(f"{fault}{more}; the stage goes on and makes it again")
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
        """A hash that files of this work carry. Work that goes on keeps the one that it was begun under.

        An earlier attar did not write it down: it was the hash of all that its plan says.
        """
        known = None
        with contextlib.suppress(AttarError):  # a damaged one is refused by ``finished``, and evaluate writes it anew
            known = _read(self.path / PLAN) or _read(self.path / MANIFEST)
        if known is None or self._changed(known) or self._stale(known):
            return digest([self.stage, self._plain(lambda one: one.identity()), self.parents])
        return known.get("made_for") or digest([known.get("stage"), known["request"], known.get("parents", {})])

    def begin(self) -> None:
        """Write down what will be made here, so that a later run can tell whether to continue it."""
        if ranks.is_first():
            sealed.write_json(self.path / PLAN, self._asked())
        ranks.wait()

    def _asked(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "stage": self.stage,
            "request": self._plain(lambda one: one.recorded()),  # every setting with its value
            "identity": self._plain(lambda one: one.identity()),  # those that are not at their default
            "parents": self.parents,
            "made_for": self.identity,
        }

    def _plain(self, say: Callable[[Config], dict[str, Any]]) -> dict[str, Any]:
        return {key: say(value) if isinstance(value, Config) else value for key, value in self.request.items()}

    def _changed(self, known: dict[str, Any]) -> list[str]:
        """The settings in which a plan or manifest differs from this work, ``key old -> new`` each."""
        made, telling, lines = known["request"], known.get("identity", {}), list[str]()
        for key, asked in self.request.items():
            if isinstance(asked, Config):
                lines += asked.unlike(made.get(key), key) + asked.gone(telling.get(key), key)
            elif key != FEED:
                lines += differences(pruned(made.get(key), asked), asked, key)
            elif made.get(key, asked) != asked:
                lines.append(f"data.resident: real images were {made[key]} and are now {asked}")
        return lines

    def _stale(self, known: dict[str, Any]) -> list[str]:
        """What this work starts from that a plan or manifest tells otherwise."""
        parents = known.get("parents", {})
        return [
            name
            for name, identity in (dict.fromkeys(_ALSO_WITHOUT & parents.keys()) | self.parents).items()
            if parents.get(name) != identity and (name in parents or name != SOURCE)
        ]

    def finish(
        self, result: dict[str, Any], spent: Spent | float, device: str, files: Iterable[Path] = ()
    ) -> dict[str, Any]:
        """Write the manifest; called once, by the first process, when every file of the stage is in place.

        ``spent`` may be wall seconds alone, where those of the processor were not measured. ``files`` are those whose
        hashes it lists: they are checked when they are opened, and made again when missing.
        """
        took = spent if isinstance(spent, Spent) else Spent(spent, None)
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
        sealed.write_json(self.path / MANIFEST, manifest)
        (self.path / PLAN).unlink(missing_ok=True)
        return manifest

    def _has_results(self) -> bool:
        """Whether anything was made under the plan: a plan alone binds nobody."""
        kept = (path for path in self.path.rglob("*") if path.name != PLAN and path.suffix not in (".jsonl", ".tmp"))
        return any(path.is_file() for path in kept)


def manifest_of(folder: Path, made_by: str) -> dict[str, Any]:
    """The manifest of a finished stage; raises AttarError when it is not finished, or that of another stage."""
    manifest = _read(folder / MANIFEST)
    if manifest is None:
        raise AttarError(f"{folder} is not finished; run 'attar {made_by}' (or 'attar run') with the same --out first.")
    if (made_by != "run" and manifest.get("stage") != made_by) or not isinstance(manifest.get("result"), dict):
        raise AttarError(
            f"{folder / MANIFEST} is no manifest of {made_by}; delete the folder {folder} to make it anew."
        )
    return manifest


def listed(manifest: dict[str, Any], folder: Path) -> dict[str, sealed.SealedFile]:
    """The files that a manifest lists, by their path in its folder; none where an older attar wrote it."""
    return sealed.read_entries(manifest.get("files", {}), folder / MANIFEST)


def identity_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """What identifies finished work, as plain values; of an earlier attar's all that was asked."""
    return manifest.get("identity", manifest["request"])


def precision_of(folder: Path) -> Precision | None:
    """The precision that this stage's folder was made or begun in; None where it does not say.

    A folder that cannot be read says nothing here: its stage refuses it by name.
    """
    for name in (MANIFEST, PLAN):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((folder / name).read_text())["request"]["precision"]
            if found in DTYPES:
                return found
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can alter results."""
    found = {"python": platform.python_version(), "torch": torch.__version__}  # with its build, as in 2.15.0+cu130
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def logged(folder: Path, event: str) -> Spent:
    """Sum over all events of this name in the logs of all processes, each ``name`` counted once."""
    found: dict[str, tuple[float, float | None]] = {}
    for path in sorted(folder.glob("log*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut off by a kill, or damaged
                entry = json.loads(line)
                if entry["event"] == event:
                    processor = entry.get("processor_seconds")
                    found[entry["name"]] = float(entry["seconds"]), None if processor is None else float(processor)
    return total(Spent(*values) for values in found.values())


def total(parts: Iterable[Spent]) -> Spent:
    """The sum of several; processor seconds are known when they are known of all."""
    known = list(parts)
    processor = [part.processor_seconds for part in known if part.processor_seconds is not None]
    return Spent(sum(part.seconds for part in known), sum(processor) if len(processor) == len(known) else None)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = sealed.read_json(path, f"delete the folder {path.parent} to make it anew")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if isinstance(made := found.get("format", FORMAT), int) and made > FORMAT:
        raise AttarError(
            f"{path} was written by a newer attar (format {made}, and this one reads {FORMAT}); update attar."
        )
    if not isinstance(found.get("request"), dict):
        raise AttarError(f"{path} is damaged (it lacks 'request'); delete the folder {path.parent} to make it anew.")
    return found
