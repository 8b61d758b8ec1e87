"""What tests of the plan share: the work that a recipe asks for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attar.core.log import Log
from attar.data.load import load
from attar.plan.calibrate import Work
from attar.recipes.recipe import Recipe


@pytest.fixture
def work_of() -> Callable[..., Work]:
    """Returns the work of a recipe on this device, with the digits counted."""

    def make(recipe: Recipe[Any], **changes: Any) -> Work:
        labels = load(recipe.data, recipe.seed, Log(quiet=True)).train.labels
        asked: dict[str, Any] = {
            "execution": recipe.execution,
            "counts": np.bincount(labels).tolist(),
            "size": recipe.data.size,
            "squeeze": recipe.squeeze,
            "method": recipe.method,
            "recover": recipe.recover,
            "relabel": recipe.relabel,
            "evaluate": recipe.evaluate,
        }
        return Work(**(asked | changes))

    return make
