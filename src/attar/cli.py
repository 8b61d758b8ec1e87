"""The command line: verbs and their options. PyTorch is imported only by verbs that need it."""

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attar import verbs
from attar.core import interruption, plugin, ranks
from attar.core.errors import AttarError, disk_full
from attar.core.interruption import Interrupted
from attar.core.parser import Parser
from attar.core.printable import one_line

if TYPE_CHECKING:
    from attar.recipes.arguments import Arguments
    from attar.recipes.recipe import Recipe

USAGE = """\
usage: attar VERB ...

  attar list recipes|methods|datasets|models|protocols [PATTERN]
  attar run PICTURES --out FOLDER [--budget 5MB] [--ipc 10]
                                  distil your own pictures, or hf:ORG/NAME
  attar run RECIPE --out FOLDER   turn real data into a distilled set and scores
  attar plan PICTURES|RECIPE      what would be made, in which time and memory
  attar split PICTURES|RECIPE     which real pictures are for training, as CSV
  attar show RECIPE               print the recipe with every setting
  attar squeeze|recover|relabel|evaluate RECIPE --out FOLDER
                                  run one stage
  attar compare RECIPE --methods NAME ... --budgets SIZE ... --out FOLDER
                                  run several methods at several sizes in bytes
  attar watch FOLDER              show how far a run is, and its warnings
  attar report FOLDER ...         tables, figures and web pages of finished runs
  attar export LAYOUT FOLDER --out FOLDER
                                  write a run in the layout of another tool
  attar push FOLDER ORG/NAME      share a set on the Hugging Face Hub
  attar pull ORG/NAME --out FOLDER
                                  download a set from the Hub
  attar doctor                    show what this machine has and what stops runs

'attar VERB --help' explains a verb, 'attar run RECIPE --help [WORD]' settings.
"""
VERBS = {"list": "attar.recipes.lists", "watch": "attar.report.watch", "doctor": "attar.plan.doctor"}
"""Verbs in modules of their own, which have ``main(arguments)``."""
STAGES = ("squeeze", "recover", "relabel", "evaluate")
WIDEST_HELP = 100
"""Longest line of a help page, in characters."""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Errors that the user can fix end with one sentence and exit code 2."""
    is_program = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    if is_program:
        interruption.handle_signals()
    try:
        with ranks.group():
            _dispatch(arguments)
    except AttarError as error:
        _fail(str(error))
    except KeyboardInterrupt as error:
        code = error.code if isinstance(error, Interrupted) else 130
        if is_program:
            interruption.end(code)
        _fail(interruption.message(), code)
    except BrokenPipeError:  # the reader of our output has gone, as in 'attar list models | head'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not (sentence := disk_full(error)):
            raise
        _fail(sentence)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    verb, rest = arguments[0], arguments[1:]
    runs = verb in ("run", "compare", *STAGES)
    restarts = "Interrupted; the same command starts from the beginning."
    interruption.set_message(interruption.MESSAGE if runs or verb in ("push", "pull") else restarts)
    if verb in ("--version", "version"):
        from attar import __version__

        print(__version__)
    elif verb == "show":
        _show(rest)
    elif verb == "plan":
        _plan(rest)
    elif verb == "split":
        _split_of_data(rest)
    elif verb == "compare":
        _compare(rest)
    elif runs:
        _run(verb, rest)
    elif verb == "report":
        _report(rest)
    elif verb in verbs.VERBS:
        for line in verbs.VERBS[verb](rest):
            print(one_line(line))
    elif verb in VERBS:
        importlib.import_module(VERBS[verb]).main(rest)
    else:
        known = ("show", "plan", "split", "run", *STAGES, "compare", "report", *verbs.VERBS, *VERBS)
        raise plugin.unknown("verb", verb, (*known, "--help", "--version"))


def _show(arguments: list[str]) -> None:
    recipe, header, given = _recipe("show", arguments)
    if given.plan:
        from attar import pipeline

        header += "\n\n" + pipeline.plan(recipe, quiet=given.quiet)
    print(recipe.to_yaml(header), end="")


def _plan(arguments: list[str]) -> None:
    recipe, _, given = _recipe("plan", arguments)
    from attar import pipeline

    print(pipeline.plan(recipe, quiet=given.quiet, out=given.out))


def _split_of_data(arguments: list[str]) -> None:
    recipe, _, given = _recipe("split", arguments)
    from attar.core.log import Log
    from attar.data import listing

    listing.write_csv(listing.listing(recipe.data, recipe.seed, Log(quiet=given.quiet)), sys.stdout)


def _run(verb: str, arguments: list[str]) -> None:
    if "--plan" in arguments and verb == "run":
        _plan([word for word in arguments if word != "--plan"])
        return
    recipe, _, given = _recipe(verb, arguments)
    if not given.out:
        raise AttarError(f"'attar {verb}' needs a folder for its results; add --out runs/{recipe.name}.")
    from attar import begin, pipeline
    from attar.launch import choice

    stage = "" if verb == "run" else verb
    with choice.launched(given.launcher, given.address, recipe, Path(given.out), stage, given.quiet):
        result = pipeline.run(recipe, given.out, stage=stage, quiet=given.quiet)
    begin.remember(given, recipe)
    if result.table and verb in ("run", "evaluate"):
        from attar.report import printed

        printed.print_tables([result.out], result.table)


def _compare(arguments: list[str]) -> None:
    from attar.recipes.compared import budgets_of, contenders

    given = _split("compare", arguments)
    listed = {flag: values for flag, values in given.settings if flag in ("--methods", "--budgets")}
    settings = [pair for pair in given.settings if pair[0] not in listed]
    if given.help is not None:
        from attar.recipes import help_page
        from attar.recipes.catalogue import recipe_named

        _print_and_end(help_page.page(recipe_named(given.recipe), "compare", given.recipe, given.help, _width()))
    _refuse_launcher("compare", given)
    methods = contenders(given.recipe, listed.get("--methods", ()), settings)
    budgets = budgets_of(listed.get("--budgets", ()))
    if not given.out and not given.plan:
        raise AttarError("'attar compare' needs a folder for its results; add --out runs/compared, or --plan.")
    if Path(given.out).is_file():
        raise AttarError(f"--out {given.out} is a file; give a folder, which may not exist yet.")
    from attar import compare
    from attar.core.console import SafeConsole
    from attar.core.log import Log

    log, out = Log(quiet=given.quiet), Path(given.out)
    console = SafeConsole(highlight=False, quiet=not ranks.is_first())
    for each in (console, log.console):
        if not each.is_terminal:
            each.width = 100
    cells = compare.planned(methods, budgets, out, log)
    if given.plan:
        seconds = compare.expected_seconds(cells, log)
        compare.print_plan(cells, console, seconds)
        return
    compare.print_plan(cells, log.console)
    lines = compare.run(cells, out, log)
    failed = [line for line in lines if line.state == "failed"]
    compare.print_results(lines, out, console)
    if failed:
        raise AttarError(
            f"{len(failed)} of {len(cells)} runs failed: {failed[0].title} ({failed[0].why.rstrip('.')}); fix it and "
            f"run the same command again, which keeps the others."
        )


def _report(arguments: list[str]) -> None:
    parser = Parser("attar report", "Print tables of finished runs, and write web pages with their images.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="FOLDER", help="the --out folder of a run")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write the table with every column here, and the stages' manifests to FILE with the ending .json",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write web pages of the runs here; open index.html")
    parser.add_argument("--ranking", action="store_true", help="print DD-Ranking's scores instead of the tables")
    options = parser.parsed(arguments)
    if options.csv and options.csv.suffix == ".json":
        raise AttarError(f"--csv {options.csv} would be overwritten by the manifests; use a name that ends with .csv.")
    if options.out and (options.ranking or options.out.is_file()):
        why = "is a file; give a folder" if options.out.is_file() else "cannot be combined with --ranking"
        raise AttarError(f"--out {options.out} {why}.")
    from attar.report import printed

    if options.ranking:
        printed.print_rankings(options.runs, options.csv)
    else:
        printed.report(options.runs, options.csv, options.out)


def _recipe(verb: str, arguments: list[str]) -> tuple["Recipe[Any]", str, "Arguments"]:
    """Return the recipe changed by the settings, its header and all arguments; prints help and ends if it is requested.

    For a dataset in place of a recipe, a recipe is chosen.
    """
    from attar import begin
    from attar.recipes import help_page

    given = _split(verb, arguments)
    if given.plan and verb != "show":
        raise AttarError(f"'attar {verb}' has no --plan; use 'attar plan {given.recipe}' to estimate time and memory.")
    if given.out and verb in ("show", "split"):
        raise AttarError(f"'attar {verb}' has no --out; redirect its output to a file instead.")
    if verb in ("show", "plan", "split"):
        _refuse_launcher(verb, given)
    if given.help is not None:
        recipe, about = begin.help_recipe(verb, given)
        _print_and_end(help_page.page(recipe, verb, given.recipe, given.help, _width(), about))
    return *begin.recipe_of(verb, given), given


def _refuse_launcher(verb: str, given: "Arguments") -> None:
    for flag, value in (("--launcher", given.launcher), ("--address", given.address)):
        if value:
            raise AttarError(f"'attar {verb}' has no {flag}; use it with 'attar run' or the verb of a stage.")


def _split(verb: str, arguments: list[str]) -> "Arguments":
    """Return the parsed words after a verb that takes a recipe; prints the usage and ends without a recipe."""
    from attar.recipes import help_page
    from attar.recipes.arguments import split

    given = split(verb, arguments)
    if not given.recipe:
        _print_and_end(help_page.usage(verb, _width()))
    return given


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST_HELP)


def _print_and_end(text: str) -> NoReturn:
    print(text, end="")
    raise SystemExit(0)


def _fail(sentence: str, code: int = 2) -> NoReturn:
    """Print the sentence, in only one of several processes, and end with the exit code."""
    if interruption.should_report(code):
        print(f"attar: {one_line(sentence)}", file=sys.stderr)
    raise SystemExit(code)
