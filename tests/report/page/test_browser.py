"""The page in a browser: its script finds, turns, slides and shows, without errors and without a network."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from attar.report import table
from attar.report.page import gallery, write
from attar.report.page.content import gather
from page_material import HOSTILE, many, renamed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = """
const one = (selector) => document.querySelector(selector);
const change = (element, value, kind) => { element.value = value; element.dispatchEvent(new Event(kind)); };
const titles = () => [...document.querySelectorAll("#classes h3")].map((heading) => heading.textContent);
const seen = {};
seen.first = titles();
seen.found = one("#found").textContent;
one("#next").click();
seen.second = titles();
change(one("#filter"), "CLASS 4", "input");
seen.filtered = titles();
change(one("#filter"), "onerror", "input");
seen.hostile = titles();
change(one("#filter"), "", "input");
change(one("#order"), "worst", "change");
seen.worst = titles();
change(one("#step"), 0, "input");
seen.step = one("#step").getAttribute("aria-valuetext");
seen.film = one("#stage .tile").getAttribute("aria-label");
change(one("#label-image"), 2, "change");
change(one("#label-view"), 3, "input");
seen.label = one("#seen .tile").getAttribute("aria-label");
seen.shares = document.querySelectorAll("#shares li").length;
seen.crop = document.querySelectorAll("#whole rect").length;
one("#theme").click();
seen.theme = document.documentElement.dataset.theme;
seen.images = document.images.length;
const outcome = document.createElement("pre");
outcome.id = "outcome";
outcome.textContent = JSON.stringify(seen);
document.body.append(outcome);
"""


COMPARE = """
const seen = {};
seen.titles = [...document.querySelectorAll("#classes h3")].map((heading) => heading.textContent);
const cards = [...document.querySelectorAll("#classes > li")];
const words = (card) => [...card.querySelectorAll(".set .soft")].map((one) => one.textContent);
seen.sets = [cards[0], cards[9], cards[10]].map(words);
const slider = document.querySelector("#step");
seen.marked = [...document.querySelectorAll("#strip thead th")].map((_, place) => {
  slider.value = place;
  slider.dispatchEvent(new Event("input"));
  return [...document.querySelectorAll("#strip tbody .now")].map((cell) => cell.childNodes.length);
});
const outcome = document.createElement("pre");
outcome.id = "outcome";
outcome.textContent = JSON.stringify(seen);
document.body.append(outcome);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_comparison_shows_the_classes_of_all_runs(mini_run: Path, finished: Path, tmp_path: Path):
    run = renamed(finished, [*"012345678", "other"])
    path = write.pages([mini_run, run], tmp_path / "pages")[0]
    seen = outcome(path.read_text(encoding="utf-8"), COMPARE, tmp_path)
    assert seen["titles"] == [*"0123456789", "other"]
    assert seen["marked"]
    assert all(cells == [1] * len(cells) for cells in seen["marked"])  # no empty cell is marked
    both, first, second = seen["sets"]
    assert [each.split(",")[0] for each in both] == ["mini", "run", "real images"]
    assert (first[1], second[0]) == ("run: has no such class", "mini: has no such class")


def outcome(page: str, driver: str, folder: Path) -> Any:
    """What a script finds on a page, in a browser that logs no error."""
    digest = base64.b64encode(hashlib.sha256(driver.encode()).digest()).decode()
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '").replace(
        "</body>", f"<script>{driver}</script></body>"
    )
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"),
        *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not re.findall(r".*:CONSOLE.*", done.stderr)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser(finished: Path, tmp_path: Path):
    run = renamed(finished, [*HOSTILE, *"56789"])
    content = gather(run, "mini", table.lines(run))
    set_of_many = many(45)
    set_of_many.classes = (*HOSTILE, *set_of_many.classes[5:])
    shown = gallery.gallery("gallery", set_of_many, None, {"class 9": (1.0, None), "class 8": (2.0, 0.5)})
    kept = [block for block in content.blocks if not block.name.startswith("gallery")]
    page = write._run_html(replace(content, blocks=[*shown, *kept]))
    seen = outcome(page, DRIVER, tmp_path)
    assert len(seen["first"]) == 20
    assert seen["first"][0] == HOSTILE[0]
    assert seen["found"] == "45 classes, page 1 of 3"
    assert seen["second"] == [f"class {number}" for number in range(20, 40)]
    assert seen["filtered"] == ["class 40", "class 41", "class 42", "class 43", "class 44"]
    assert seen["hostile"] == [HOSTILE[1]]
    assert seen["worst"] == ["class 9", "class 8"]
    assert seen["step"] == "after 4 iterations"
    assert seen["film"].endswith("after 4 iterations")
    assert seen["label"] == "\\u202eevil\\x1b[31m, view 3"
    assert (seen["shares"], seen["crop"], seen["theme"], seen["images"]) == (5, 2, "dark", 0)
