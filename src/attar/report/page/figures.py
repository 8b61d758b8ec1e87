"""What the templates show of runs: tables, charts and sentences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attar.core.log import readable_bytes
from attar.core.printable import one_line
from attar.report import comparable, curves, published, reliability, table
from attar.report.curves import Curve
from attar.report.page import svg
from attar.report.page.content import Content
from attar.report.page.gallery import names_of
from attar.report.table import Line
from attar.stages.rows import FULL

_STAGES = {
    "squeeze": "Teachers (squeeze)",
    "recover": "Images (recover)",
    "relabel": "Soft labels (relabel)",
    "evaluate": "Students (evaluate)",
}
_SECONDS = "seconds: teachers, images, labels, one student"
_MOST_BARS, _ENDS = 30, 10
"""Up to 30 classes are shown all, of more the best and the worst ten."""


def of_run(content: Content) -> dict[str, Any]:
    """Return the values of a run's template."""
    info, lines = content.distilled.info, content.lines
    points = [(line, number, table.title_of(line, False)) for number, line in enumerate(_scored(lines))]
    kind = "real" if content.made_real else "distilled"
    beside = f"; beside them real images, {content.real_title}" if content.real_title else ""
    stored = f" Each stored image holds {info.storage.num_parts} images." if info.storage.factor > 1 else ""
    sections = {
        "scores": "Accuracy",
        **({"trade": "Size and time"} if points else {}),
        "gallery": "Images",
        **({"film": "Film"} if content.has_film else {}),
        **({"curves": "Curves"} if content.curves else {}),
        "classes": "Classes",
        **({"labels": "Soft labels"} if content.has_soft_labels else {}),
        **{"cost": "Cost", "recipe": "Recipe"},
    }
    of_recipe = f" of the recipe {content.recipe_name}" if content.recipe_name else ""
    made = f"real images chosen with the method {info.method}" if content.made_real else f"method {info.method}"
    return {
        "heading": f"{one_line(info.source)}, {info.ipc} image{'s' * (info.ipc != 1)} per class",
        "subtitle": f"Run {content.name}{of_recipe}: {made}, seed {info.seed}",
        "facts": _facts(content),
        "sections": list(sections.items()),
        "trade": _trade(points, paths=False),
        "trade_names": [
            {"name": title, "colour": number % svg.NUM_COLOURS, "hollow": table.is_real(line)}
            for line, number, title in points
        ],
        "gallery_title": f"The {kind} images",
        "gallery_words": f"{info.num_images:,} {kind} images of {info.size} x {info.size} pixels{beside}.{stored}",
        "has_film": content.has_film,
        "curves": [_curve([(curve, "", 0)]) for curve in content.curves],
        "has_soft_labels": content.has_soft_labels,
        "label_fault": content.label_fault,
        "label_words": _label_words(content),
        "stages": _stages(content),
        "aim": content.aim,
        "warnings": content.warnings,
        "recipe": content.recipe,
        "again": content.again,
        **_by_class(content),
        **_scores(lines, {id(line): number for line, number, _ in points}, several_runs=False),
    }


def of_runs(contents: Sequence[Content]) -> dict[str, Any]:
    """Return the values of the template that compares runs."""
    lines = [line for content in contents for line in content.lines]
    points = [
        (line, number, table.title_of(line, True))
        for number, content in enumerate(contents)
        for line in _scored(content.lines)
    ]
    filmed, shared = any(content.has_film for content in contents), _shared_curves(contents)
    methods = {content.distilled.info.method for content in contents if content.curves}
    sections = {
        "scores": "Accuracy",
        **({"trade": "Size and time"} if points else {}),
        **({"curves": "Curves"} if shared else {}),
        **({"film": "Film"} if filmed else {}),
        **{"gallery": "Images", "cost": "Cost", "recipe": "Recipes"},
    }
    legend: list[dict[str, Any]] = [
        {"name": content.name, "colour": number % svg.NUM_COLOURS, "hollow": False}
        for number, content in enumerate(contents)
    ]
    if any(table.is_real(line) for line, _, _ in points):
        legend.append({"name": "hollow: real images", "colour": 7, "hollow": True})
    return {
        "runs": [
            {
                "name": content.name,
                "aim": content.aim,
                "warnings": content.warnings,
                "recipe": content.recipe,
                "stages": _stages(content),
            }
            for content in contents
        ],
        "sections": list(sections.items()),
        "trade": _trade(points, paths=False),
        "trade_names": legend,
        "curves": shared,
        "curve_names": [
            {"name": content.name, "colour": number % svg.NUM_COLOURS, "dash": number % svg.NUM_DASHES}
            for number, content in enumerate(contents)
            if content.curves
        ],
        "several_methods": len(methods) > 1,
        "differences": comparable.sentences([content.run for content in contents]),
        "same_classes": len({frozenset(content.distilled.classes) for content in contents}) == 1,
        "has_film": filmed,
        **_scores(lines, {id(line): number for line, number, _ in points}, several_runs=True),
    }


def _scored(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.top1_mean is not None]


def _scores(lines: list[Line], colours: Mapping[int, int], several_runs: bool) -> dict[str, Any]:
    """Return the table of scores; ``colours`` are the numbers of lines, by their ids, in the charts."""
    judged = ", ".join(map(one_line, table.protocols(lines)))
    students = sorted({line.student for line in lines if not table.shows_teacher(line)})
    first = [table.own_line([line for line in lines if line.run == run]) for run in {line.run for line in lines}]
    own = [line for line in lines for one in first if one and (line.run, line.row) == (one.run, one.row)]
    shared = _shared_full(lines) if several_runs else []
    rows = [
        {
            "title": one_line(table.title_of(line, several_runs and line not in shared)),
            "own": line in own,
            "colour": 7 if line in shared else colours.get(id(line), 7) % svg.NUM_COLOURS,
            "hollow": table.is_real(line),
            "mean": line.top1_mean,
            "std": line.top1_std,
            "top1": table.accuracy(line),
            "published": published.cell(line),
            "n": line.num_seeds,
            "student": one_line(table.student_of(line)),
            "images": f"{line.num_images:,}",
            "image_bytes": readable_bytes(line.image_bytes),
            "label_bytes": readable_bytes(line.label_bytes),
        }
        for line in lines
        if line not in shared[1:]
    ]
    names = ", ".join(map(one_line, students))
    said = f"Students: {names}; protocol {judged}. " if judged else ""
    return {
        "rows": rows,
        "several_students": len(students) > 1,
        "how_scored": f"{said}Top-1 on {reliability.measured_on(lines)} after the last epoch, "
        f"{reliability.of_students(lines)}. {reliability.guessing(lines)}".strip(),
        "chance": reliability.chance(lines),
        "has_published": published.in_any(lines),
        "notes": [one_line(note) for note in table.notes(lines)],
    }


def _shared_full(lines: Sequence[Line]) -> list[Line]:
    """Return the rows of all real images if they are those of one evaluation that all runs share."""
    full = [line for line in lines if line.row == str(FULL)]
    alike = {(line.student, line.protocol, line.top1_mean, line.top1_std, line.num_images) for line in full}
    return full if len(alike) == 1 and len(full) == len({line.run for line in lines}) else []


def _facts(content: Content) -> list[dict[str, str]]:
    info = content.distilled.info
    own = table.own_line(content.lines)
    real = next((line for line in content.lines if line.row in ("random-soft", "random-hard")), None)
    full = next((line for line in content.lines if line.row == "full"), None)
    facts = list[dict[str, str]]()
    if own is not None:
        more = f"published: {published.cell(own)}" if published.cell(own) else ""
        facts.append(_top1(own, more))
    facts += [_top1(line, "") for line in (real, full) if line is not None]
    size = readable_bytes(info.image_bytes + (own.label_bytes if own is not None else info.label_bytes))
    facts.append({"name": "images and labels", "value": size, "more": f"{info.num_images:,} images"})
    seconds = sum(one.seconds for stage, one in content.elapsed.items() if stage != "evaluate")
    facts.append({"name": "to make it", "value": _seconds(seconds), "more": "of all processes"})
    return facts


def _top1(line: Line, more: str) -> dict[str, str]:
    return {"name": f"top-1, {table.title_of(line, False)}", "value": f"{table.accuracy(line)} %", "more": more}


def _trade(points: Sequence[tuple[Line, int, str]], paths: bool) -> list[dict[str, Any]]:
    axes: list[tuple[str, str, Callable[[Line], float], Callable[[float], str]]] = [
        ("Accuracy against bytes", "bytes of images and labels", table.held_bytes, _bytes),
        ("Accuracy against seconds", _SECONDS, table.spent_seconds, _plain_seconds),
    ]  # fmt: skip
    found = []
    for title, across, value, readable in axes:
        marks = [
            svg.Mark(value(line), line.top1_mean or 0.0, line.top1_std, one_line(name), number, table.is_real(line))
            for line, number, name in points
        ]
        chance = reliability.chance([line for line, _, _ in points])
        drawing = svg.marks(
            marks, label=title, across=across, up="top-1 %", readable=readable, paths=paths, chance=chance
        )
        found.append({"title": title, "drawing": drawing, "note": ""})
    return found if points else []


def _plain_seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(value: float) -> str:
    return readable_bytes(round(value)).replace(".00", "").replace(".0 ", " ")


def _curve(found: Sequence[tuple[Curve, str, int]]) -> dict[str, Any]:
    """Return a chart of curves of one metric, each with the name and the colour of its run."""
    first, logarithmic = found[0][0], curves.is_logarithmic(curve for curve, _, _ in found)
    drawing = svg.lines(
        [svg.Series(curve.steps, curve.values, name, colour) for curve, name, colour in found],
        label=first.title,
        across="iteration",
        up=first.axis,
        logarithmic=logarithmic,
    )
    return {"title": first.title, "drawing": drawing, "note": "logarithmic axis" if logarithmic else ""}


def _shared_curves(contents: Sequence[Content]) -> list[dict[str, Any]]:
    """Return a chart for each metric that at least two runs recorded."""
    found = dict[str, list[tuple[Curve, str, int]]]()
    for number, content in enumerate(contents):
        for curve in content.curves:
            if curve.name != curves.CROPS and curve.values:
                found.setdefault(curve.name, []).append((curve, content.name, number))
    return [_curve(members) for members in found.values() if len(members) > 1]


def _label_words(content: Content) -> str:
    info = content.distilled.info
    words = {
        "stored": "The labels are stored: students see these views and these labels again.",
        "online": "The teachers make the labels while students train; here they label views of the first epochs.",
        "given": "The method learned one label per image, which all its views share.",
        "none": "",
    }[info.labels.mode]
    return (
        f"{words} The rectangle is the crop that the view shows; a bar is the probability of a class at temperature 1. "
        f"The bar of the image's own class is coloured."
    )


def _stages(content: Content) -> list[dict[str, Any]]:
    most = max((one.seconds for one in content.elapsed.values()), default=0.0) or 1.0
    return [
        {
            "title": _STAGES.get(stage, stage),
            "share": round(100 * one.seconds / most, 2),
            "wall": f"{one.seconds:,.1f}",
            "cores": "-" if one.processor_seconds is None else f"{one.processor_seconds:,.1f}",
        }
        for stage, one in content.elapsed.items()
    ]


def _by_class(content: Content) -> dict[str, Any]:
    titles = dict(zip(content.distilled.classes, names_of(content.distilled), strict=True))
    found = [
        {"title": titles.get(name, one_line(name)), "mean": mean, "std": std}
        for name, (mean, std) in content.accuracies.items()
    ]
    own = content.lines[0] if content.lines else None
    trained = f" of students trained on: {table.title_of(own, False)}" if own is not None else ""
    groups: list[dict[str, Any]] = []
    if len(found) <= _MOST_BARS:
        half = len(found) if len(found) <= 6 else -(-len(found) // 2)
        groups = [{"title": "", "classes": part} for part in (found[:half], found[half:]) if part]
        spread = ", with the standard deviation over seeds" if any(one["std"] for one in found) else ""
        words = f"Top-1{trained}{spread}."
    else:
        ranked = sorted(found, key=lambda one: one["mean"], reverse=True)
        groups = [
            {"title": "Highest", "classes": ranked[:_ENDS]},
            {"title": "Lowest", "classes": ranked[: -_ENDS - 1 : -1]},
        ]
        words = f"Top-1{trained}: the best and worst {_ENDS} of {len(found):,} classes."
    return {"class_groups": groups, "class_words": words if found else "No class has a score."}


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
