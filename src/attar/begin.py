"""Begin with pictures in place of a recipe: look at them, choose a recipe, print the reasons, and keep it as YAML."""

import contextlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attar.core import ranks
from attar.core.console import SafeConsole
from attar.core.errors import AttarError
from attar.core.printable import one_line
from attar.data.braces import names_files
from attar.data.choice import IN_MEMORY
from attar.data.survey import Survey
from attar.methods import random
from attar.recipes import reasons
from attar.recipes.arguments import Arguments, changed_by, labels_follow, split, without_effect
from attar.recipes.as_typed import stale, with_settings
from attar.recipes.catalogue import header_of, is_dataset, recipe_named
from attar.recipes.choose import Chosen, Wishes, choose
from attar.recipes.compared import bytes_of
from attar.recipes.fields import key_of
from attar.recipes.recipe import Recipe, from_yaml
from attar.store.objects import is_address

FILE = "chosen.yaml"
"""The chosen recipe in the run's folder, with the reasons as comments."""
CPU_SPEED, GPU_SPEED = 4e10, 1e13
"""Operations a second of one CPU thread and of a GPU, about; a run's time decides the size of the images."""
_MOST_THREADS = 8
_FOR = "Chosen by attar for: "
_TYPED = "With the settings: "
_NOTHING_MADE = ("show", "plan", "split")
"""Verbs that make nothing."""
_NUMBER = "recover.ipc"
_IPC = re.compile(r" --ipc (\d+)")
_IDLE = re.compile(r" --data\.(?!(?:root|size|classes|num[-_]classes|holdout)\b)\S+(?: (?!--)\S+)*")
"""Settings of the data that the choice does not depend on; earlier runs have them in their words."""
_WIDTH = 120
"""Columns of the table in a file or a pipe."""
_NARROW = 80
"""On a terminal of fewer columns a choice may take several lines, so that there is room for its reason."""
_EARLY = ("data.", "execution.", "seed")
"""Settings that the choice depends on."""


def help_recipe(verb: str, given: Arguments) -> tuple[Recipe[Any], str]:
    """Return the recipe whose settings a help text shows, and for pictures a sentence on where its values are from.

    For a folder that can be read it is the one chosen for it; for data elsewhere, and a folder without data, one like
    it.
    """
    base, about = _helped(given) if is_dataset(given.recipe) else (recipe_named(given.recipe), "")
    return changed_by(base, given.settings, f"attar {verb} {given.recipe}"), about


def _helped(given: Arguments) -> tuple[Recipe[Any], str]:
    if Path(given.recipe).expanduser().is_dir():
        with contextlib.suppress(AttarError):
            return chosen(replace(given, quiet=True)).recipe, "attar chooses the values below for these pictures."
    return _stand_in(given.recipe), "The values below are examples: attar looks at the pictures and chooses others."


def recipe_of(verb: str, given: Arguments) -> tuple[Recipe[Any], str]:
    """Return the recipe that a verb's words ask for, changed by the settings, and its header.

    For a dataset in place of a recipe a recipe is chosen, its reasons are printed, and it is kept in the run's folder
    with the settings typed; a run that was begun with the same words keeps its recipe. Raises AttarError with one
    sentence.
    """
    from attar.core.log import Log

    console, prog = Log(quiet=given.quiet).console, f"attar {verb} {given.recipe}"
    if is_dataset(given.recipe):
        base, recipe, header = _from_pictures(verb, given, console, prog)
    else:
        _refuse_gone(given)
        given = _without_wishes(given)
        base, header = recipe_named(given.recipe), header_of(given.recipe)
        recipe = changed_by(base, given.settings, prog)
    labelled = bool(given.out) and (Path(given.out) / "distilled" / "manifest.json").is_file()  # the run tells the rest
    if ranks.is_first() and not labelled and (sentence := labels_follow(base, recipe, given.settings)):
        console.print(sentence, markup=False, soft_wrap=True)
    idle = without_effect(recipe, given.settings, squeezes=verb == "squeeze")
    for sentence in idle if ranks.is_first() else ():
        console.print(f"warning: {sentence}", style="yellow", markup=False, soft_wrap=True)
    return recipe, header


def remember(given: Arguments, recipe: Recipe[Any]) -> None:
    """Put into the run's ``chosen.yaml`` what a finished run was changed by after the file was written.

    So the file is the recipe of the run that there is, and settings that a run refuses leave it as it was.
    """
    from attar.store import atomic

    path = Path(given.out) / FILE
    if not (is_dataset(given.recipe) and path.is_file() and ranks.is_first()):
        return
    before = from_yaml(path)
    if before.plain() == recipe.plain():
        return
    gone = (_TYPED, *(f"{row}: " for row in stale(before, recipe)))
    _, *kept = (line for line in _header(path) if not line.startswith(gone))
    typed = _merged(_typed_in(path), given)
    atomic.write_text(path, recipe.to_yaml("\n".join([f"{_FOR}{_words(given)}", *typed, *kept])))


def _without_wishes(given: Arguments) -> Arguments:
    """Return the words after a recipe's name: --ipc is short for --recover.ipc, and --budget is refused."""
    if given.budget:
        raise AttarError(
            f"--budget chooses a recipe for pictures, and '{given.recipe}' is a recipe; name a folder or hf:ORG/NAME "
            f"instead, set --recover.ipc, or see 'attar compare --help' for budgets of recipes."
        )
    return replace(given, ipc="", settings=(*given.settings, ("--recover.ipc", [given.ipc]))) if given.ipc else given


def _refuse_gone(given: Arguments) -> None:
    """Raise AttarError when the word for a recipe names the pictures that the run was begun with, which are gone."""
    path = Path(given.out) / FILE
    if not given.out or Path(given.recipe).expanduser().exists() or not path.is_file():
        return
    if " ".join(_header(path)[:1]).removeprefix(_FOR).split(" --")[0] == one_line(given.recipe):
        raise AttarError(
            f"The pictures in {given.recipe}, with which {given.out} was begun, are gone; bring them back, or name "
            f"their new place: attar run {path} --out {given.out} --data.source FOLDER."
        )


def _stand_in(source: str) -> Recipe[Any]:
    """Return a recipe with the settings of a chosen one."""
    found = Survey(classes=("A", "B"), counts=(500, 500), num_val=None, sizes=((64, 64),), grey=False)
    return choose(source, found, Wishes()).recipe


def _from_pictures(verb: str, given: Arguments, console: Console, prog: str) -> tuple[Recipe[Any], Recipe[Any], str]:
    """Return the chosen recipe, the same with the settings typed, and its header; prints the reasons."""
    if not given.out and verb not in _NOTHING_MADE:
        name = Path(given.recipe).name if Path(given.recipe).exists() else "mine"
        raise AttarError(f"'attar {verb}' needs a folder for its results; add --out runs/{name}.")
    words = _words(given)
    path = Path(given.out) / FILE if given.out else None
    typed = _typed(given)
    if path is not None and path.is_file() and (begun := _begun(path, words, typed)) is not None:
        header, more = begun
        how = f", with {more} images per class" if more else ""
        if ranks.is_first():
            console.print(f"The recipe in {path} is used, which was chosen before{how}.", markup=False, soft_wrap=True)
        base = from_yaml(path)
        base = base.changed(recover=base.recover.changed(ipc=more or base.recover.ipc))
        if given.budget and not base.budget_bytes:  # as earlier versions kept it
            base = base.changed(budget_bytes=bytes_of(given.budget))
        return base, changed_by(base, given.settings, prog), header
    if path is not None and path.parent.is_file():
        raise AttarError(f"--out {path.parent} is a file; give a folder, which may not exist yet.")
    found = chosen(given)
    if verb not in _NOTHING_MADE and found.stops:
        raise AttarError(found.stops)
    others = [(flag, values) for flag, values in given.settings if key_of(flag) != _NUMBER]  # which the choice has
    base, found = found.recipe, with_settings(found, changed_by(found.recipe, others, prog))
    again = f"attar run {FILE} --out FOLDER"
    if given.recipe.startswith(IN_MEMORY):
        again = f"attar.distil(DATA, out=FOLDER, recipe='{FILE}')"
    how = f"Change what you like, then: {again}"
    header = "\n".join([f"{_FOR}{words}", *([f"{_TYPED}{typed}"] if typed else []), how, found.header()])
    if ranks.is_first():
        if verb == "plan":
            console = SafeConsole(highlight=False)
        if not console.is_terminal:
            console.width = _WIDTH
        print_reasons(found, console, with_time=verb != "plan")
        if typed:
            console.print(f"With the settings that you typed: {typed}", markup=False, soft_wrap=True)
        if path is not None and verb not in _NOTHING_MADE:
            _keep(path, found.recipe.to_yaml(header), given.recipe, console)
    return base, found.recipe, header


def _keep(path: Path, text: str, source: str, console: Console) -> None:
    """Write the chosen recipe into the run's folder."""
    from attar.store import atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)
    how = "give it to attar.distil as its recipe" if source.startswith(IN_MEMORY) else "run it"
    console.print(f"This recipe is in {path}: change it and {how}.", markup=False, soft_wrap=True)


def choose_for(source: Path | str, *, budget: int | str = "", ipc: int | None = None) -> Chosen:
    """Look at a dataset (a folder, hf:ORG/NAME or a known name) and choose a recipe for it, with reasons.

    ``budget`` is what images and labels may take together, in bytes or as '5MB'; ``ipc`` the images per class. Change
    ``.recipe`` by ``.recipe.changed(...)``, and give it to ``attar.run``. Raises AttarError as ``attar run`` does.
    """
    if not isinstance(source, str | Path):
        raise AttarError(
            f"attar.choose takes a folder, hf:ORG/NAME or the name of a dataset, not a {type(source).__name__}; "
            f"attar.distil takes data in memory."
        )
    size = f"{budget}B" if isinstance(budget, int) else budget
    return chosen(Arguments(str(source), budget=size, ipc="" if ipc is None else str(ipc)))


def chosen(given: Arguments) -> Chosen:
    """Look at the pictures and choose a recipe; settings of data and device count."""
    import torch

    from attar.core.device import resolve
    from attar.core.log import Log
    from attar.data.named import KNOWN
    from attar.data.survey import survey

    source = given.recipe
    typed = changed_by(_stand_in(source), _early(given), f"attar run {source}")
    data = typed.data
    found = survey(data.changed(source=source), Log(quiet=given.quiet), typed.seed)
    device = resolve(typed.execution).device
    gpu = device.type == "cuda"
    threads = typed.execution.threads or torch.get_num_threads()
    asked = {key_of(flag): values for flag, values in given.settings}
    ipc = given.ipc or " ".join(asked.get(_NUMBER, ()))
    own_teachers, teacher_bytes = _typed_teachers(given, len(found.classes), data.size)
    wishes = Wishes(
        budget=bytes_of(given.budget) if given.budget else None,
        ipc=_number(ipc) if ipc else None,
        size=data.size if "data.size" in asked else None,
        skips=data.on_corrupt == "skip",
        every_class="data.classes" in asked,
        own_teachers=own_teachers,
        teacher_bytes=teacher_bytes,
        real=_wants_real(asked),
        holdout=data.holdout if "data.holdout" in asked else None,
        gpu=gpu,
        speed=GPU_SPEED if gpu else CPU_SPEED * min(threads, _MOST_THREADS),
    )
    folder = Path(source).expanduser()
    local = (folder.is_dir() and source not in KNOWN) or (names_files(source) and not is_address(source))
    return choose(str(folder.absolute()) if local else source, found, wishes)


def _typed_teachers(given: Arguments, num_classes: int, size: int) -> tuple[tuple[int, ...], int]:
    """Return the bytes of each teacher whose weights the settings name, and those of a teacher that is trained here.

    The first are () if one is trained here. 0 stands for a network that is not named, which is the chosen one.
    """
    typed = [(flag, values) for flag, values in given.settings if key_of(flag).startswith("squeeze.")]
    asked = {key_of(flag).removeprefix("squeeze.") for flag, _ in typed}
    if asked.isdisjoint(("architecture", "weights", "members")):
        return given.own_teachers, 0
    from attar.models import compact
    from attar.plan.calibrate import untrained_network

    base = _stand_in(given.recipe)
    base = base.changed(squeeze=base.squeeze.changed(members=()))
    usual, each = base.squeeze.architecture, changed_by(base, typed, f"attar run {given.recipe}").squeeze.each
    built = [untrained_network(one, size, num_classes) for one in each]
    sizes = tuple(0 if name == usual else compact.stored_bytes(net.state_dict(), "int8") for net, name, _ in built)
    if all(one.weights for one in each):
        return sizes, 0
    return given.own_teachers, max(sizes)


def print_reasons(found: Chosen, console: Console, with_time: bool = True) -> None:
    """Print the choices as a table, with the reason of each, and what the user should know.

    ``with_time=False`` leaves out the reckoned time of the run, for 'attar plan', which measures it.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("attar chooses", "", "because"):
        table.add_column(name, no_wrap=not name and console.width >= _NARROW, overflow="fold")
    for one in found.reasons:
        if one.what == reasons.TIME and not with_time:
            continue
        table.add_row(*(escape(one_line(cell)) for cell in (one.what, one.choice, one.why)))
    console.print(table)
    for sentence in found.warnings:
        console.print(f"warning: {sentence}", markup=False, soft_wrap=True)


def _header(path: Path) -> list[str]:
    """Return the comment lines of a kept recipe."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def _begun(path: Path, words: str, typed: str) -> tuple[str, int] | None:
    """Return the header of a kept recipe, and the images per class that the words ask for if that is all they change.

    Returns None if nothing was run with the recipe, and it was chosen for other words or settings. The number is 0 if
    it stays.
    """
    header, has_work = _header(path), _has_work(path.parent)
    begun = header[0].removeprefix(_FOR) if header else ""
    begun = _IDLE.sub("", begun)
    if begun == words and (has_work or _typed_in(path) == typed):
        return "\n".join(header), 0
    if not has_work:
        return None
    before, now = (_IPC.search(each) for each in (begun, words))
    if before and now and _IPC.sub("", begun) == _IPC.sub("", words) and int(now[1]) > int(before[1]):
        return "\n".join(header), int(now[1])
    if words.startswith(IN_MEMORY):
        raise AttarError(
            f"{path.parent} was begun for '{begun}', and not for '{words}'; choose another folder for out, or continue "
            f"it with recipe='{path}' (ipc=N adds images)."
        )
    raise AttarError(
        f"{path.parent} was begun for '{begun}', and not for '{words}'; choose another --out, or continue it by: "
        f"attar run {path} --out {path.parent} (--recover.ipc N adds images)."
    )


def _has_work(run: Path) -> bool:
    """Return whether a stage of a run has made more than its plan, such as a checkpoint."""
    made = (path for stage in ("squeeze", "recover") for path in (run / stage).rglob("*") if path.is_file())
    return any(path.name != "plan.json" and path.suffix != ".jsonl" for path in made)


def _words(given: Arguments) -> str:
    """Return the words that the choice depends on, as they are typed, without the device: a run may change it."""
    options = [("--budget", given.budget), ("--ipc", given.ipc)]
    typed = [f"{name} {value}" for name, value in options if value]
    typed += [" ".join([flag, *values]) for flag, values in _early(given) if key_of(flag).startswith("data.")]
    return _IDLE.sub("", one_line(" ".join([given.recipe, *typed])))


def _typed(given: Arguments) -> str:
    """Return the settings typed, as they can be typed again."""
    return one_line(shlex.join(word for flag, values in given.settings for word in (flag, *values)))


def _typed_in(path: Path) -> str:
    """Return the settings that a kept recipe was changed by."""
    return next((line.removeprefix(_TYPED) for line in _header(path) if line.startswith(_TYPED)), "")


def _merged(before: str, given: Arguments) -> list[str]:
    """Return the header's line on settings: those typed before and now, of a repeated one the last."""
    kept = split("run", [given.recipe, *shlex.split(before)]).settings
    known = {key_of(flag): (flag, values) for flag, values in (*kept, *given.settings)}
    typed = _typed(replace(given, settings=tuple(known.values())))
    return [f"{_TYPED}{typed}"] if typed else []


def _early(given: Arguments) -> list[tuple[str, list[str]]]:
    return [(flag, values) for flag, values in given.settings if key_of(flag).startswith(_EARLY)]


def _wants_real(asked: Mapping[str, list[str]]) -> bool | None:
    """Return whether the settings typed are for real pictures as they are; None if they are for neither."""
    if "method" in asked:
        return asked["method"] == ["random"]
    return False if any(map(_distils, asked)) else None


def _distils(key: str) -> bool:
    """Return whether a typed setting is for a method that distils, which real pictures as they are do not have."""
    group, _, name = key.partition(".")
    return group == "recover" and name not in random.Config.model_fields


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise AttarError(f"--ipc takes a number of images per class, 1 or more, not '{text}'.")
    return int(text)
