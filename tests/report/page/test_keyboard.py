"""A page without a mouse: Tab reaches every control, which shows its focus and has a name for a screen reader."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHOWN = """
[...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && !one.disabled).map((one) => one.outerHTML.slice(0, 90))
"""
FOCUSED = """
(() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {
    element: one.outerHTML.slice(0, 90),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0,
  };
})()
"""


class Browser:
    """Chromium, driven through a pipe with its debugging protocol."""

    def __init__(self, profile: Path) -> None:
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        words = [
            *("bash", "-c", f'exec "$0" "$@" 3<&{command_read} 4>&{answer_write}', str(CHROMIUM), "--headless"),
            *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
            "--force-prefers-reduced-motion",  # scrolling is finished when the next key is pressed
            *(f"--user-data-dir={profile}", "about:blank"),
        ]
        self.process = subprocess.Popen(words, pass_fds=(command_read, answer_write), stderr=subprocess.DEVNULL)
        os.close(command_read)
        os.close(answer_write)
        self.commands, self.answers = os.fdopen(command_write, "wb", buffering=0), os.fdopen(answer_read, "rb")
        self.count, self.session = 0, ""
        pages = [one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]

    def open(self, page: Path) -> None:
        self.ask("Page.navigate", url=page.as_uri())
        until = time.monotonic() + 60
        while self.value("document.documentElement.dataset.ready") != "yes":
            assert time.monotonic() < until, "the page's script did not finish"
            time.sleep(0.02)

    def ask(self, method: str, **parameters: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> bytes:
        found = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            found += byte
        return bytes(found)

    def value(self, script: str) -> Any:
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def name(self) -> str:
        """Return what a screen reader calls the element in focus."""
        element = self.ask("Runtime.evaluate", expression="document.activeElement")["result"]["objectId"]
        (node,) = self.ask("Accessibility.getPartialAXTree", objectId=element, fetchRelatives=False)["nodes"]
        return node["name"]["value"].strip()

    def close(self) -> None:
        self.commands.close()
        self.answers.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def browser(mini_run: Path, tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    try:
        opened.open(mini_run / "report" / "index.html")
        yield opened
    finally:
        opened.close()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_tab_key_reaches_every_control(browser: Browser):
    browser.value("document.querySelector('details').open = true")
    wanted, reached = browser.value(SHOWN), list[str]()
    assert len(wanted) > 15
    for _ in wanted:
        browser.press("Tab", 9)
        found = browser.value(FOCUSED)
        assert found["outlined"], found
        assert found["seen"], found
        assert 0 < len(browser.name()) < 60, found
        reached.append(found["element"])
    assert reached == wanted
    browser.value("document.querySelector('#step').focus()")
    before = browser.value("document.querySelector('#step-output').textContent")
    browser.press("ArrowLeft", 37)
    assert browser.value("document.querySelector('#step-output').textContent") != before


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_no_part_of_the_page_is_wider_than_a_telephone(browser: Browser):
    browser.ask("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    browser.value("document.querySelector('details').open = true")
    assert browser.value("document.querySelectorAll('table').length") > 2
    assert browser.value("document.documentElement.scrollWidth") == 400
