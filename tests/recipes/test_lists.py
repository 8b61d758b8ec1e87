"""'attar list': a table for a terminal, lines elsewhere."""

import os
import pty
import subprocess
import sys

import pytest

from attar.cli import main
from attar.recipes.catalogue import ENTRIES
from attar.recipes.lists import table

NAMES = [
    "digits",
    "dm/digits-ipc1",
    "dm/cifar10-ipc10",
    "own/cifar10-ipc50",
    "own/cifar10-ipc1",
    "own/cifar10-ipc1-hard",
]


def test_a_table_has_a_row_for_each_method_and_says_how_names_are_made():
    lines = table(NAMES, 100)
    assert [line.split() for line in lines[:3]] == [
        ["method", "cifar10", "digits"],
        ["dm", "10", "1"],
        ["own", "1", "50", "(-hard)"],
    ]
    assert "such as dm/digits-ipc1. An ending in brackets can follow. Also: digits." in " ".join(lines[4:])


def test_a_narrow_terminal_gets_a_line_for_each_method_and_dataset():
    assert table(NAMES, 20)[:3] == ["dm/digits: 1", "dm/cifar10: 10", "own/cifar10: 1 50 (-hard)"]


def test_all_recipes_fit_a_terminal_of_100_columns():
    lines = table(list(ENTRIES), 100)
    assert lines[0].startswith("method")
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100


def test_a_pipe_gets_every_recipe_and_a_terminal_the_table():
    code = "from attar.recipes.lists import main; main(['recipes'])"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in piped.splitlines()] == list(ENTRIES)
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env=os.environ | {"COLUMNS": "100"})
    os.close(theirs)
    assert os.read(ours, 9999).decode().startswith("method")
    os.close(ours)


def test_options_that_list_does_not_have_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["list", "recipes", "--al"])
    assert "'attar list' has no option '--al'; it has --all." in capsys.readouterr().err
