"""The JSON record that is stored with a teacher's weights."""

import json
from pathlib import Path
from typing import Any, Literal

import pydantic

from attar.core.config import Config
from attar.core.errors import AttarError
from attar.store.weights import read_metadata

KEY = "teacher"
"""Metadata key for a copy of the record in the teacher's safetensors file."""


class Record(Config):
    """All facts about a teacher except its weights."""

    version: Literal[1] = 1
    """Version of this format."""
    architecture: str
    """The network's name for ``build``, or 'python:...' for the user's own module."""
    stem: Literal["small", "standard"]
    """The network's stem."""
    image_size: int = pydantic.Field(ge=1, le=2**14)
    """Side of its input images in pixels."""
    classes: tuple[str, ...]
    """Names of the teacher's logits, in order."""
    outputs: tuple[str, ...] | None = None
    """Names of all logits of its network, if the teacher selects some of them."""
    mean: tuple[float, float, float]
    """Mean of its input's normalisation."""
    std: tuple[pydantic.PositiveFloat, pydantic.PositiveFloat, pydantic.PositiveFloat]
    """Standard deviation of its input's normalisation."""
    accuracy: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Top-1 on real validation images, as a fraction."""
    extra: dict[str, Any] = pydantic.Field(default_factory=dict)
    """Further plain values."""


def parse(text: str | bytes, path: Path) -> Record:
    """Read a record; ``path`` is its file. Raises AttarError when the record is invalid."""
    try:
        return Record.model_validate(json.loads(text))
    except (ValueError, RecursionError, pydantic.ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, pydantic.ValidationError) else error
        raise AttarError(
            f"{path} holds no teacher record that this version of attar can read ({reason}); squeeze again."
        ) from error


def of_weights(path: Path) -> Record | None:
    """Return the record in a teacher's weights file; None for other safetensors files."""
    text = read_metadata(path).get(KEY)
    return None if text is None else parse(text, path)
