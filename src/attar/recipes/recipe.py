"""A recipe: every choice of a run in one frozen model, the same in Python, in a YAML file and on the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pydantic
import yaml

from attar.core import plugin, written
from attar.core.config import Config
from attar.core.errors import AttarError
from attar.core.execution import Execution
from attar.core.printable import printable
from attar.data.choice import DataChoice
from attar.stages.choices import Evaluate, Relabel, Squeeze
from attar.stages.methods import method_named
from attar.stages.protocols import labels_named
from attar.synthesis.method import MethodConfig

M = TypeVar("M", bound=MethodConfig)


class Recipe(Config, Generic[M]):
    """All settings of a run. The recipe's header names the published result that it aims at."""

    name: str = "unnamed"
    """Name of the run in tables."""
    method: str = "cda"
    """Method that makes the images: a name from 'attar list methods', or a dotted path to a module."""
    images: str = ""
    """Import these images instead of recovering them: a folder (one sub-folder per class, as SRe2L, CDA and RDED write
    them, or Parquet files), or hf:ORG/NAME; empty: recover images."""
    seed: int = pydantic.Field(default=0, ge=0)
    """Seed of every random stream of the run."""
    data: DataChoice = DataChoice()
    """Real data."""
    squeeze: Squeeze = Squeeze()
    """Teachers: train or import them."""
    recover: M
    """Settings of the method."""
    relabel: Relabel = Relabel()
    """Soft labels."""
    evaluate: Evaluate = Evaluate()
    """Students and protocol that measure the result."""
    execution: Execution = Execution()
    """Device, precision and threads."""

    def with_method(self, method: str) -> "Recipe[Any]":
        """The same recipe with another method, which takes that method's defaults.

        Of ``recover`` what you said yourself is kept, in a file, on the command line or in Python, where the other
        method has a setting of that name. Of a built-in recipe the number, storage and units of images are kept, and
        what it says because of its data. A dotted path may lie in the working folder.
        """
        if method == self.method:
            return self
        if "." in method:
            plugin.reach_working_folder()
        config = method_named(method).Config
        said = self.recover.model_fields_set & config.model_fields.keys()
        kept = {name: getattr(self.recover, name) for name in said}
        return recipe(method=method, recover=config(**kept), **self._others("method", "recover"))

    def with_protocol(self, name: str) -> "Recipe[M]":
        """The same recipe with both halves of another built-in protocol: its training and its label options."""
        section = labels_named(name).section()
        section["pool_epochs"] = min(self.relabel.pool_epochs, section["epochs"])
        relabel = Relabel.of(_merged(self.relabel.plain(), section), f"The protocol {name}")
        return self.changed(evaluate=self.evaluate.changed(protocol=name), relabel=relabel)

    def _others(self, *without: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name not in without}

    def to_yaml(self, header: str = "") -> str:
        """The recipe as a file, every default written out, under ``header`` as a comment."""
        comment = "".join(f"# {line}".rstrip() + "\n" for line in map(printable, header.strip().splitlines()))
        return comment + yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True, width=120)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested dictionaries as one; where both have a value, that of ``above``."""
    both = {key for key in above if isinstance(above[key], Mapping) and isinstance(below.get(key), Mapping)}
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in both}}


def _with_protocols_labels(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe's values; where they name a protocol, it sets those label options that they do not set."""
    judging, labelling = values.get("evaluate"), values.get("relabel", {})
    name = judging.get("protocol") if isinstance(judging, Mapping) else None
    if not isinstance(name, str) or not isinstance(labelling, Mapping):
        return values
    return {**values, "relabel": relabel_section(name, labelling)}


def relabel_section(protocol: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``relabel`` as plain values: label options of the named protocol, overridden by the recipe's ``own``."""
    return _merged(labels_named(protocol).section(), own)


@dataclass(frozen=True)
class Entry:
    """A built-in recipe."""

    aim: str
    """The published row that it aims at, or that there is none."""
    cost: str
    """What it takes, on which device, and who says so."""
    build: Callable[[], Recipe[Any]]

    def header(self, name: str) -> str:
        """What a reader should know before running it."""
        return f"{name}\nattar run {name} --out runs/{name.replace('/', '-')}\nAims at: {self.aim}\nCost: {self.cost}"


def recipe_type(method: str) -> type[Recipe[Any]]:
    """The recipe model whose ``recover`` holds this method's choices."""
    return Recipe[method_named(method).Config]


def recipe(**choices: Any) -> Recipe[Any]:
    """Build a recipe from models or plain values; the method decides what ``recover`` may hold.

    A protocol that ``evaluate`` names sets the label options that ``relabel`` does not set.
    """
    return recipe_type(choices.get("method", "cda"))(**_with_protocols_labels(choices))


def from_mapping(values: Mapping[str, Any], where: str) -> Recipe[Any]:
    """Build a recipe from plain values; raises AttarError naming ``where`` and the first thing wrong."""
    method = values.get("method", "cda")
    if not isinstance(method, str):
        raise AttarError(f"{where}: method must be a name (see 'attar list methods'), not {method!r}.")
    return recipe_type(method).of(_with_protocols_labels({"recover": {}, **values}), where)


def from_yaml(path: Path) -> Recipe[Any]:
    """Read a recipe file; raises AttarError with the path and what is wrong with it."""
    try:
        values = written.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AttarError(f"{path} is not valid YAML ({' '.join(str(error).split())}); mend it.") from None
    except OSError as error:
        raise AttarError(f"{path} cannot be read ({error.strerror}).") from None
    if not isinstance(values, dict):
        raise AttarError(f"{path} holds no recipe; start from 'attar show digits > {path.name}'.")
    method = written.fitting(values.get("method", "cda"), str)
    if not isinstance(method, str):
        return from_mapping(written.plain(values), str(path))
    if "." in method:
        plugin.reach_working_folder()
    return from_mapping(written.fitting(values, recipe_type(method)), str(path))
