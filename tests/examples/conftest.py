"""The drivers as modules: each is a script in a folder of its own."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def continual() -> Iterator[ModuleType]:
    yield from _script("continual")


@pytest.fixture(scope="session")
def proxy() -> Iterator[ModuleType]:
    yield from _script("proxy")


def _script(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module(name)
    sys.modules.pop(name)
