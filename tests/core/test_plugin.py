import sys
from pathlib import Path

import pytest

from attar.core import plugin
from attar.core.errors import AttarError

METHODS = Path(plugin.__file__).parents[1] / "methods"


def test_a_file_is_a_plugin():
    assert plugin.names_in("attar.methods") == sorted(path.stem for path in METHODS.glob("[a-z]*.py"))
    assert plugin.resolve("attar.methods", "cda", "method").__name__ == "attar.methods.cda"


def test_unknown_names_bring_the_nearest():
    with pytest.raises(AttarError, match="no method named 'cdaa'; did you mean cda"):
        plugin.resolve("attar.methods", "cdaa", "method")


def test_dotted_paths_reach_outside(tmp_path, monkeypatch):
    (tmp_path / "outside_method.py").write_text("answer = 42\n")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "mine.py").write_text("answer = 43\n")
    (tmp_path / "nested" / "broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugin.resolve("attar.methods", "nested.mine", "method").answer == 43
    with pytest.raises(
        AttarError,
        match="There is no module 'nested.absent' for the method; start attar in the",
    ):
        plugin.resolve("attar.methods", "nested.absent", "method")
    with pytest.raises(AttarError, match="cannot be imported .ModuleNotFoundError: .*no_such_package.*; correct"):
        plugin.resolve("attar.methods", "nested.broken", "method")
    for name in [name for name in sys.modules if name.startswith("nested")]:
        monkeypatch.delitem(sys.modules, name)
