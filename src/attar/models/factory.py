"""Build the user's own networks: classes and functions outside attar, named as 'package.module:name'."""

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from attar.core import plugin
from attar.core.errors import AttarError, first_line

PYTHON = "python:"
"""Prefix of the name of a network that was passed from Python as a module; the rest is its class."""
WANTED = "(num_classes, image_size)"
"""The signature that errors recommend; ``call`` accepts others, too."""
_NUM_CLASSES = ("num_classes", "n_classes", "nb_classes", "n_class", "nclass", "num_class", "num_labels", "num_outputs")
_IMAGE_SIZE = ("image_size", "img_size", "input_size", "im_size", "resolution", "size", "side", "pixels")
_CHANNELS = ("in_channels", "in_chans", "num_channels", "input_channels", "channels")
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call(path: str, num_classes: int, image_size: int) -> nn.Module:
    """Call 'package.module:name' and return its network; the module may be in the working folder.

    Arguments are passed by name: the number of classes (``num_classes``, ``n_classes``, ``num_labels``, ...), the
    images' side in pixels (``image_size``, ``img_size``, ``input_size``, ...), and 3 channels (``in_channels``,
    ``in_chans``, ...). Other arguments must have defaults. Raises AttarError when the name does not exist, needs other
    arguments, fails, or returns no network.
    """
    if path.startswith(PYTHON):
        raise not_passed(path)
    factory = _found(path)
    positional, named = _arguments(factory, path, num_classes, image_size)
    try:
        module = factory(*positional, **named)
    except Exception as error:  # outside code may raise anything
        raise AttarError(f"{path} fails {_where(error)}; fix it there.") from error
    if not isinstance(module, nn.Module):
        raise AttarError(f"{path} returned a {type(module).__name__}; it must return a torch.nn.Module.")
    return module


def not_passed(path: str) -> AttarError:
    """Return the error for a recipe whose network was passed from Python before and is not passed now."""
    return AttarError(
        f"The network of this recipe was passed from Python ({path.removeprefix(PYTHON)}); pass it again with "
        "attar.run(recipe, out, teacher=module), or name another."
    )


def _found(path: str) -> Callable[..., Any]:
    name, _, attribute = path.partition(":")
    plugin.reach_working_folder()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise AttarError(
                f"{path} cannot be imported, {_where(error)}; install what is missing, or fix the import."
            ) from error
        raise AttarError(
            f"There is no module '{name}' for the network {path}; start attar in its folder, or add that to PYTHONPATH."
        ) from None
    except Exception as error:  # outside code may raise anything
        raise AttarError(f"{path} cannot be imported: it fails {_where(error)}; fix it there.") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        near = difflib.get_close_matches(attribute, [key for key in vars(module) if not key.startswith("_")], n=1)
        fix = f"did you mean {near[0]}?" if near else "check the name."
        raise AttarError(f"The module '{name}' has no function '{attribute}' for the network {path}; {fix}")
    return found


def _arguments(
    factory: Callable[..., Any], path: str, num_classes: int, image_size: int
) -> tuple[tuple[int, ...], dict[str, int]]:
    """Return the arguments for the factory, by position and by name."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # not a Python function
        return (num_classes, image_size), {}
    named: dict[str, int] = {}
    for known, value in ((_NUM_CLASSES, num_classes), (_IMAGE_SIZE, image_size), (_CHANNELS, 3)):
        if name := next((name for name in known if name in parameters), None):
            named[name] = value
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in _OPEN and parameter.name not in named
    ]
    if needed:
        raise AttarError(
            f"{path} takes ({', '.join(parameters)}), and attar has no value for '{needed[0]}'; use the arguments "
            f"{WANTED}, or give '{needed[0]}' a default."
        )
    kinds = {parameter.kind for parameter in parameters.values()}
    if not named and inspect.Parameter.VAR_POSITIONAL in kinds:
        return (num_classes, image_size), {}
    if inspect.Parameter.VAR_KEYWORD in kinds and not any(name in parameters for name in _NUM_CLASSES):
        named["num_classes"] = num_classes
    return (), named


def _where(error: BaseException) -> str:
    """Return where and why outside code failed, for example 'in nets.py, line 12 (TypeError: ...)'."""
    reason = f"({type(error).__name__}: {first_line(error)})"
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {Path(error.filename).name}, line {error.lineno} ({type(error).__name__}: {error.msg})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(frame.filename)]
    return f"in {Path(frames[-1].filename).name}, line {frames[-1].lineno} {reason}" if frames else reason


def _is_outside(file: str) -> bool:
    """Return whether a file is the user's, not attar's, an installed package's or Python's own."""
    inside = (str(Path(__file__).parents[1]), str(Path(inspect.__file__).parent), "<frozen", "site-packages")
    return not any(part in file for part in inside)
