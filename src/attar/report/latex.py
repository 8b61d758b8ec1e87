"""The result table in LaTeX, for the packages booktabs and inputenc."""

from attar.core.log import readable_bytes
from attar.core.printable import one_line
from attar.report import published, table
from attar.report.table import Line

_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "±": "$\\pm$",
}


def of_lines(lines: list[Line]) -> str:
    """Return the table; what the recipes aim at stands beside it in its notes."""
    several_runs, several = len({line.run for line in lines}) > 1, len({line.student for line in lines}) > 1
    beside = published.in_any(lines)
    header = ["trained on", *(["student"] if several else []), "images", "bytes", "top-1 %"]
    header += [*([published.COLUMN] if beside else []), table.BY_CLASS, "n"]
    rows = [
        [
            table.title_of(line, several_runs),
            *([table.student_of(line)] if several else []),
            f"{line.num_images:,}",
            readable_bytes(line.image_bytes + line.label_bytes),
            table.accuracy(line),
            *([published.cell(line)] if beside else []),
            table.percent(line.class_top1_mean, line.class_top1_std),
            str(line.num_seeds),
        ]
        for line in lines
    ]
    numbers = len(header) - (2 if several else 1)
    aims = {line.run: line.aim for line in lines if line.aim}
    aimed = [f"{run}: aims at {aim}" if several_runs else f"Aims at {aim}" for run, aim in aims.items()]
    notes = [*table.notes(lines), *aimed]
    body = ["\\toprule", _row(header), "\\midrule", *map(_row, rows), "\\bottomrule"]
    ended = [f"% {one_line(note)}" for note in notes]
    columns = "l" * (len(header) - numbers) + "r" * numbers
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", *body, "\\end{tabular}", *ended]) + "\n"


def _row(cells: list[str]) -> str:
    return " & ".join("".join(_SPECIAL.get(letter, letter) for letter in one_line(cell)) for cell in cells) + " \\\\"
