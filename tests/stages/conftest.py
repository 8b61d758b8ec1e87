"""What tests of stages share: runs without pictures, which take as long as a small stage."""

from types import SimpleNamespace

import pytest

from attar import pipeline


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing here; ``mini_run``, tests/report and test_storage.py draw."""
    monkeypatch.setattr(pipeline, "figures", SimpleNamespace(write_all=lambda *_: []))
