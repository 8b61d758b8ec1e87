"""Own networks: classes and functions outside attar, named as 'package.module:name' by the user."""

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
"""What the name of a network starts with that was given from Python as a module; only its class is known."""
WANTED = "(num_classes, image_size)"
"""The signature that is asked for; see ``call`` for those that are understood."""
_NUM_CLASSES = ("num_classes", "n_classes", "nb_classes", "n_class", "nclass", "num_class", "num_labels", "num_outputs")
_IMAGE_SIZE = ("image_size", "img_size", "input_size", "im_size", "resolution", "size", "side", "pixels")
_CHANNELS = ("in_channels", "in_chans", "num_channels", "input_channels", "channels")
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call(path: str, num_classes: int, image_size: int) -> nn.Module:
    """The network that 'package.module:name' makes; the module may lie in the working folder.

    Arguments are given by their names: the number of classes (``num_classes``, ``n_classes``, ``num_labels``, ...),
    the images' side in pixels (``image_size``, ``img_size``, ``input_size``, ...), 3 channels (``in_channels``,
    ``in_chans``, ...). What has a default need not be there. Raises AttarError when there is no such name, it needs
    other arguments, fails, or makes no network.
    """
    if path.startswith(PYTHON):
        raise not_given(path)
    factory = _found(path)
    positional, named = _arguments(factory, path, num_classes, image_size)
    try:
        module = factory(*positional, **named)
    except Exception as error:  # whatever code outside raises
        raise AttarError(f"{path} fails {_where(error)}; mend it there.") from error
    if not isinstance(module, nn.Module):
        raise AttarError(f"{path} returned a {type(module).__name__}; it must return a torch.nn.Module.")
    return module


def not_given(path: str) -> AttarError:
    """The error for a recipe whose network was given from Python, where it is not given again."""
    return AttarError(
        f"The network of this recipe was given from Python ({path.removeprefix(PYTHON)}); pass it again, "
        "attar.run(recipe, out, teacher=module), or name another."
    )


def _found(path: str) -> Callable[..., Any]:
    name, _, attribute = path.partition(":")
    plugin.reach_working_folder()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise AttarError(f"{path} cannot be imported, {_where(error)}; install that, or mend it.") from error
        raise AttarError(
            f"There is no module '{name}' for the network {path}; start attar in its folder, or add that to PYTHONPATH."
        ) from None
    except Exception as error:  # whatever code outside raises
        raise AttarError(f"{path} cannot be imported: it fails {_where(error)}; mend it there.") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        near = difflib.get_close_matches(attribute, [key for key in vars(module) if not key.startswith("_")], n=1)
        mend = f"did you mean {near[0]}?" if near else "check the name."
        raise AttarError(f"The module '{name}' has no function '{attribute}' for the network {path}; {mend}")
    return found


def _arguments(
    factory: Callable[..., Any], path: str, num_classes: int, image_size: int
) -> tuple[tuple[int, ...], dict[str, int]]:
    """What to call it with, by position and by name."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # made outside Python
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
            f"{path} takes ({', '.join(parameters)}), and attar does not know what to give for '{needed[0]}'; "
            f"write it with the arguments {WANTED}, or give '{needed[0]}' a default."
        )
    kinds = {parameter.kind for parameter in parameters.values()}
    if not named and inspect.Parameter.VAR_POSITIONAL in kinds:
        return (num_classes, image_size), {}
    if inspect.Parameter.VAR_KEYWORD in kinds and not any(name in parameters for name in _NUM_CLASSES):
        named["num_classes"] = num_classes
    return (), named


def _where(error: BaseException) -> str:
    """Where outside code failed, and why, as 'in nets.py, line 12 (TypeError: ...)'."""
    reason = f"({type(error).__name__}: {first_line(error)})"
    if isinstance(error, SyntaxError) and error.filename:
        return f"in {Path(error.filename).name}, line {error.lineno} ({type(error).__name__}: {error.msg})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(frame.filename)]
    return f"in {Path(frames[-1].filename).name}, line {frames[-1].lineno} {reason}" if frames else reason


def _is_outside(file: str) -> bool:
    """Whether a file is the user's: not attar's, nor an installed package's, nor Python's own."""
    inside = (str(Path(__file__).parents[1]), str(Path(inspect.__file__).parent), "<frozen", "site-packages")
    return not any(part in file for part in inside)
