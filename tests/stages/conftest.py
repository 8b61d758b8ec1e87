"""What tests of stages share: runs without pictures, which take as long as a small stage."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from attar.report import publish


@pytest.fixture(autouse=True)
def no_pictures() -> Iterator[None]:
    """Runs draw nothing here, also after ``monkeypatch.undo()``; ``mini_run`` and test_storage.py draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "figures", SimpleNamespace(write_all=lambda *_, **__: []))
        yield
