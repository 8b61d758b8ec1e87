"""'attar list': names of recipes, methods, datasets, models and protocols, with a line on each."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from attar.core import plugin
from attar.core.errors import AttarError
from attar.stages.protocol import Protocol, ProtocolLabels

KINDS = ("recipes", "methods", "datasets", "models", "protocols")
_HELP = """\
usage: attar list {kinds} [PATTERN] [--all]

Print the names that contain PATTERN, with a line on each.

On a terminal, 'attar list recipes' prints a table of methods and datasets; --all, a
PATTERN, a file or a pipe gets a line for each recipe, with what the recipe aims at.
"""
_CROPS = {"resized": "random resized crops", "padded": "padded crops", "none": "whole images"}
_MIXES = {"cutmix": "CutMix", "mixup": "Mixup", "none": "no mixing"}
_NAME = re.compile(r"(?P<method>[^/]+)/(?P<dataset>.+)-ipc(?P<ipc>\d+)(?P<variant>-.+)?")


def main(arguments: Sequence[str]) -> None:
    """Print one list."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP.format(kinds="|".join(KINDS)), end="")
        return
    words = [word for word in arguments if word != "--all"]
    if unknown := next((word for word in words if word.startswith("-")), None):
        raise AttarError(f"'attar list' has no option '{unknown}'; it has --all.")
    if len(words) > 2:
        raise AttarError(f"'attar list' takes a kind and a pattern; leave out '{words[2]}'.")
    kind, pattern = (*words, "", "")[:2]
    if kind == "recipes" and not pattern and "--all" not in arguments and sys.stdout.isatty():
        from attar.recipes.catalogue import ENTRIES

        lines = table(list(ENTRIES), shutil.get_terminal_size().columns)
    else:
        lines = _lines(rows(kind, pattern))
    for line in lines:
        print(line)


def rows(kind: str, pattern: str = "") -> dict[str, str]:
    """Return the names that contain the pattern, with a line on each; raises AttarError for an unknown kind."""
    if kind == "recipes":
        from attar.recipes.catalogue import ENTRIES

        found = {name: entry.aim for name, entry in ENTRIES.items()}
    elif kind == "methods":
        from attar.stages.methods import METHODS, method_named

        found = {name: (method_named(name).__doc__ or "").splitlines()[0] for name in plugin.names_in(METHODS)}
    elif kind == "datasets":
        from attar.data.named import available

        found = available()
    elif kind == "models":
        from attar.models import build

        return dict.fromkeys(build.available(pattern), "")
    elif kind == "protocols":
        from attar.stages.protocols import PROTOCOL_LABELS, PROTOCOLS

        found = {name: _protocol_line(protocol, PROTOCOL_LABELS[name]) for name, protocol in PROTOCOLS.items()}
    else:
        raise AttarError(f"'attar list' takes one of {', '.join(KINDS)}" + (f", not '{kind}'." if kind else "."))
    return {name: text for name, text in found.items() if pattern in name}


def table(names: Sequence[str], width: int) -> list[str]:
    """Return a table of recipes for a terminal of this width: methods, datasets, and images per class where they meet."""
    cells: dict[str, dict[str, list[tuple[int, str]]]] = {}
    datasets, others = dict[str, None](), list[str]()
    for name in names:
        if (found := _NAME.fullmatch(name)) is None:
            others.append(name)
            continue
        datasets[found["dataset"]] = None
        row = cells.setdefault(found["method"], {}).setdefault(found["dataset"], [])
        row.append((int(found["ipc"]), found["variant"] or ""))
    header = ["method", *sorted(datasets)]
    body = [[method, *(_numbers(row.get(each, [])) for each in header[1:])] for method, row in cells.items()]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [
        "  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in (header, *body)
    ]
    if max(map(len, lines)) > width:
        lines = [f"{method}/{each}: {_numbers(row[each])}" for method, row in cells.items() for each in row]
    example = next((name for name in names if _NAME.fullmatch(name)), "")
    notes = [
        f"Numbers are images per class. A name is METHOD/DATASET-ipcNUMBER, such as {example}.",
        "An ending in brackets can follow." if any("(" in line for line in lines) else "",
        f"Also: {', '.join(others)}." if others else "",
        f"'attar list recipes PATTERN' says what those that contain PATTERN aim at, --all all {len(names)}.",
    ]
    return [*lines, "", *textwrap.wrap(" ".join(filter(None, notes)), width)]


def _numbers(found: Iterable[tuple[int, str]]) -> str:
    """Return the numbers of images per class, and the endings that some of the names have."""
    numbers = dict.fromkeys(str(ipc) for ipc, _ in sorted(found))
    endings = dict.fromkeys(ending for _, ending in found if ending)
    return " ".join([*numbers, *(f"({ending})" for ending in endings)])


def _lines(found: Mapping[str, str]) -> list[str]:
    width = max(map(len, found), default=0)
    return [f"{name:<{width}}  {text}".rstrip() for name, text in found.items()]


def _protocol_line(protocol: Protocol, labels: ProtocolLabels) -> str:
    training, views = protocol.training, labels.views
    whose = "timm's " if views.randaugment_set == "timm" else ""
    strength = f"{views.randaugment_ops} at {views.randaugment_magnitude:g}"
    crop, changed = _CROPS[views.crop], f"{whose}RandAugment {strength}" * (views.randaugment_ops > 0)
    squared = " times T^2" if protocol.temperature_squared else ""
    loss = {"soft": f"KL at T={protocol.temperature:g}{squared}", "mse": "MSE of logits", "hard": "hard labels"}
    parts = [
        f"{training.epochs} epochs",
        f"batch {training.batch_size}",
        f"{training.optimizer} {training.learning_rate:g}",
        f"{training.schedule} stretched by {training.cosine_stretch:g}" * (training.cosine_stretch != 1),
        f"EMA {training.ema_decay:g}" * bool(training.ema_decay),
        loss[protocol.loss] + f" + {protocol.hard_weight:g} CE" * bool(protocol.hard_weight),
        f"labels by batches of {labels.batchnorm_batch}" * (labels.batchnorm == "train"),
        f"{views.patch_shuffle} x {views.patch_shuffle} patches" * (views.patch_shuffle > 1),
        *((changed, crop) if views.randaugment_place == "before-crop" else (crop, changed)),
        f"DSA {'+'.join(views.dsa)} ({views.dsa_combine})" * bool(views.dsa),
        _MIXES[labels.mix.kind],
    ]
    return f"v{protocol.version}: " + ", ".join(filter(None, parts))
