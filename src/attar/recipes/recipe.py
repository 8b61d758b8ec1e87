"""A recipe: every choice of a run in one frozen model, the same in Python, in a YAML file and on the command line."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import pydantic
import yaml

from attar.core import plugin, raw_yaml
from attar.core.config import NO_EFFECT, Config, explain
from attar.core.errors import AttarError
from attar.core.execution import Execution
from attar.core.printable import printable
from attar.data.choice import DataChoice
from attar.recipes.published import Published
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
    budget_bytes: Annotated[int, pydantic.Field(ge=0), NO_EFFECT] = 0
    """Bytes that images and labels may take together, so that a set that would outgrow them brings a warning; 0: no
    limit. With pictures in place of a recipe, --budget sets it."""
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
        """Return the same recipe with another method and that method's defaults.

        Settings in ``recover`` that the user set in a file, on the command line or in Python are kept if the other
        method has a setting of that name. A built-in recipe keeps the number, storage and units of images, and its
        settings for the data. A dotted path may be in the working folder.
        """
        try:
            return self.with_method_and(method, {})
        except pydantic.ValidationError as error:
            raise AttarError(
                explain(error, f"The recipe's settings do not fit the method '{method}'", Config)
            ) from None

    def with_method_and(self, method: str, settings: Mapping[str, Any]) -> "Recipe[Any]":
        """Do as ``with_method``, with these plain values in ``recover``; raises ValidationError when they do not fit."""
        if method == self.method:
            return self
        if "." in method:
            plugin.reach_working_folder()
        config = method_named(method).Config
        set_before = self.recover.model_fields_set & config.model_fields.keys()
        kept = {name: getattr(self.recover, name) for name in set_before if name not in settings}
        return recipe(method=method, recover=config(**kept, **settings), **self._others("method", "recover"))

    def with_protocol(self, name: str) -> "Recipe[M]":
        """Return the recipe with another built-in protocol: its training options and its label options."""
        section = labels_named(name).section()
        section["pool_epochs"] = min(self.relabel.pool_epochs, section["epochs"])
        relabel = Relabel.of(_merged(self.relabel.plain(), section), f"The protocol {name}")
        return self.changed(evaluate=self.evaluate.changed(protocol=name), relabel=relabel)

    def _others(self, *without: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name not in without}

    def to_yaml(self, header: str = "") -> str:
        """Return the recipe as a file with all defaults written out, under ``header`` as a comment.

        Of each member of the committee only the settings that differ from squeeze's own are written.
        """
        comment = "".join(f"# {line}".rstrip() + "\n" for line in map(printable, header.strip().splitlines()))
        values = self.plain()
        members = [member.model_dump(mode="json", exclude_defaults=True) for member in self.squeeze.members]
        values["squeeze"]["members"] = members
        return comment + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested dictionaries; values of ``above`` override."""
    both = {key for key in above if isinstance(above[key], Mapping) and isinstance(below.get(key), Mapping)}
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in both}}


def _with_protocols_labels(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recipe's values; a protocol given by name sets the label options that the values do not set."""
    judging, labelling = values.get("evaluate"), values.get("relabel", {})
    name = judging.get("protocol") if isinstance(judging, Mapping) else None
    if not isinstance(name, str) or not isinstance(labelling, Mapping):
        return values
    return {**values, "relabel": relabel_section(name, labelling)}


def relabel_section(protocol: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``relabel`` as plain values: label options of the named protocol, overridden by the recipe's ``own``."""
    return _merged(labels_named(protocol).section(), own)


@dataclass(frozen=True)
class BuiltInRecipe:
    """A built-in recipe."""

    published: Published
    """The published figures that the recipe aims at, or a note that there are none."""
    cost: str
    """Duration, device, and source of the estimate."""
    build: Callable[[], Recipe[Any]]

    @property
    def aim(self) -> str:
        """The published figures in words."""
        return str(self.published)

    def header(self, name: str) -> str:
        """Notes to read before running it."""
        return f"{name}\nattar run {name} --out runs/{name.replace('/', '-')}\nAims at: {self.aim}\nCost: {self.cost}"


def recipe_type(method: str) -> type[Recipe[Any]]:
    """Return the recipe model whose ``recover`` has this method's settings."""
    return _with_settings(method_named(method).Config)


@functools.cache
def _with_settings(settings: type[Any]) -> type[Recipe[Any]]:
    """Return a model that is made once; pydantic forgets it, and makes it again, when no recipe of it is left."""
    return Recipe[settings]


def recipe(**choices: Any) -> Recipe[Any]:
    """Build a recipe from models or plain values; the method decides which settings ``recover`` may have.

    A protocol chosen by name in ``evaluate`` also sets the label options that ``relabel`` does not set.
    """
    return recipe_type(choices.get("method", "cda"))(**_with_protocols_labels(choices))


def from_mapping(values: Mapping[str, Any], where: str) -> Recipe[Any]:
    """Build a recipe from plain values; raises AttarError with ``where`` and the first error."""
    method = values.get("method", "cda")
    if not isinstance(method, str):
        raise AttarError(f"{where}: method must be a name (see 'attar list methods'), not {method!r}.")
    return recipe_type(method).of(_with_protocols_labels({"recover": {}, **values}), where)


def from_yaml(path: Path) -> Recipe[Any]:
    """Read a recipe file; raises AttarError with the path and the error."""
    try:
        return from_text(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise _invalid(path, error) from None
    except OSError as error:
        raise AttarError(f"{path} cannot be read ({error.strerror}).") from None


def _invalid(path: Path, error: Exception) -> AttarError:
    return AttarError(f"{path} is not valid YAML ({' '.join(str(error).split())}); fix it.")


def from_text(text: str, path: Path) -> Recipe[Any]:
    """Read a recipe from the text of the file at ``path``, which errors mention; raises AttarError."""
    try:
        values = raw_yaml.load(text)
    except yaml.YAMLError as error:
        raise _invalid(path, error) from None
    if not isinstance(values, dict):
        raise AttarError(f"{path} holds no recipe; start from 'attar show digits > {path.name}'.")
    method = raw_yaml.convert(values.get("method", "cda"), str)
    if not isinstance(method, str):
        return from_mapping(raw_yaml.plain(values), str(path))
    if "." in method:
        plugin.reach_working_folder()
    return from_mapping(raw_yaml.convert(values, recipe_type(method)), str(path))
