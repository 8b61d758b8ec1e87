"""What all tests share: one small run of the whole pipeline, and random state that no test may leave changed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.recipes.catalogue import recipe_named
from attar.recipes.recipe import Recipe
from attar.stages.folder import MANIFEST, PLAN
from attar.stages.rows import ROWS
from attar.store import atomic, sealed

if "PYTEST_XDIST_WORKER" in os.environ:  # these processes share the cores; threads of theirs would spin as they wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

MINI = [
    *("--execution.threads", "1"),
    *("--recover.ipc", "2", "--recover.unit-slots", "1", "--recover.iterations", "12", "--recover.snapshots", "4", "8"),
    *("--squeeze.training.epochs", "4", "--relabel.epochs", "6"),
    *("--evaluate.protocol.training.epochs", "3", "--evaluate.num-seeds", "2", "--evaluate.rows", *map(str, ROWS)),
]
"""The settings of ``mini_recipe`` for a command line."""


def mini_recipe() -> Recipe:
    """The digits recipe with little of everything: some seconds."""
    full = recipe_named("digits")
    protocol = full.evaluate.protocol
    return full.changed(
        execution=full.execution.changed(threads=1),
        squeeze=full.squeeze.changed(training=full.squeeze.training.changed(epochs=4)),
        recover=full.recover.changed(ipc=2, unit_slots=1, iterations=12, snapshots=(4, 8)),
        relabel=full.relabel.changed(epochs=6),
        evaluate=full.evaluate.changed(
            protocol=protocol.changed(training=protocol.training.changed(epochs=3)), num_seeds=2, rows=ROWS
        ),
    )


def interrupt(stage: Path) -> None:
    """Make a finished stage one that was interrupted just before its end."""
    made = sealed.read_json(stage / MANIFEST, "")
    sealed.write_json(stage / PLAN, {key: made[key] for key in ("stage", "request", "identity", "parents", "made_for")})
    (stage / MANIFEST).unlink()


def edit_json(path: Path, **values: Any) -> None:
    """Change keys of a JSON file and seal it anew, as somebody may who makes files by hand."""
    sealed.write_json(path, sealed.read_json(path, "") | values)


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``mini_recipe``; tests read it and change copies only.

    One of the processes of pytest-xdist makes it, and each has a copy.
    """
    from attar import pipeline  # here, for it imports much that tests of functions alone do without

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    with atomic.locked(shared / "mini.lock"), rendering(True):
        pipeline.run(mini_recipe(), shared / "mini", quiet=True)
    return Path(shutil.copytree(shared / "mini", tmp_path_factory.mktemp("runs") / "mini"))


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


@pytest.fixture(autouse=True)
def _global_random_state_is_left_alone(request: pytest.FixtureRequest):
    """attar draws from generators of its own: PyTorch's global one must be where it was.

    Tests of ``models`` and ``store`` build networks of their own by it, so there it is only put back.
    """
    before = torch.random.get_rng_state()
    yield
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    assert torch.equal(before, after) or {"models", "store"} & set(request.path.parts)


_RENDERED = (
    *("test_compare.py", "test_compared.py", "test_drawn.py", "test_imported_images.py", "test_real_images.py"),
    *("test_report.py", "test_storage.py"),
)
"""Files whose tests look at figures of reports."""


_RENDERING = [False]
"""Whether figures of reports are rendered now."""


@contextlib.contextmanager
def rendering(on: bool) -> Iterator[None]:
    """Render the figures of reports in this block, or do not."""
    before, _RENDERING[0] = _RENDERING[0], on
    try:
        yield
    finally:
        _RENDERING[0] = before


@pytest.fixture(scope="session", autouse=True)
def _figures_are_rendered_where_asked() -> Iterator[None]:
    """Figures of reports are composed, but elsewhere written without rendering, which takes most of a small run's time.

    Files that are there stay then.
    """
    from attar.report import drawn

    real = drawn.write

    def write(figure: Any, path: Path, **style: Any) -> list[Path]:
        if _RENDERING[0]:
            return real(figure, path, **style)
        written = [path.with_name(f"{path.name}.{ending}") for ending in drawn.ENDINGS]
        for file in written:
            file.touch()
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "write", write)
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_are_not_forced_to_the_disk() -> Iterator[None]:
    """No test outlives a power failure, and waiting for the disk takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def unrendered() -> Iterator[None]:
    """Figures of reports are not rendered in a test of a file whose other tests look at them."""
    with rendering(False):
        yield


@pytest.fixture(autouse=True)
def _figures_are_rendered_where_tests_look_at_them(request: pytest.FixtureRequest) -> Iterator[None]:
    with rendering(request.path.name in _RENDERED):
        yield
