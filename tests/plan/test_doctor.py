import json
import os
from pathlib import Path

import pytest

from attar.plan import doctor


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return doctor.examine(tmp_path_factory.mktemp("runs") / "new" / "runs")


def test_a_machine_that_runs_the_tests_has_no_problem(found):
    assert found.problems == []
    assert found.lines()[-1] == "Nothing here would stop a run."
    assert set(found.groups) >= {"versions", "memory", "disk", "devices", "auto", "compiler"}


def test_auto_is_what_a_run_would_choose(found):
    from attar.core.device import Execution, resolve

    device = resolve(Execution())
    assert found.groups["auto"]["device"] == str(device.device)
    assert found.groups["auto"]["precision"].partition(",")[0] in ("fp32", "bf16")
    assert found.groups["auto"]["workers"] == device.workers


def test_it_is_printed_for_people_and_for_programs(found, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "examine", lambda out, tries: found)
    doctor.main(["--json"])
    assert json.loads(capsys.readouterr().out)["versions"]["torch"] == found.groups["versions"]["torch"]
    doctor.main(["--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "disk      runs" in said
    assert max(map(len, [line for line in said.splitlines() if line.startswith("auto")])) < 120


def test_a_folder_that_cannot_be_written_stops_a_run_and_is_left_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "_is_writable", lambda folder: folder != tmp_path)
    found = doctor.Diagnosis()
    doctor._system(found, tmp_path / "a" / "b")
    assert found.problems == [f"{tmp_path} cannot be written; give another --out or change its permissions."]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(doctor, "examine", lambda out, tries: found)
    with pytest.raises(SystemExit) as end:
        doctor.main([])
    assert end.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "A run would stop here; see above."


def test_a_full_disk_and_little_memory_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "free_memory", lambda: 10**8)
    usage = type(doctor.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    found = doctor.Diagnosis()
    doctor._system(found, tmp_path)
    assert "Only 1 MB are free" in found.problems[0]
    assert any("Only 100 MB of memory are free" in note for note in found.notes)


def test_packages_that_are_missing_or_broken_are_told(monkeypatch):
    wanted = [("torch", ">=2.11,<2.16", ""), ("nowhere", ">=1", ""), ("numpy", ">=99", ""), ("absent", "", "hub")]
    monkeypatch.setattr(doctor, "_requirements", lambda: wanted)
    real = doctor.importlib.import_module

    def load(name: str):
        if name == "timm":
            raise OSError("libfoo.so: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    found = doctor.Diagnosis()
    doctor._packages(found)
    assert found.problems[0] == "The package nowhere is not installed; run pip install 'nowhere>=1'."
    assert found.problems[1].startswith("timm cannot be imported (OSError: libfoo.so")
    assert len(found.problems) == 2
    assert [note.split()[0] for note in found.notes] == ["numpy"]
    assert found.groups["extras"] == {"hub": "no: pip install 'attar[hub]'"}


def test_nothing_compiles_without_a_compiler(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = doctor.Diagnosis()
    doctor._compiler(found, tries=False)
    assert found.groups["compiler"]["c++"] == "none"
    assert "a C++ compiler" in found.notes[0]
    assert found.problems == []


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [("2.15.0+cu130", ">=2.11,<2.16", True), ("2.16.0", "<2.16,>=2.11", False), ("2.9.1", ">=2.11", False),
     ("1.0", "", True), ("3.0", "!=3.0", True)],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(version, wanted, fits):
    assert doctor._fits(version, wanted) is fits


def test_the_nearest_folder_that_exists_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor._existing(Path("runs/mine")) == tmp_path
    assert doctor._existing(Path(os.sep)) == Path(os.sep)
