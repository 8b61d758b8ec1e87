"""What tests of stages share: runs without pictures, which take as long as a small stage."""

from types import SimpleNamespace

import pytest

from attar.report import publish


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing here; ``mini_run``, tests/report and test_storage.py draw."""
    monkeypatch.setattr(publish, "figures", SimpleNamespace(write_all=lambda *_, **__: []))
