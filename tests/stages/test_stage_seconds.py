"""What stages took, from the logs of all their processes."""

import json
from pathlib import Path
from typing import Any

from attar.core.elapsed import Elapsed
from attar.stages.folder import logged, total


def write(folder: Path, name: str, *events: dict[str, Any]) -> None:
    (folder / name).write_text("".join(json.dumps(event) + "\n" for event in events))


def unit(name: str, seconds: float, processor: float | None = None) -> dict[str, Any]:
    found = {"event": "unit", "name": name, "seconds": seconds}
    return found if processor is None else found | {"processor_seconds": processor}


def test_seconds_of_all_processes_are_added_each_unit_once(tmp_path: Path):
    write(tmp_path, "log.jsonl", unit("a", 9.0, 9.0), unit("a", 1.0, 0.5), {"event": "epoch", "seconds": 7})
    write(tmp_path, "log.rank1.jsonl", unit("b", 2.0, 1.5))
    with (tmp_path / "log.rank1.jsonl").open("a") as file:
        file.write('{"event": "unit", "name": "c", "seco')  # killed
    assert logged(tmp_path, "unit") == Elapsed(3.0, 2.0)
    assert logged(tmp_path, "labels") == Elapsed(0, 0)


def test_processor_seconds_are_known_when_they_are_known_of_all(tmp_path: Path):
    write(tmp_path, "log.jsonl", unit("a", 1.0, 0.5), unit("b", 2.0))  # begun by an older attar
    assert logged(tmp_path, "unit") == Elapsed(3.0, None)
    assert total([Elapsed(1.0, 1.0), Elapsed(2.0, 3.0)]) == Elapsed(3.0, 4.0)
