"""The verbs that give a set to other tools and people: export, push and pull."""

import importlib
from collections.abc import Callable
from pathlib import Path

from attar.core import plugin
from attar.core.errors import AttarError
from attar.core.parser import Parser

LAYOUTS = {"ddranking": "attar.exchange.ddranking", "fkd": "attar.exchange.fkd_files"}
"""Layouts of 'attar export', and their modules: each has ``export(run, out)``, which returns lines to print."""


def _export(arguments: list[str]) -> list[str]:
    parser = Parser("attar export", "Write a finished run in the layout of another tool.")
    parser.add_argument("layout", metavar="LAYOUT", help=" or ".join(LAYOUTS))
    parser.add_argument("run", type=Path, metavar="FOLDER", help="the --out folder of a run")
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="the new folder to write")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=None,
        metavar="N",
        help="layout fkd only: images per file of labels; default: the batch size that the labels were made for",
    )
    options = parser.parsed(arguments)
    if options.layout not in LAYOUTS:
        raise plugin.unknown("layout", options.layout, LAYOUTS)
    if options.out is None:
        raise AttarError(f"'attar export {options.layout}' needs a folder to write; add --out FOLDER.")
    if options.batch_size is not None and options.layout != "fkd":
        raise AttarError(f"The layout '{options.layout}' has no batches; leave out --batch-size.")
    choices = {} if options.batch_size is None else {"batch_size": options.batch_size}
    return importlib.import_module(LAYOUTS[options.layout]).export(options.run, options.out, **choices)


def _push(arguments: list[str]) -> list[str]:
    parser = Parser(
        "attar push",
        "Upload a distilled set to the Hugging Face Hub: images, labels, card and recipe. Log in with 'hf auth login', "
        "or set HF_TOKEN. To an address, such as s3://BUCKET/FOLDER or file:///FOLDER (a folder of this machine or a "
        "shared disk), all finished stages of the run are sent. An upload that broke off continues.",
    )
    parser.add_argument("run", type=Path, metavar="FOLDER", help="the --out folder of a run, or a distilled folder")
    parser.add_argument(
        "name",
        metavar="ORG/NAME",
        help="the dataset on the Hub, made if it does not exist; or an address: s3://BUCKET/FOLDER, file:///FOLDER",
    )
    parser.add_argument("--private", action="store_true", help="make a dataset that only you and ORG can see")
    options = parser.parsed(arguments)
    from attar import share
    from attar.store import objects

    if objects.is_address(options.name):
        if options.private:
            raise AttarError("--private is for the Hub; who may read an object store is set there.")
        return share.push_run(options.run, options.name)
    return share.push(options.run, options.name, options.private)


def _pull(arguments: list[str]) -> list[str]:
    parser = Parser(
        "attar pull",
        "Download a distilled set from the Hugging Face Hub, or a run from an object store or a folder "
        "(file:///FOLDER), into a folder, and check its files. A download that broke off continues.",
    )
    parser.add_argument(
        "name", metavar="ORG/NAME", help="the dataset on the Hub; or an address: s3://BUCKET/FOLDER, file:///FOLDER"
    )
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="the new folder to write")
    parser.add_argument("--revision", default="", metavar="NAME", help="a branch, tag or commit; default: the newest")
    options = parser.parsed(arguments)
    if options.out is None:
        raise AttarError(f"'attar pull {options.name}' needs a folder to write; add --out FOLDER.")
    from attar import share
    from attar.store import objects

    if objects.is_address(options.name):
        if options.revision:
            raise AttarError("--revision is for the Hub; object stores have no revisions.")
        return share.pull_run(options.name, options.out)
    return share.pull(options.name, options.out, options.revision)


VERBS: dict[str, Callable[[list[str]], list[str]]] = {"export": _export, "push": _push, "pull": _pull}
"""Each takes the words after the verb, and returns lines to print."""
