"""Read other people's checkpoints without running code in them, and load them into a network."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models import class_names, compact, record
from attar.store import pickles
from attar.store.weights import load_weights

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Keys of averaged weights (timm, torchvision's reference and others); used only if there are no other weights."""
_LAYOUTS = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "model_state", *_AVERAGED)
"""Keys of the weights: of timm, Lightning, torchvision's reference and tutorials."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that DataParallel, torch.compile and wrapper classes add to every key."""
_COUNTER = "num_batches_tracked"
"""BatchNorm's counter: evaluation does not use it, and files from before PyTorch 0.4.1 do not have it."""
_UNUSED = (_COUNTER, "total_ops", "total_params", "n_averaged")
"""Last parts of keys that evaluation does not use: of BatchNorm, the thop profiler and AveragedModel."""
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads of GoogLeNet and Inception that are used only in training; attar builds these networks without them."""


class _Inert:
    """Stand-in for harmless objects that trainers save with the weights; their content is ignored."""

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
_MAPPINGS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""Lightning's mappings for settings; read as plain mappings."""
_STAND_INS = [*((_Inert, name) for name in _HARMLESS), *((OrderedDict, name) for name in _MAPPINGS)]
_CHECKPOINT = pickles.Kind(
    missing="There is no checkpoint {path}; check the path.",
    code="{path} contains '{name}', which is code and not weights; attar did not run it; if you trust the file, save "
    "only its state dict and use that file.",
    damaged="{path} is not a complete PyTorch checkpoint ({reason}); copy or download it again.",
    not_readable="not PyTorch's format",
)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Return the weights in a .safetensors file or a PyTorch checkpoint, and the class names if the file has them.

    Reads plain state dicts and the layouts of common trainers; removes the prefixes of wrappers. Never runs code in the
    file: raises AttarError if the file refers to code, is damaged, or has an unknown layout.
    """
    if path.is_dir():
        raise AttarError(f"{path} is a folder; name the checkpoint file in it.")
    if path.suffix == ".safetensors":
        state, metadata = load_weights(path)
        state = compact.decoded(state, metadata.get(compact.KEY, "fp32"), path)
        teacher = record.of_weights(path)
        return _unwrapped(state), None if teacher is None else teacher.outputs or teacher.classes
    content = pickles.read(path, _CHECKPOINT, _STAND_INS)
    return _unwrapped(_weights_in(content, path)), class_names.in_content(content)


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], path: Path, whose: str = "the data") -> None:
    """Load weights into a network that must have exactly these weights; ``path`` is their file, for errors.

    ``whose`` says where the number of classes comes from, for the error if the checkpoint has another number.
    BatchNorm's counters may be missing; auxiliary heads and profilers' counters are ignored. Raises AttarError on the
    first weight that is missing, unexpected, of another shape, or not finite.
    """
    expected = module.state_dict()
    network = type(module).__name__
    given = _fitted(state_dict, list(expected), path)
    for key in expected:
        if key not in given and _last(key) != _COUNTER:
            raise AttarError(f"{path} has no weight '{key}', which {network} needs; is it of another network?")
    for key in given:
        if key not in expected:
            raise AttarError(f"{path} has the weight '{key}', which {network} does not have; is it of another network?")
    misshaped = {
        key: (tuple(given[key].shape), tuple(expected[key].shape))
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    }
    if misshaped:
        raise AttarError(_shape_sentence(misshaped, network, path, whose))
    refuse_not_finite({key: given[key] for key in given if key in _numbers_of(module)}, str(path))
    module.load_state_dict(given, strict=False)  # what may be missing was decided above


def refuse_not_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise AttarError when a weight is NaN or infinite; ``where`` names their origin in the error."""
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise AttarError(
                f"{where} has NaN or infinite values in the weight '{key}', because its training diverged or the file "
                "is damaged; use an earlier checkpoint."
            )


def numbers_in(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network that must be finite: its parameters and BatchNorm's statistics."""
    state = module.state_dict()
    return {key: state[key] for key in state if key in _numbers_of(module)}


def _numbers_of(module: nn.Module) -> set[str]:
    """Return the keys of tensors that must be finite; other buffers, such as attention masks, may be infinite."""
    named = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    return named | {key for key in module.state_dict() if _last(key) in ("running_mean", "running_var")}


def _fitted(state_dict: Mapping[str, Tensor], expected: list[str], path: Path) -> dict[str, Tensor]:
    """Return the weights under the network's keys, without wrappers' prefixes and other saved objects."""
    state = _unwrapped(state_dict)
    own = _shared_prefix(expected)
    needed = {key[len(own) :] for key in expected if _last(key) != _COUNTER}
    if not state.keys() >= needed and needed:
        first = min(needed)
        prefixes = {key[: -len(first)] for key in state if key.endswith(f".{first}")}
        whole = sorted(prefix for prefix in prefixes if all(prefix + key in state for key in needed))
        if len(whole) > 1:
            raise AttarError(
                f"{path} holds several such networks ({', '.join(prefix.rstrip('.') for prefix in whole)}); "
                "save only the state dict of the one that you want, and use that file."
            )
        if whole:
            state = {key[len(whole[0]) :]: value for key, value in state.items() if key.startswith(whole[0])}
    wanted = {key[len(own) :] for key in expected}
    left_out = {key for key in state if key not in wanted and (_last(key) in _UNUSED or key.startswith(_AUXILIARY))}
    return {own + key: value for key, value in state.items() if key not in left_out}


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _shape_sentence(
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]], network: str, path: Path, whose: str
) -> str:
    key, (has, wants) = next(iter(misshaped.items()))
    outputs = {(has[:1], wants[:1]) for has, wants in misshaped.values()}
    only_outputs = all(has[1:] == wants[1:] for has, wants in misshaped.values())
    if len(outputs) == 1 and only_outputs and has and wants:
        return (
            f"{path} does not fit: the checkpoint has {has[0]} classes, {whose} {wants[0]}; "
            "use a checkpoint with these classes."
        )
    if len(has) == len(wants) == 4 and has[:2] == wants[:2]:
        return (
            f"{path} has a {has[2]}x{has[3]} convolution '{key}', but {network} has {wants[2]}x{wants[3]}; "
            "choose the other stem with --squeeze.stem."
        )
    return f"{path} has '{key}' of shape {list(has)}, but {network} needs {list(wants)}; is it of another network?"


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict, from the top level or from under the keys of known layouts."""
    found = content
    for _ in range(len(_LAYOUTS)):  # no trainer nests deeper; a crafted file could contain itself
        if not isinstance(found, Mapping):
            break
        tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors and len(tensors) == len(found):
            return tensors
        inner = next((found[key] for key in _LAYOUTS if isinstance(found.get(key), Mapping) and found[key]), None)
        if inner is None and any("." in key for key in tensors):
            return tensors  # weights with other entries between them, such as an epoch or class names
        found = inner
    if isinstance(content, Mapping):
        what = f"the keys {', '.join(str(key) for key in list(content)[:5])}" if content else "nothing"
    else:
        what = f"a {type(content).__name__}"
    raise AttarError(f"{path} holds {what}, but no weights that attar recognises; save a plain state dict.")


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = {key: value for key, value in state.items() if key != "n_averaged"}  # AveragedModel adds it
    prefix = _shared_prefix(list(kept))
    return {key[len(prefix) :]: value for key, value in kept.items()}


def _shared_prefix(keys: list[str]) -> str:
    """Return the wrappers' prefixes that all keys share, in any order."""
    prefix = ""
    while keys:
        found = next((part for part in _PREFIXES if all(key.startswith(prefix + part) for key in keys)), None)
        if found is None:
            break
        prefix += found
    return prefix
