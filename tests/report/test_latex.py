"""The result table in LaTeX."""

from dataclasses import replace

from attar.report import latex, table


def test_the_table_has_a_row_for_each_line_and_what_the_recipe_aims_at(mini_run):
    lines = table.lines(mini_run)
    text = latex.of_lines(lines)
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(lines)
    assert body[0].startswith("distilled & 20 & ")
    assert body[0].endswith(" & 2 \\\\")
    assert {row.count(" & ") for row in body} == {text.split("\n")[2].count(" & ")}
    assert "% Aims at no published row" in text


def test_names_are_no_commands(mini_run):
    hostile = replace(table.lines(mini_run)[0], run="\\input{x}_50% & $y$\n", student="a")
    text = latex.of_lines([hostile, replace(hostile, run="b")])
    assert "\\textbackslash{}input\\{x\\}\\_50\\% \\& \\$y\\$" in text
    assert len(text.splitlines()) == 8 + text.count("\n% ")
