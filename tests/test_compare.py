"""compare.py and its verb: several methods at several sizes, from one command to tables and figures."""

import csv
from pathlib import Path

import pytest

from attar import pipeline
from attar.cli import main
from attar.report import figures
from attar.report.compared import CSV, MARKDOWN

COMMAND = [
    *("compare", "digits", "--methods", "random", "rded:soft", "--budgets", "4kB", "12kB"),
    *("--execution.threads", "1", "--recover.patch-pool", "20", "--squeeze.training.epochs", "1"),
    *("--relabel.epochs", "4", "--evaluate.protocol.training.epochs", "2", "--evaluate.num-seeds", "1"),
    *("--evaluate.full-data", "teacher"),
]


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / CSV).open() as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def states(out: Path) -> dict[str, str]:
    return {name: row["state"] for name, row in rows_of(out).items()}


def times(out: Path) -> dict[Path, int]:
    kept = [path for name in ("recover", "distilled", "squeeze", "scores") for path in out.rglob(f"{name}/*.json")]
    return {path: path.stat().st_mtime_ns for path in kept}


def test_a_comparison_from_start_to_end(tmp_path, monkeypatch, capsys):
    """One run fails at first; the others are kept, the same command goes on, and once more only reads."""
    out, run = tmp_path / "compared", pipeline.run

    def failing(recipe, folder, **more):
        if Path(folder).name == "rded-soft-12kB":
            raise ValueError("no luck")
        return run(recipe, folder, **more)

    monkeypatch.setattr(figures, "write_all", lambda *_, **__: [])  # those of the runs; the comparison has its own
    monkeypatch.setattr(pipeline, "run", failing)
    with pytest.raises(SystemExit) as end:
        main([*COMMAND, "--out", str(out)])
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "attar: 1 of 4 runs failed: rded:soft (ValueError: no luck); fix it" in said.err
    assert "impossible: one image per class takes up to 4.42 kB" in said.err
    assert states(out) == {
        "random-hard-4kB": "impossible",
        "rded-soft-4kB": "impossible",
        "random-hard-12kB": "done",
        "rded-soft-12kB": "failed",
    }
    monkeypatch.setattr(pipeline, "run", run)
    before = times(out)
    main([*COMMAND, "--out", str(out), "--quiet"])
    found = rows_of(out)
    assert found["rded-soft-12kB"]["state"] == "done"
    page = out / "report" / "index.html"
    assert 'href="../rded-soft-12kB/report/index.html"' in page.read_text()
    assert before.items() <= times(out).items()
    done = [row for row in found.values() if row["state"] == "done"]
    for row in done:
        assert int(row["total_bytes"]) == int(row["image_bytes"]) + int(row["label_bytes"]) <= int(row["most_bytes"])
        assert int(row["most_bytes"]) <= int(row["budget_bytes"])
        assert int(row["real_bytes"]) <= int(row["total_bytes"])
        assert int(row["num_seeds"]) == 1
    assert [row["label_bytes"] != "0" for row in done] == [False, True]
    assert [row["teacher_seconds"] == "0.0" for row in done] == [True, False]
    assert (out / "rded-soft-12kB" / "squeeze").resolve() == (out / "squeeze").resolve()  # one teacher for all
    assert len(list((out / "baselines").glob("equal-bytes-*"))) == 2
    assert "rded:soft at 4 kB is impossible" in (out / MARKDOWN).read_text()
    names = [f"accuracy-{axis}.{ending}" for axis in ("bytes", "seconds") for ending in ("png", "svg")]
    content = {name: (out / name).read_bytes() for name in (*names, CSV)}
    assert b"<svg" in content["accuracy-bytes.svg"]
    before = times(out)
    main([*COMMAND, "--out", str(out), "--quiet"])
    assert times(out) == before
    assert {name: (out / name).read_bytes() for name in content} == content


def test_the_plan_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["compare", "digits", "--budgets", "20kB", "--methods", "random", "--plan", "--evaluate.num-seeds", "1"])
    said = capsys.readouterr().out
    assert " per class would take" in said
    assert "Altogether: about" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "dm", "--budgets", "100"], "a size with a unit, such as 100kB or 100MB, not '100'"),
        (["--methods", "dm"], "needs sizes; add --budgets 100kB 1MB"),
        (["--methods", "dm", "--budgets", "1kB"], "the least is 5.9 kB, for dm:hard. Raise --budgets"),
        (["--methods", "cda", "--budgets", "1kB"], "holds one image per class"),
    ],
)
def test_mistakes_end_with_a_sentence(tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as end:
        main(["compare", "digits", *words, "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_for_results(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        main(["compare", "digits", "--methods", "dm", "--budgets", "10kB", "--out", str(tmp_path / "out")])
    assert "is a file; give a folder" in capsys.readouterr().err


def test_a_folder_is_needed(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "digits", "--methods", "dm", "--budgets", "10kB"])
    assert "add --out runs/compared, or --plan" in capsys.readouterr().err
