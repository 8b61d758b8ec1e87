"""Checkpoints from elsewhere: other people's files read without running what is in them, and fitted to a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models import record
from attar.store import pickles
from attar.store.weights import load_weights

_LAYOUTS = ("state_dict", "model", "model_state_dict", "net")
"""Where trainers keep the weights: timm, torchvision's reference, and what tutorials use."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and wrapper classes put before every key."""


class _Inert:
    """Takes the place of harmless objects that trainers save beside the weights; their content isn't needed."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_HARMLESS = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.WindowsPath",
)
_CHECKPOINT = pickles.Kind(
    missing="There is no checkpoint {path}; check the path.",
    code="{path} holds '{name}', which is code and not weights, and was not run; where you trust it, save its state "
    "dict alone and give that file.",
    damaged="{path} is not a whole PyTorch checkpoint ({reason}); copy or download it again.",
    not_readable="not PyTorch's format",
)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """The weights in a .safetensors file or a PyTorch checkpoint, and the class names where the file has them.

    Understands plain state dicts and those of the common trainers; prefixes of wrappers are removed. Nothing in the
    file is run: raises AttarError on a file that asks for it, and on one that is damaged or of an unknown layout.
    """
    if path.is_dir():
        raise AttarError(f"{path} is a folder; give the checkpoint file in it.")
    if path.suffix == ".safetensors":
        state, _ = load_weights(path)
        teacher = record.of_weights(path)
        return _unwrapped(state), None if teacher is None else teacher.outputs or teacher.classes
    content = pickles.read(path, _CHECKPOINT, [(_Inert, name) for name in _HARMLESS])
    return _unwrapped(_weights_in(content, path)), _classes_in(content)


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a network that must have exactly these; ``path`` is where they are from.

    Raises AttarError on the first weight that is missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    prefix = _shared_prefix(list(expected))
    given = {prefix + key: value for key, value in _unwrapped(state_dict).items()}
    network = type(module).__name__
    for key in expected:
        if key not in given:
            raise AttarError(f"{path} lacks the weight '{key}' of {network}; is it a checkpoint of another network?")
    for key in given:
        if key not in expected:
            raise AttarError(f"{path} has the weight '{key}', which {network} has not; is it of another network?")
    misshaped = {
        key: (tuple(given[key].shape), tuple(expected[key].shape))
        for key in expected
        if given[key].shape != expected[key].shape
    }
    if misshaped:
        raise AttarError(_shape_sentence(misshaped, network, path))
    module.load_state_dict(given)


def _shape_sentence(misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], network: str, path: Path) -> str:
    key, (has, wants) = next(iter(misshaped.items()))
    outputs = {(has[:1], wants[:1]) for has, wants in misshaped.values()}
    only_outputs = all(has[1:] == wants[1:] for has, wants in misshaped.values())
    if len(outputs) == 1 and only_outputs and has and wants:
        return (
            f"{path} does not fit: the checkpoint has {has[0]} classes, the data {wants[0]}; "
            "give a checkpoint of these classes."
        )
    if len(has) == len(wants) == 4 and has[:2] == wants[:2]:
        return (
            f"{path} has a {has[2]}x{has[3]} convolution '{key}' where {network} has {wants[2]}x{wants[3]}; "
            "choose the other stem with --squeeze.stem."
        )
    return f"{path} has '{key}' of shape {list(has)} where {network} has {list(wants)}; is it of another network?"


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict, at the top or under the keys of known layouts."""
    found = content
    for _ in range(len(_LAYOUTS)):  # nesting deeper than that is no trainer's; a crafted file might nest in itself
        if not isinstance(found, Mapping):
            break
        if found and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
            return dict(found)
        found = next((found[key] for key in _LAYOUTS if isinstance(found.get(key), Mapping)), None)
    if isinstance(content, Mapping):
        what = f"the keys {', '.join(str(key) for key in list(content)[:5])}" if content else "nothing"
    else:
        what = f"a {type(content).__name__}"
    raise AttarError(f"{path} holds no weights that attar recognises but {what}; save a plain state dict.")


def _classes_in(content: Any) -> tuple[str, ...] | None:
    """Class names under 'classes', as a list in the order of the logits."""
    classes = content.get("classes")
    if isinstance(classes, list | tuple) and classes and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = _shared_prefix(list(state))
    return {key[len(prefix) :]: value for key, value in state.items()}


def _shared_prefix(keys: list[str]) -> str:
    """The wrappers' prefixes that all keys have, in whatever order they were put on."""
    prefix = ""
    while keys:
        found = next((part for part in _PREFIXES if all(key.startswith(prefix + part) for key in keys)), None)
        if found is None:
            break
        prefix += found
    return prefix
