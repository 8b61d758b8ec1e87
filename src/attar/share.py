"""Share distilled sets on the Hugging Face Hub, and runs in object stores: push one, or pull one into a folder."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from attar.core.errors import AttarError
from attar.core.log import Log, readable_bytes
from attar.report import card, table
from attar.report.card import RECIPE
from attar.report.table import Line
from attar.stages.dataset_info import INFO, DatasetInfo, read_info, write_info
from attar.stages.distilled import Distilled, folder_in
from attar.stages.mirror import Mirror, stages_of
from attar.stages.run import Run, labels_in
from attar.store import hub, sealed

CARD = "README.md"
_PARTS = ("data", "labels", "teacher")
"""Folders of a distilled set."""
_REPLACED = ("data/*.parquet", "labels/*", "teacher/*", RECIPE)
"""Files of an earlier push that go when the new set lacks them."""
_LOCAL = re.compile(r"[~/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")
"""How paths begin that mean something on this machine only."""


def push(run: Path, name: str, private: bool = False) -> list[str]:
    """Upload the distilled set of a run, or a distilled folder, to the dataset ORG/NAME; returns lines to print.

    Images, labels, card and recipe are sent, in few large files; what the Hub has already is not sent again. Paths of
    this machine are left out of the recipe and of ``dataset.json``. ``private`` makes a new dataset private. Raises
    AttarError, before anything is sent, when the set is incomplete or damaged, the name is malformed, there is no
    access token, or the name holds something else.
    """
    name = hub.name_in(name)
    folder = folder_in(run)
    info, files = _whole(run, folder)
    hub.refuse_offline()
    hub.refuse_without_token()
    with tempfile.TemporaryDirectory(prefix="attar-push-") as made:
        staged = Path(made)
        for file in files:
            (staged / file).parent.mkdir(parents=True, exist_ok=True)
            (staged / file).symlink_to((folder / file).resolve())
        _write_pages(staged, run, folder, info, name)
        sizes = [path.stat().st_size for path in staged.rglob("*") if path.is_file()]
        log = Log()
        log.say(f"push      {len(sizes)} files, {readable_bytes(sum(sizes))}, to the Hub's dataset {name}")
        with log.heartbeat("push"):
            url = _upload(staged, name, private)
    return [
        f"{url}: {info.num_images:,} images of {len(info.classes):,} classes, {readable_bytes(sum(sizes))} in "
        f"{len(sizes)} files",
        f'Open it with attar.load("{name}") or datasets.load_dataset("{name}").',
    ]


def pull(name: str, out: Path, revision: str = "") -> list[str]:
    """Download the dataset ORG/NAME into a new folder, and check every file of it; returns lines to print.

    An interrupted pull continues. Raises AttarError when the set cannot be had, is damaged, or ``out`` holds other
    files.
    """
    name = hub.name_in(name)
    unfinished = out / ".cache" / "huggingface"  # where the Hub's client keeps the state of a download
    if out.exists() and not unfinished.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise AttarError(f"{out} exists and is not empty; choose a new folder with --out.")
    log = Log()
    log.say(f"pull      the Hub's dataset {name} into {out}")
    with log.heartbeat("pull"):
        hub.fetch(name, revision, out)
    info = read_info(out)
    sealed.check_all(out, info.files)
    Distilled(out)
    shutil.rmtree(unfinished.parent)
    labels = f"{card.label_name(info)} {readable_bytes(info.label_bytes)}"
    return [
        f"{out}: {info.num_images:,} images of {len(info.classes):,} classes, {info.size} pixels, "
        f"{readable_bytes(info.image_bytes)}; {labels}",
        f'Open it with attar.load("{out}").',
    ]


def push_run(run: Path, address: str) -> list[str]:
    """Send the finished stages of a run to a folder in an object store; returns a line to print.

    What is there already is not sent again. Raises AttarError when no stage is finished, or the folder holds something
    else.
    """
    log = Log()
    log.say(f"push      the finished stages of {run} to {address}")
    with log.heartbeat("push"):
        sent = Mirror(run, address, log).push()
    how = f"{readable_bytes(sent)} sent" if sent else "all of it is there already"
    return [f"{address}: {how}. Fetch it with attar pull {address} --out FOLDER."]


def pull_run(address: str, out: Path) -> list[str]:
    """Fetch a run from a folder in an object store, and check every file; returns a line to print.

    An interrupted pull continues. Raises AttarError when there is no run, or ``out`` holds other stages.
    """
    log = Log()
    log.say(f"pull      {address} into {out}")
    with log.heartbeat("pull"):
        fetched = Mirror(out, address, log).pull()
    if not stages_of(out):
        raise AttarError(f"{address} holds no run that attar sent there; check the address.")
    how = f"{readable_bytes(fetched)} fetched from {address}" if fetched else f"it has all that {address} has"
    opened = f' Open it with attar.load("{out}").' if (out / "distilled" / INFO).is_file() else ""
    return [f"{out}: {how}.{opened}"]


def _whole(run: Path, folder: Path) -> tuple[DatasetInfo, list[str]]:
    """Return a set's info and files, all checked; raises AttarError when the set is unfinished or damaged."""
    if not (folder / INFO).is_file() and any((run / stage).is_dir() for stage in ("squeeze", "recover")):
        labels_in(run / "distilled")  # says which stage is not finished
    info = read_info(folder)
    Distilled(folder)
    sealed.check_all(folder, info.files)
    files = list(info.files) or [
        path.relative_to(folder).as_posix()
        for part in _PARTS
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    return info, files


def _write_pages(staged: Path, run: Path, folder: Path, info: DatasetInfo, name: str) -> None:
    """Write card, recipe and ``dataset.json`` for other machines."""
    write_info(staged, DatasetInfo.of(without_paths(info.plain()), str(folder / INFO)))
    recipe, evaluated = run / RECIPE, list[Line]()
    if recipe.is_file():
        values = without_paths(yaml.safe_load(recipe.read_text(encoding="utf-8")))
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
        (staged / RECIPE).write_text(text, encoding="utf-8")
    if folder != run and Run(run).is_done("evaluate"):
        evaluated = table.lines(run)
    if folder == run and (run / CARD).is_file():  # a set without its run: its card has the scores
        (staged / CARD).write_text((run / CARD).read_text(encoding="utf-8"), encoding="utf-8")
        return
    kept = Run(run).images.kept_classes if folder != run and Run(run).is_done("recover") else ()
    again = (staged / RECIPE).read_text(encoding="utf-8") if recipe.is_file() else ""
    text = card.text(info, evaluated, name, again, kept)
    (staged / CARD).write_text(text, encoding="utf-8")


def without_paths(value: Any) -> Any:
    """Return plain values in which paths of this machine are cut down to their last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    if isinstance(value, str) and _LOCAL.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _upload(staged: Path, name: str, private: bool) -> str:
    """Send a folder to the Hub; returns the dataset's address."""
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="attar")
    hub.hide_progress()
    with hub.explained(name):
        url = api.create_repo(name, repo_type="dataset", private=private or None, exist_ok=True)
        found = api.dataset_info(name)
        held = {one.rfilename for one in found.siblings or ()} - {".gitattributes", CARD}
        if private and not found.private:
            raise AttarError(
                f"'{name}' exists on the Hub and is public; make it private there, choose another name, or leave out "
                f"--private."
            )
        if held and not (INFO in held and _is_ours(name)):
            raise AttarError(f"'{name}' on the Hub holds files that attar did not write; choose another name.")
        options: dict[str, Any] = {
            "repo_id": name,
            "repo_type": "dataset",
            "commit_message": "Upload a distilled dataset",
        }
        if not held:  # first, so that an upload that breaks off is known to be attar's
            api.upload_file(path_or_fileobj=staged / INFO, path_in_repo=INFO, **options)
        api.upload_folder(folder_path=staged, delete_patterns=list(_REPLACED), **options)
    return str(url)


def _is_ours(name: str) -> bool:
    """Return whether the ``dataset.json`` that is on the Hub describes a distilled set."""
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix="attar-push-") as folder:
        huggingface_hub.hf_hub_download(name, INFO, repo_type="dataset", local_dir=folder)
        try:
            read_info(Path(folder))
        except AttarError:
            return False
    return True
