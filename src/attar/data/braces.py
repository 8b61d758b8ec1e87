"""Names of many files in one text, as WebDataset writes them: shards-{000000..000146}.tar, {train,val}-*.tar."""

import glob
import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path

from attar.core.errors import AttarError

MOST_FILES = 100_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_WILD = re.compile(r"[*?]")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def names_files(text: str) -> bool:
    """Whether a text names tar or Parquet files: by braces, ``*`` or ``?``, or one file that exists."""
    if not text.endswith((".tar", ".parquet", "}")):
        return False
    return bool(_INNERMOST.search(text) or set("*?") & set(text)) or Path(text).expanduser().is_file()


def expand(text: str) -> list[str]:
    """Return all texts that the braces of a text stand for, in order: {a,b} lists, {007..012} counts.

    Raises AttarError when they are more than ``MOST_FILES``, or a range counts down.
    """
    found = list(itertools.islice(_expanded(text, text), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise AttarError(f"'{text}' names more than {MOST_FILES:,} files; shorten its ranges.")
    return list(dict.fromkeys(found))


def paths(text: str) -> list[Path]:
    """Return the files of this machine that a pattern names, in the order of the pattern, wildcards by name.

    Wildcards are as in ``fitting``. Raises AttarError when one of the files does not exist.
    """
    found: list[Path] = []
    for one in expand(text):
        path = Path(one).expanduser()
        if _WILD.search(str(path)):
            every = [Path(name) for name in glob.glob(str(path).replace("[", "[[]"))]  # noqa: PTH207 - Path.glob shows hidden files
            if not every:
                raise AttarError(f"There is no file {path}; check the path.")
            found += sorted(file for file in every if file.is_file())
        elif not path.is_file():
            raise AttarError(f"There is no file {path}, which '{text}' names; check the range and the path.")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def fitting(text: str, names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each text that the braces of ``text`` stand for, with those of the names that it fits, sorted.

    ``*`` and ``?`` stand for any characters but slashes, and not for the dot of a hidden file.
    """
    known = sorted(names)
    every = set(known)
    for wanted in expand(text):
        wild = _WILD.search(wanted)
        if wild is None:
            yield wanted, [wanted] if wanted in every else []
            continue
        start, pattern = wanted[: wild.start()], _regular(wanted)
        near = known[bisect_left(known, start) : bisect_left(known, start + chr(0x10FFFF))]
        yield wanted, [name for name in near if pattern.fullmatch(name)]


def _regular(wanted: str) -> re.Pattern[str]:
    """Return the regular expression of a text with wildcards."""
    meant = {"*": "[^/]*", "?": "[^/]"}
    parts = ["".join(meant.get(sign) or re.escape(sign) for sign in part) for part in wanted.split("/")]
    hidden = [r"(?!\.)" if part.startswith("[") else "" for part in parts]
    return re.compile("/".join(map("".join, zip(hidden, parts, strict=True))))


def _expanded(part: str, text: str) -> Iterator[str]:
    found = _INNERMOST.search(part)
    if found is None:
        yield part
        return
    for one in _between(found[1], text):
        yield from _expanded(part[: found.start()] + one + part[found.end() :], text)


def _between(inside: str, text: str) -> list[str]:
    """Return what one pair of braces stands for."""
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        return inside.split(",")
    first, last = int(counted[1]), int(counted[2])
    if last < first or last - first >= MOST_FILES:
        raise AttarError(
            f"'{text}' has the range {{{inside}}}, which must count upwards and name at most {MOST_FILES:,} files."
        )
    width = len(counted[1]) if counted[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]
