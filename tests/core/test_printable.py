import io

import pytest
from rich.console import Console
from rich.table import Table

from attar.core.console import SafeConsole
from attar.core.log import Log
from attar.core.printable import markdown, one_line, printable

HOSTILE = "\x1b]0;owned\x07 \x9b2J \u202egnp.exe \r \x7f caf\udce9 \ufeff"


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert printable("\x1b[31mred") == "\\x1b[31mred"
    assert printable("caf\udce9 \u202e") == "caf\\xe9 \\u202e"
    assert printable("äpfel 猫 👩\u200d🌾 a\tb\nc") == "äpfel 猫 👩\u200d🌾 a\tb\nc"
    assert one_line("a\nattar: done") == "a\\nattar: done"
    assert printable(HOSTILE).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("[a](http://x)", "\\[a\\](http://x)"),
        ("a|b\n`c`", "a\\|b\\\\n\\`c\\`"),
        ("n01440764 hot_dog, 5 %", "n01440764 hot_dog, 5 %"),
    ],
)
def test_markup_is_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_the_log_prints_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say(HOSTILE)
    Log().warn(f"{HOSTILE}\nattar: all is well")
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert all(line.isprintable() for line in said.splitlines())


def test_tables_and_bars_print_nothing_that_a_terminal_obeys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    file = io.StringIO()
    SafeConsole(file=file, width=200).print(table)
    assert all(line.isprintable() for line in file.getvalue().splitlines())
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Log().progress("recover", 3) as advance:
        advance(note="\x1b]0;title")
    said = capsys.readouterr().err
    assert "\\x1b]0" in said
    assert "\x1b]0;" not in said


def test_styles_of_its_own_are_kept() -> None:
    plain, safe = io.StringIO(), io.StringIO()
    Console(file=plain, force_terminal=True, width=80).print("[red]a[/red]", {"b": 1})
    SafeConsole(file=safe, force_terminal=True, width=80).print("[red]a[/red]", {"b": 1})
    assert "\x1b[" in safe.getvalue()
    assert safe.getvalue() == plain.getvalue()
