"""Write pages: one self-contained HTML file per run, and one that compares runs. Nothing is loaded from a network."""

import base64
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from attar.report import table
from attar.report.page import figures
from attar.report.page.block import Block, of_json
from attar.report.page.content import Content, gather
from attar.report.table import Line
from attar.store import atomic

INDEX, REPORT = "index.html", "report"
"""A run's own page, and the folder in its folder that has it."""


def run_page(run: Path, lines: list[Line], path: Path) -> Path:
    """Write the page of one evaluated run; returns its path. Raises AttarError when the run is damaged."""
    content = gather(run, run.resolve().name, lines)
    atomic.write_text(path, _run_html(content))
    return path


def pages(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write ``index.html`` for one run; for several a page for each, and ``index.html`` compares them.

    Returns the paths, ``index.html`` first. Raises AttarError when a run is unfinished or damaged.
    """
    contents = _gathered(runs)
    folder.mkdir(parents=True, exist_ok=True)
    if len(contents) == 1:
        atomic.write_text(folder / INDEX, _run_html(contents[0]))
        return [folder / INDEX]
    files = _file_names([content.name for content in contents])
    for content, file in zip(contents, files, strict=True):
        atomic.write_text(folder / file, _run_html(content))
    atomic.write_text(folder / INDEX, _comparison_html(contents, files))
    return [folder / INDEX, *(folder / file for file in files)]


def comparison(runs: Sequence[Path], folder: Path) -> Path:
    """Write ``index.html`` that compares runs and links to the pages in their folders; returns its path.

    Raises AttarError when a run is unfinished or damaged.
    """
    pages = [Path(os.path.relpath(run / REPORT / INDEX, folder)) for run in runs]
    atomic.write_text(folder / INDEX, _comparison_html(_gathered(runs), [quote(page.as_posix()) for page in pages]))
    return folder / INDEX


def _gathered(runs: Sequence[Path]) -> list[Content]:
    names = table.names_of(runs)
    return [gather(run, names[run], [replace(one, run=names[run]) for one in table.lines(run)]) for run in runs]


def _run_html(content: Content) -> str:
    kind = "real image" if content.made_real else "distilled image"
    described = [{"prefix": "", "label": f"{kind}s", "kind": kind}]
    shown = figures.of_run(content)
    return _render(
        "run.html",
        [of_json("runs", described), *content.blocks],
        title=f"{content.name}: {shown['heading']}",
        **shown,
    )


def _comparison_html(contents: Sequence[Content], files: Sequence[str]) -> str:
    described, blocks = list[dict[str, str]](), list[Block]()
    for number, content in enumerate(contents):
        kind = "real image" if content.made_real else "distilled image"
        described.append({"prefix": f"r{number}-", "label": content.name, "kind": kind})
        kept = [block for block in content.blocks if not block.name.startswith("labels")]
        blocks += [replace(block, name=f"r{number}-{block.name}") for block in kept]
    shown: dict[str, Any] = figures.of_runs(contents)
    for run, file in zip(shown["runs"], files, strict=True):
        run["file"] = file
    names = ", ".join(content.name for content in contents)
    return _render("comparison.html", [of_json("runs", described), *blocks], title=f"Comparison: {names}", **shown)


def _render(template: str, blocks: Sequence[Block], **values: Any) -> str:
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {
        "script": script,
        "script_hash": digest,
        "style": _text("style.css"),
        "version": metadata.version("attar"),
    }
    return _environment().get_template(template).render(blocks=blocks, **shared, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the templates; names and texts from data are escaped wherever they are inserted."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


@functools.cache
def _text(name: str) -> str:
    return (resources.files("attar.report.page") / "templates" / name).read_text(encoding="utf-8")


def _file_names(names: Sequence[str]) -> list[str]:
    """Return a file name for each run, of plain letters; equal ones are numbered."""
    found = list[str]()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"
        taken = [*found, INDEX]
        tries = (f"{plain}{'' if number == 1 else f'-{number}'}.html" for number in range(1, len(names) + 2))
        found.append(next(each for each in tries if each.lower() not in {other.lower() for other in taken}))
    return found
