"""The site is built from the pages without a warning, with the reference from the docstrings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attar

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", "docs", "-d", str(tmp_path / "doctrees"), "-W"]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    built = subprocess.run(
        [*command, "--keep-going", "-q", ".", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")
    pages = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "docs").rglob("*.md")} <= pages
    reference = (tmp_path / "site" / "docs" / "api.html").read_text()
    assert set(re.findall(r'id="attar\.(\w+)"', reference)) == set(attar.__all__)
    assert "../_images/" in (tmp_path / "site" / "docs" / "methods.html").read_text()
