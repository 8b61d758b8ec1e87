"""The JSON record that is stored with a teacher's weights."""

import json
from pathlib import Path
from typing import Any, Literal

import pydantic

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.store.weights import read_metadata

KEY = "teacher"
"""The metadata of a teacher's safetensors file under which its record is repeated."""


class Record(Config):
    """Everything about a teacher but its weights."""

    version: Literal[1] = 1
    """Of this format."""
    architecture: str
    """The network's name for ``build``, or 'python:...' for a caller's own module."""
    stem: Literal["small", "standard"]
    """The stem it was built with."""
    image_size: int = pydantic.Field(ge=1, le=2**14)
    """Side of its input images in pixels."""
    classes: tuple[str, ...]
    """Names of the logits that it returns, in order."""
    outputs: tuple[str, ...] | None = None
    """Names of all logits of the network below, where the teacher returns a selection of them."""
    mean: tuple[float, float, float]
    """Of its input's normalisation."""
    std: tuple[pydantic.PositiveFloat, pydantic.PositiveFloat, pydantic.PositiveFloat]
    """Of its input's normalisation."""
    accuracy: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Top-1 on real validation images, as a fraction."""
    extra: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Plain values that its maker wants kept."""


def parse(text: str | bytes, path: Path) -> Record:
    """Read a record; ``path`` is the file it is from, for the AttarError that a faulty one raises."""
    try:
        return Record.model_validate(json.loads(text))
    except (ValueError, RecursionError, pydantic.ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else error
        raise AttarError(
            f"{path} holds no teacher's record that this version reads ({reason}); squeeze again."
        ) from error


def of_weights(path: Path) -> Record | None:
    """The record inside a teacher's weights; None in a safetensors file of other origin."""
    text = read_metadata(path).get(KEY)
    return None if text is None else parse(text, path)
