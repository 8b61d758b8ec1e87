"""Teachers: frozen networks with their class names, normalisation and accuracy on real images."""

import copy
import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.models import compact, network_output, record
from attar.models.build import build, is_outside
from attar.models.choices import StoredPrecision
from attar.models.factory import PYTHON
from attar.models.foreign import load_into, numbers_in, refuse_not_finite
from attar.ops.pixels import Normalisation
from attar.store import sealed
from attar.store.atomic import write_json
from attar.store.weights import load_weights, save_weights

WEIGHTS, RECORD = "teacher.safetensors", "teacher.json"


class Selection(nn.Module):
    """Wraps a network and returns some of its logits, in a given order."""

    def __init__(self, network: nn.Module, outputs: tuple[str, ...], classes: tuple[str, ...]) -> None:
        """``outputs`` are the names of the network's logits, ``classes`` those of the logits to return."""
        super().__init__()
        self.network = network
        self.outputs = outputs
        place = {name: index for index, name in enumerate(outputs)}
        device = next((weight.device for weight in network.parameters()), None)
        self.columns: Tensor
        self.register_buffer("columns", torch.tensor([place[name] for name in classes], device=device))

    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        return self.network(images).index_select(1, self.columns)


@dataclass(frozen=True)
class Teacher:
    """A network that labels images; its module is put in evaluation mode and its weights are frozen."""

    module: nn.Module
    """Takes normalised images, returns one logit per class."""
    architecture: str
    """Its name for ``build``, or 'python:MODULE.CLASS' for the user's own network."""
    stem: Literal["small", "standard"]
    """Its stem."""
    classes: tuple[str, ...]
    """Names of the logits, in order."""
    normalisation: Normalisation
    """Normalisation of its input."""
    image_size: int
    """Side of its input images in pixels."""
    accuracy: float | None = None
    """Top-1 on real validation images, as a fraction."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further plain values."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise AttarError(f"The teacher has two classes named '{twice}'; give every class a unique name.")
        self.module.eval().requires_grad_(False)

    def logits(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        """Return float32 logits of images in [0, 1]; gradients flow to the images."""
        return self.module(self.normalisation.apply(images)).float()

    def save(self, folder: Path, precision: StoredPrecision = "fp32") -> None:
        """Write ``teacher.safetensors``, which contains the record, too, and then ``teacher.json``.

        With another ``precision`` than 'fp32' the weights are rounded, so the teacher that is loaded differs a little.
        """
        network, outputs = self.module, None
        if isinstance(network, Selection):
            network, outputs = network.network, network.outputs
        if isinstance(network, network_output.Logits):
            network = network.network
        described = record.Record(
            architecture=self.architecture,
            stem=self.stem,
            image_size=self.image_size,
            classes=self.classes,
            outputs=outputs,
            mean=self.normalisation.mean,
            std=self.normalisation.std,
            accuracy=self.accuracy,
            extra=self.extra,
        ).plain()
        metadata = {"format": "pt", record.KEY: json.dumps(described)}
        if precision != "fp32":
            metadata[compact.KEY] = precision
        save_weights(folder / WEIGHTS, compact.encoded(network.state_dict(), precision), metadata)
        write_json(folder / RECORD, described)


def load(
    folder: Path, module: nn.Module | None = None, *, factories: Collection[str] = (), weights_sha256: str = ""
) -> Teacher:
    """Load a teacher written by ``Teacher.save``, on the CPU.

    Its network is built by name, or is a copy of ``module`` with these weights. ``factories`` are the paths
    (package.module:factory) that the user typed; a record that names any other code is refused without importing it.
    ``weights_sha256`` is the hash that the weights file must have, if known. Raises AttarError when the folder holds no
    complete teacher, or when the teacher is the user's own network and ``module`` is missing.
    """
    path = folder / RECORD
    if not path.is_file():
        raise AttarError(f"{folder} holds no finished teacher: {RECORD} is missing; run squeeze.")
    described = record.parse(path.read_bytes(), path)
    if weights_sha256 and (folder / WEIGHTS).is_file() and sealed.sha256_of(folder / WEIGHTS) != weights_sha256:
        raise AttarError(
            f"{folder / WEIGHTS} is damaged or belongs to another teacher (its SHA-256 differs from the recorded one); "
            f"copy it again, or delete the folder {folder} and run the same command again to rebuild it."
        )
    state, metadata = load_weights(folder / WEIGHTS)
    if record.parse(metadata.get(record.KEY, "{}"), folder / WEIGHTS) != described:
        raise AttarError(f"{WEIGHTS} and {RECORD} in {folder} belong to different teachers; squeeze again.")
    state = compact.decoded(state, metadata.get(compact.KEY, "fp32"), folder / WEIGHTS)
    outputs = described.outputs or described.classes
    own = module is not None
    if module is None:
        if described.architecture.startswith("python:"):
            raise AttarError(
                f"The teacher in {folder} is your own {described.architecture.removeprefix('python:')}, which attar "
                "cannot build by name; pass it from Python: attar.load(folder, teacher=module) for a distilled set, "
                "attar.run(recipe, out, teacher=module) for a run."
            )
        refuse_untyped(described.architecture, path, factories)
        module = build(described.architecture, len(outputs), described.image_size, stem=described.stem, seed=0)
    else:
        module = copy.deepcopy(module)  # do not change the user's own module
    load_into(module, state, folder / WEIGHTS)
    if own:
        module = network_output.logits_only(module, len(outputs), described.image_size)
    if described.outputs is not None:
        module = Selection(module, described.outputs, described.classes)
    return Teacher(
        module,
        described.architecture,
        described.stem,
        described.classes,
        Normalisation(described.mean, described.std),
        described.image_size,
        described.accuracy,
        described.extra,
    )


class _Absent(nn.Module):
    def forward(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image class"]:
        raise AttarError(
            "The method asks a teacher, but says that it needs none (needs().teachers is 'none'), so none was trained; "
            "let its needs() return Needs(teachers='one')."
        )


def absent(classes: tuple[str, ...], normalisation: Normalisation) -> Teacher:
    """Return what stands for the teacher in a run that trains none; it raises AttarError if it is asked."""
    return Teacher(_Absent(), "", "standard", classes, normalisation, 0)


def refuse_untyped(architecture: str, path: Path, factories: Collection[str]) -> None:
    """Raise AttarError when the record at ``path`` names code outside attar that the user did not type."""
    if is_outside(architecture) and architecture not in factories:
        raise AttarError(
            f"{path} names the network '{architecture}', which is code outside attar. attar runs such code only if you "
            f"name it yourself; if you trust it, add --squeeze.architecture {architecture}, or from Python use "
            f"attar.load(folder, factories=['{architecture}']) or attar.load(folder, teacher=module)."
        )


def of_module(module: nn.Module, classes: Sequence[str], normalisation: Normalisation, image_size: int) -> Teacher:
    """Make a teacher from the user's own network, and freeze the network.

    Takes the logits out of its output, and converts half precision to float32 on a copy (see
    ``network_output.logits_only``). Raises AttarError when it does not return one logit per class for images of this
    side in pixels, or when its weights are not finite.
    """
    refuse_not_finite(numbers_in(module), f"The teacher {type(module).__name__}")
    network = network_output.logits_only(module, len(classes), image_size)
    return Teacher(network, name_of_module(module), "standard", tuple(classes), normalisation, image_size)


def name_of_module(module: nn.Module) -> str:
    """Return the architecture of the user's own network, as 'python:MODULE.CLASS'."""
    return f"{PYTHON}{type(module).__module__}.{type(module).__qualname__}"


def aligned(teacher: Teacher, classes: Sequence[str]) -> Teacher:
    """Return a teacher whose logits are these classes in this order: the same one, or one that selects its logits.

    Raises AttarError on a class that the teacher does not know. If the classes change, the accuracy is dropped, because
    it was measured on the old ones.
    """
    wanted = tuple(classes)
    if wanted == teacher.classes:
        return teacher
    known = set(teacher.classes)
    for name in wanted:
        if name not in known:
            example = ", ".join(teacher.classes[:3])
            raise AttarError(
                f"The teacher {teacher.architecture} does not know the class '{name}' (its classes are like {example});"
                " use the teacher's class names in the data, or train a teacher on this data."
            )
    network, outputs = teacher.module, teacher.classes
    if isinstance(network, Selection):
        network, outputs = network.network, network.outputs
    return dataclasses.replace(teacher, module=Selection(network, outputs, wanted), classes=wanted, accuracy=None)


def accuracy(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Float[Tensor, "image 3 height width"], Int[Tensor, "image"]]],  # noqa: F821
) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy over batches of images in [0, 1] and labels, as fractions.

    ``logits`` may be ``teacher.logits``. With fewer than five classes, top-5 is 1. Raises AttarError when there are no
    images, or when logits are NaN.
    """
    hits, total = torch.zeros(3, dtype=torch.int64), 0
    # Not inference_mode: a network that keeps a tensor between calls could not be differentiated afterwards.
    with torch.no_grad():
        for images, labels in batches:
            scores = logits(images)
            ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices
            right = ranked == labels.to(ranked.device)[:, None]
            broken = scores.isnan().any(dim=1).sum()
            hits = hits.to(ranked.device) + torch.stack([right[:, 0].sum(), right.sum(), broken])
            total += len(images)
    if total == 0:
        raise AttarError("There are no validation images to measure accuracy on; check the data's validation folder.")
    if num_broken := int(hits[2]):
        raise AttarError(
            f"The teacher's logits are NaN for {num_broken} of {total} validation images; check its weights and its "
            f"normalisation, or train another one."
        )
    top1, top5 = (hits[:2] / total).tolist()
    return top1, top5
