"""Datasets of the ``datasets`` package: saved on disk by it, or fetched from the Hugging Face Hub."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from attar.core.errors import AttarError
from attar.core.log import Log
from attar.core.printable import one_line
from attar.data import columns, content, splits
from attar.data.picture import Unreadable, decode
from attar.data.source import Found, hashed
from attar.store import hub
from attar.store.hub import PREFIX


class HubRows(columns.Table):
    """Images in the rows of a ``datasets.Dataset``, which maps its files into memory."""

    def __init__(self, rows: Any, where: str) -> None:
        """Raises AttarError when there is no column of encoded images or none of class indices."""
        import datasets

        name = columns.find(rows.column_names, columns.IMAGE, "image", where)
        label = columns.find(rows.column_names, columns.LABEL, "label", where)
        kind = rows.features[name]
        if not isinstance(kind, datasets.Image) and getattr(kind, "dtype", "") not in ("binary", "large_binary"):
            raise AttarError(f"The column '{name}' of {where} holds no encoded images; cast it to datasets.Image().")
        table = rows.select_columns([label]).with_format("arrow")[:]
        self.column = columns.labels([table.column(0)], [where])
        self.labels, self.class_names = self.column.values, getattr(rows.features[label], "names", None)
        encoded = rows.select_columns([name])
        if isinstance(kind, datasets.Image):
            encoded = encoded.cast_column(name, datasets.Image(decode=False))
        self._rows = encoded
        self._column, self._where = name, where

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def encoded(self, index: int) -> bytes:
        cell = self._rows[int(index)][self._column]
        if isinstance(cell, dict):
            if cell["bytes"] is None and cell["path"]:
                return self._from_file(Path(cell["path"]), index)
            cell = cell["bytes"]
        if cell is None:
            raise Unreadable(self.where(index), "the row holds no bytes")
        return cell

    def _from_file(self, path: Path, index: int) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unreadable(self.where(index), error.strerror or "it cannot be opened") from None

    def where(self, index: int) -> str:
        return f"{self._where} row {index}"

    def identity(self) -> str:
        """Of names, sizes and labels, and of what the rows hold, as far as ``content`` reads them."""
        return hashed(self.former_identity().encode(), self._content)

    def stamp(self) -> str | None:
        files = [Path(one["filename"]) for one in self._rows.cache_files]
        first = self._rows[0][self._column] if len(self) else None
        if not files or (isinstance(first, dict) and first["bytes"] is None):  # images are files of their own
            return None
        return content.stamps(files)

    @cached_property
    def _content(self) -> bytes:
        # images in files of their own are not counted in num_bytes, so the size of all is estimated from a few
        few = np.linspace(0, len(self) - 1, min(len(self), 16)).round().astype(np.int64).tolist()
        size = max((len(self._encoded_or_empty(index)) for index in few), default=0)
        chosen, whole = content.sampled(np.full(len(self), size))
        total = hashlib.sha256()
        for data in self._all_encoded() if whole else map(self._encoded_or_empty, chosen):
            total.update(hashlib.sha256(data if whole else content.middle(data)).digest())
        return total.digest()

    def _all_encoded(self) -> Iterator[bytes]:
        """As ``_encoded_or_empty`` for each row, many times as fast."""
        tables = self._rows.with_format("arrow").iter(batch_size=1000)
        cells = (cell for table in tables for chunk in table.column(0).chunks for cell in _encoded_cells(chunk))
        for index, cell in enumerate(cells):
            yield self._encoded_or_empty(index) if cell is None else cell

    def _encoded_or_empty(self, index: int) -> bytes:
        """One image's file; nothing where it cannot be read, which is found out when it is decoded."""
        try:
            return self.encoded(index)
        except Unreadable:
            return b""

    def former_identity(self) -> str:
        tables = self._rows.with_format("arrow").iter(batch_size=1000)
        parts = [_names_and_bytes(chunk) for table in tables for chunk in table.column(0).chunks]
        names = "\n".join(name for names, _ in parts for name in names)
        return hashed(names.encode(), np.concatenate([sizes for _, sizes in parts]), self.labels)

    def num_bytes(self) -> int:
        return int(self._rows.data.nbytes)


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` of the datasets package wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "dataset_info.json").is_file() and (path / "state.json").is_file()
    )


def read_saved(path: Path, log: Log) -> Found:
    """A folder that ``save_to_disk`` wrote. Raises AttarError when it is damaged or the package is missing."""
    package = _package(str(path), log)
    try:
        loaded = package.load_from_disk(str(path))
    except Exception as error:  # the package raises errors of many kinds
        raise AttarError(f"{path} cannot be loaded ({_first_line(error)}); save the dataset again.") from None
    return found(loaded, str(path), path, log)


def read_hub(source: str, log: Log) -> Found:
    """A dataset of the Hub, ``hf:ORG/NAME`` or ``hf:ORG/NAME:CONFIGURATION``.

    Raises AttarError when it cannot be had, with the reason.
    """
    name, _, configuration = source.removeprefix(PREFIX).partition(":")
    if not (hub.is_name(name) or re.fullmatch(r"\w[\w.-]*", name, flags=re.ASCII)):
        raise AttarError(f"'{source}' is not a dataset of the Hub; write hf:ORG/NAME, such as hf:uoft-cs/cifar10.")
    package = _package(source, log)
    try:
        loaded = package.load_dataset(name, configuration or None)
    except Exception as error:  # the package, its client and the network raise errors of many kinds
        raise AttarError(_why(error, name, configuration, package)) from None
    whole = found(loaded, source, None, log)
    return replace(whole, licence=_licence(name)) if whole.licence == "unknown" else whole


def _licence(name: str) -> str:
    """Return the licence that the dataset's card states, which ``datasets`` has downloaded; else 'unknown'."""
    import huggingface_hub

    with contextlib.suppress(Exception):  # there is no card, or none that can be read
        card = huggingface_hub.hf_hub_download(name, "README.md", repo_type="dataset", local_files_only=True)
        stated = (huggingface_hub.metadata_load(card) or {}).get("license")
        terms = ", ".join(map(str, stated if isinstance(stated, list) else [stated or "unknown"]))
        return one_line(terms)[:80]
    return "unknown"


def _why(error: Exception, name: str, configuration: str, package: Any) -> str:
    """Return in a sentence why a dataset of the Hub could not be loaded."""
    source = f"{PREFIX}{name}"
    if isinstance(error, ValueError):
        with contextlib.suppress(Exception):
            known = package.get_dataset_config_names(name)
            if configuration not in known and (configuration or len(known) > 1):
                few = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
                return f"'{source}' has the configurations {few}; name one of them, as in {source}:{known[0]}."
    if isinstance(error, package.exceptions.DatasetNotFoundError):  # which hides the Hub's own error
        if "gated" in str(error):
            return f"Access to '{name}' is restricted; ask for it on the dataset's page, then {hub.LOG_IN}."
        return f"The Hub has no dataset '{name}' that you may use; check the name, and for a private one {hub.LOG_IN}."
    if isinstance(error, ConnectionError):
        if package.config.HF_HUB_OFFLINE:
            return f"HF_HUB_OFFLINE is set, and '{name}' was not downloaded before; unset it, or name a folder."
        return f"The Hub cannot be reached for '{name}'; check the network and HF_ENDPOINT, or name a folder."
    return f"'{source}' cannot be loaded ({_first_line(error)}); check the dataset's page, or name a folder."


def found(loaded: Any, where: str, folder: Path | None, log: Log) -> Found:
    """Return what splits of a ``datasets.Dataset`` hold; ``where`` names them in errors."""
    parts: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    train_name = next(iter(splits.training(parts)), None)
    if train_name is None:
        raise AttarError(f"{where} has no split 'train', only {', '.join(parts)}; rename the one to train on.")
    train = HubRows(parts[train_name], f"{where} ({train_name})")
    places = {f"{where} ({name})": name for name in splits.validation(parts)}
    vals = {place: partial(HubRows, parts[name], place) for place, name in places.items()}
    made, stated = columns.dataset(train, vals, where, folder, log), getattr(parts[train_name].info, "license", "")
    return replace(made, licence=stated) if made.licence == "unknown" and stated else made


def _encoded_cells(cells: pa.Array) -> list[bytes | None]:
    return (cells.field("bytes") if isinstance(cells, pa.StructArray) else cells).to_pylist()


def _names_and_bytes(cells: pa.Array) -> tuple[list[str], np.ndarray]:
    """File names, without their folders, and bytes of encoded images; no bytes are counted for images kept in files."""
    names = []
    if isinstance(cells, pa.StructArray):
        paths = cells.field("path").to_pylist()
        names = [path.replace("\\", "/").rpartition("/")[2] if path else "" for path in paths]
        cells = cells.field("bytes")
    return names, pc.call_function("binary_length", [cells]).fill_null(0).to_numpy(zero_copy_only=False)


def _package(source: str, log: Log) -> Any:
    try:
        import datasets
    except ImportError:
        raise AttarError(f"'{source}' needs the datasets package; install it with pip install 'attar[hub]'.") from None
    if log.quiet or not log.console.is_terminal:
        datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
