"""A finished teacher and images to start later stages from."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def squeezed(mini_run: Path, tmp_path: Path) -> Path:
    """A run's folder in which only squeeze is done."""
    shutil.copytree(mini_run / "squeeze", tmp_path / "run" / "squeeze")
    return tmp_path / "run"


@pytest.fixture
def recovered(mini_run: Path, squeezed: Path) -> Path:
    """A run's folder in which squeeze and recover are done."""
    shutil.copytree(mini_run / "recover", squeezed / "recover")
    return squeezed


@pytest.fixture
def finished(mini_run: Path, tmp_path: Path) -> Path:
    """A copy of a whole run, to be changed."""
    shutil.copytree(mini_run, tmp_path / "run")
    return tmp_path / "run"
